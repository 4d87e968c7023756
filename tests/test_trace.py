"""`lake.py trace`: every way in leads to the whole chain, and a byte that changed anywhere in it is found and named."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from core.errors import AppError, UsageError
from lineage import links, predictions
from lineage import trace as tracing
from tests import servers
from tests.life import NAME, REPO, Life
from tests.project import make_project
from utils import local_lakefs, mlflow_utils
from utils.lakefs_utils import LakeFS, connect
from versioning.lockfile import Lock
from versioning.migrate import copy_history

MODEL = f"{NAME}/1"


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Life:
    """A registered run of changed code, with all that can hang on it: predictions of each kind, an export, tags."""
    for package in ("av", "onnx", "onnxscript", "onnxruntime", "pycocotools"):
        pytest.importorskip(package)
    from tests.test_video import film

    life = Life(make_project(tmp_path_factory.mktemp("traced"), pictures=12))
    project, folder = life.project, life.project.folder
    life.train("clean", "--epochs", "1")
    with (folder / "config.py").open("a") as code:
        code.write("# changed\n")
    life.train("changed", "--epochs", "2")
    project.git("checkout", "--", "config.py")
    project.git("add", "lakefs.lock")
    project.git("commit", "--quiet", "-m", "result")
    project.git("tag", "v1.0-acc1")
    random = np.random.default_rng(0)
    (folder / "new").mkdir()
    for name in ("one", "two"):
        Image.fromarray(random.integers(0, 256, (40, 60, 3), np.uint8)).save(folder / f"new/{name}.png")
    film(folder / "clip.mp4", 3)
    extras = ("--extra", "probabilities", "areas", "coco", "--engine", "onnxruntime")
    for script, *arguments in (
        ("register_model.py", "--run-id", life.runs["changed"]),
        ("infer.py", "--export", "onnx"),
        ("infer.py", "--split", "val"),
        ("infer.py", "--input", "new", "--output", "out", *extras),
        ("infer.py", "--input", "clip.mp4", "--output", "video"),
    ):
        life.do(script, script, *arguments)
        assert life.said[script].returncode == 0, life.said[script].stderr
    return life


@pytest.fixture
def lake(life: Life) -> Iterator[LakeFS]:
    with local_lakefs.start(life.project.folder / ".lakefs") as server:
        yield LakeFS(server.endpoint, server.access_key_id, server.secret_access_key, REPO, "main")


@pytest.fixture(autouse=True)
def at_home(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (tracing, links, predictions):
        monkeypatch.setattr(module, "ROOT", life.project.folder)


def traced(life: Life, lake: LakeFS, target: str, capsys: pytest.CaptureFixture[str]) -> tuple[bool, str]:
    capsys.readouterr()
    whole = tracing.trace(life.settings, lake, mlflow_utils.connect(life.settings), target)
    return whole, capsys.readouterr().out


def test_every_way_in_leads_to_the_whole_chain(
    life: Life, lake: LakeFS, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, run = life.project.folder, life.project.mlflow().get_run(life.runs["changed"])
    tags, moved = run.data.tags, tmp_path / "moved.png"
    shutil.copy(folder / "out/one.png", moved)
    model = tags["lakefs_model_commit"]
    exported = f"models/exports/{tags['model_sha256']}/model.onnx"
    listing = folder / "data/predictions/predictions.json"
    mask = listing.parent / json.loads(listing.read_text())["images"][0]["mask"]
    files = ("model.pth", "metrics.json", "MLmodel")
    made = ("predictions.json", "one.png", "one_overlay.jpg", "one.npz", "areas.csv", "predictions_coco.json")
    ways = [
        *map(str, (listing, listing.parent, mask, moved, folder / "video", folder / exported)),
        *(str(folder / "out" / name) for name in made),
        *(str(folder / "models" / name) for name in files),
        *(str(folder / "video" / name) for name in ("clip_overlay.mp4", "clip_overlay.json")),
        *(run.info.run_id, MODEL, "champion", "v1", model, f"model-{NAME}-v1", "v1.0-acc1"),
        *(f"lakefs://{REPO}/{model}/models/model.pth", tags["lakefs_onnx_path"]),
    ]
    names = [run.info.run_id, model, tags["lakefs_data_commit"], tags["git_commit"], NAME, "metrics.json", "model.onnx"]
    for target in ways:
        whole, said = traced(life, lake, target, capsys)
        assert whole, f"{target}\n{said}"
        assert all(name in said for name in names), f"{target}\n{said}"
        assert "with uncommitted changes (code/changes.patch)" in said
    whole, said = traced(life, lake, tags["lakefs_data_commit"], capsys)
    assert whole and all(run_id in said for run_id in life.runs.values()), "all runs on these data"


def test_what_is_not_there_is_said(
    life: Life, lake: LakeFS, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "foreign.png")
    for target, words in (
        ("nothing", "is not a branch, tag or commit"),
        (str(tmp_path / "missing.png"), "missing.png: no such file"),
        ("missing.png", "missing.png: no such file"),
        (str(tmp_path), "a folder without predictions"),
        (str(tmp_path / "foreign.png"), "no predictions.json above it lists it"),
    ):
        with pytest.raises(UsageError, match=words):
            traced(life, lake, target, capsys)


# --- one byte of each link ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def written(path: Path, content: bytes) -> Iterator[None]:
    """The file with another content."""
    before, mode = path.read_bytes(), path.stat().st_mode
    path.chmod(0o644)
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)
        path.chmod(mode)


def flipped(path: Path, at: int = -1) -> AbstractContextManager[None]:
    """The file with one bit changed."""
    return written(path, _with_one_bit_changed(path.read_bytes(), at))


def _with_one_bit_changed(content: bytes, at: int) -> bytes:
    place = at % len(content)
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@contextlib.contextmanager
def stored(path: Path, place: str, change: Callable[[Any], Any], **where: object) -> Iterator[None]:
    """A SQLite database with another value at `place`, which is table.column."""
    table, column = place.split(".")
    condition = " AND ".join(f"{key}=?" for key in where)

    def put(value: object) -> None:
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            done = db.execute(f"UPDATE {table} SET {column}=? WHERE {condition}", (value, *where.values()))
            assert done.rowcount == 1

    with contextlib.closing(sqlite3.connect(path)) as db:
        (before,) = db.execute(f"SELECT {column} FROM {table} WHERE {condition}", tuple(where.values())).fetchone()
    put(change(before))
    try:
        yield
    finally:
        put(before)


def flipped_object(life: Life, sha256: str) -> AbstractContextManager[None]:
    """An object of the embedded store with one bit changed, wherever it lies."""
    store = life.project.folder / ".lakefs"
    if (store / "content" / sha256).exists():
        return flipped(store / "content" / sha256)
    return stored(store / "lakefs.db", "blobs.data", lambda data: _with_one_bit_changed(data, -3), sha256=sha256)


Broken = tuple[AbstractContextManager[None], str, str]  # the change, what is traced, what is said of it


def on_disk(name: str, target: str, words: str = "SHA-256 expected", at: int = -3) -> Callable[[Life], Broken]:
    """One bit of a file of the project."""

    def broken(life: Life) -> Broken:
        path = life.project.folder / name
        return flipped(path, at), str(life.project.folder / target), f"{path}: {words}"

    return broken


def in_lakefs(name: str) -> Callable[[Life], Broken]:
    """One bit of an object of the model's commit or the export's, or of the first one of the data."""

    def broken(life: Life) -> Broken:
        run = life.project.mlflow().get_run(life.runs["changed"])
        params, tags = run.data.params, run.data.tags
        place = {"model.onnx": tags["lakefs_onnx_path"], "masks/": params["lakefs_data_path"] + "masks/"}
        uri = place.get(name, params["lakefs_model_path"].replace("model.pth", name))
        with connect(life.settings) as lake:
            _, _, repo, ref, path = uri.split("/", 4)
            file = next(lake.objects(ref, path, repo))
        assert file.sha256
        return flipped_object(life, file.sha256), MODEL, f"{file.path}: "

    return broken


def in_mlflow(table: str, key: str, words: str, **more: object) -> Callable[[Life], Broken]:
    """A value that MLflow has of the run, or of its version."""

    def broken(life: Life) -> Broken:
        run = life.runs["changed"]
        owner = {"name": NAME, "version": 1} if table == "model_version_tags" else {"run_uuid": run}

        def change(value: Any) -> Any:
            return value + 0.001 if isinstance(value, float) else value[:-1] + chr(ord(value[-1]) ^ 1)

        database = life.project.folder / "mlflow.db"
        return stored(database, f"{table}.value", change, key=key, **owner, **more), MODEL, words.format(run=run)

    return broken


def curve(life: Life) -> Broken:
    """The loss that the best epoch has in MLflow's curves."""
    best = int(life.project.mlflow().get_run(life.runs["changed"]).data.metrics["best_epoch"])
    return in_mlflow("metrics", "val_loss", "curves {run}: val_loss: says", step=best)(life)


def patch_of(life: Life) -> Broken:
    """The changes of the code that a run has kept."""
    run = life.project.mlflow().get_run(life.runs["changed"])
    place = Path(urlsplit(run.info.artifact_uri).path) / "code/changes.patch"
    return flipped(place), MODEL, f"code {run.data.tags['git_commit']}: code/changes.patch: SHA-256 expected"


def object_of_git(life: Life) -> Broken:
    """A file of the code."""
    commit = life.project.mlflow().get_run(life.runs["changed"]).data.tags["git_commit"]
    blob = life.project.git("rev-parse", f"{commit}:config.py")
    return flipped(life.project.folder / ".git/objects" / blob[:2] / blob[2:], at=-20), MODEL, f"code {commit}: "


def tag_in_lakefs(life: Life) -> Broken:
    """The tag by which lakeFS names the model."""
    data = life.project.mlflow().get_run(life.runs["changed"]).data.tags["lakefs_data_commit"]
    store, name = life.project.folder / ".lakefs/lakefs.db", f"model-{NAME}-v1"
    return (
        stored(store, "refs.commit_id", lambda _: data, repo=REPO, id=name),
        MODEL,
        f"the lakeFS tag {name} is {data}",
    )


BREAKS: dict[str, Callable[[Life], Broken]] = {
    "mask": on_disk("out/one.png", "out"),
    "mask, itself traced": on_disk("out/one.png", "out/one.png"),
    "overlay": on_disk("out/one_overlay.jpg", "out"),
    "probabilities": on_disk("out/one.npz", "out"),
    "areas": on_disk("out/areas.csv", "out"),
    "COCO": on_disk("out/predictions_coco.json", "out/predictions_coco.json"),
    "input": on_disk("new/two.png", "out"),
    "listing": on_disk("out/predictions.json", "out", "changed since it was written", at=60),
    "video": on_disk("video/clip_overlay.mp4", "video/clip_overlay.mp4"),
    "record of a video": on_disk("video/clip_overlay.json", "video", "changed since it was written", at=60),
    "input video": on_disk("clip.mp4", "video"),
    "local model": on_disk("models/model.pth", "models/model.pth", "model_sha256: says"),
    "local figures": on_disk("models/metrics.json", "models/metrics.json", "metrics.json_sha256: says", at=5),
    "model": in_lakefs("model.pth"),
    "figures": in_lakefs("metrics.json"),
    "MLmodel": in_lakefs("MLmodel"),
    "export": in_lakefs("model.onnx"),
    "data": in_lakefs("masks/"),
    "metric": in_mlflow("latest_metrics", "best_val_miou", "run {run}: best_val_miou: says"),
    "metric in a curve": curve,
    "hash": in_mlflow("tags", "model_sha256", "run {run}: model_sha256: says"),
    "hash of the data": in_mlflow("tags", "data_manifest_sha256", "run {run}: data_manifest_sha256: says"),
    "code": in_mlflow("tags", "git_commit", "run {run}: git_commit: says"),
    "place of the model": in_mlflow("params", "lakefs_model_path", "lakefs_model_path: says"),
    "hash of the export": in_mlflow("tags", "onnx_sha256", "run {run}: onnx_sha256: says"),
    "place of the export": in_mlflow("tags", "lakefs_onnx_path", "model.onny: not in lakeFS"),
    "metric of the version": in_mlflow(
        "model_version_tags", "metric.best_val_accuracy", f"version {NAME} v1: best_val_accuracy: says"
    ),
    "patch": patch_of,
    "object of Git": object_of_git,
    "tag in lakeFS": tag_in_lakefs,
}


@pytest.mark.parametrize("name", BREAKS)
def test_one_byte_of_a_link_is_found_and_named(
    life: Life, lake: LakeFS, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    change, target, words = BREAKS[name](life)
    with change:
        whole, said = traced(life, lake, target, capsys)
    assert not whole and words in said, said
    assert traced(life, lake, target, capsys)[0]


def test_a_changed_byte_ends_with_exit_code_1(life: Life) -> None:
    with flipped(life.project.folder / "out/one.npz"):
        done = life.project.run("lake.py", "trace", "out/one.npz")
    assert done.returncode == 1 and "one.npz: SHA-256 expected" in done.stdout, done.stderr


# --- what is no byte of a link --------------------------------------------------------------------------------------


def test_a_record_without_its_hash_is_broken(life: Life, lake: LakeFS, capsys: pytest.CaptureFixture[str]) -> None:
    listing = life.project.folder / "out/predictions.json"
    with written(listing, listing.read_bytes().replace(b"content_sha256", b"content_sha255")):
        whole, said = traced(life, lake, str(listing), capsys)
    assert not whole and "predictions.json: has no content_sha256" in said
    with written(listing, b"?" + listing.read_bytes()), pytest.raises(AppError, match="json: not a readable record"):
        traced(life, lake, str(listing), capsys)
    with written(listing, listing.read_bytes().replace(f"{NAME} v1".encode(), f"{NAME} v2".encode())):
        whole, said = traced(life, lake, str(listing), capsys)
    assert not whole and f"version: says {NAME} v2, its run's: {NAME} v1" in said


def test_an_input_that_was_moved_away_is_no_fault(
    life: Life, lake: LakeFS, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = life.project.folder / "new/two.png"
    picture.rename(tmp_path / "two.png")
    try:
        whole, said = traced(life, lake, str(life.project.folder / "out"), capsys)
    finally:
        (tmp_path / "two.png").rename(picture)
    assert whole and "1 inputs moved away" in said, said


def test_a_mask_away_from_its_listing_is_traced_by_its_text(
    life: Life, lake: LakeFS, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = tmp_path / "moved.png"
    shutil.copy(life.project.folder / "out/one.png", mask)
    with flipped(mask, at=-30), pytest.raises(AppError, match="not a readable PNG"):  # of its pixels
        traced(life, lake, str(mask), capsys)
    with Image.open(mask) as picture:
        text = PngImagePlugin.PngInfo()
        for key, value in picture.info.items():
            text.add_text(str(key), life.runs["clean"] if key == "run_id" else str(value))
        picture.save(mask, pnginfo=text)
    whole, said = traced(life, lake, str(mask), capsys)
    assert not whole and "model_sha256: says" in said


def test_an_export_that_was_used_must_be_named_by_the_run(
    life: Life, lake: LakeFS, capsys: pytest.CaptureFixture[str]
) -> None:
    client, run = life.project.mlflow(), life.runs["changed"]
    tags = client.get_run(run).data.tags
    names = ("lakefs_onnx_path", "onnx_sha256")
    for name in names:
        client.delete_tag(run, name)
        try:
            whole, said = traced(life, lake, str(life.project.folder / "out"), capsys)
        finally:
            client.set_tag(run, name, tags[name])
        assert not whole and "the run has no tag lakefs_onnx_path, or none onnx_sha256" in said
    for name in names:
        client.delete_tag(run, name)
    try:
        assert not traced(life, lake, str(life.project.folder / "out"), capsys)[0]
        assert traced(life, lake, str(life.project.folder / "data/predictions"), capsys)[0], "made by torch"
    finally:
        for name in names:
            client.set_tag(run, name, tags[name])


def test_a_changed_lock(
    life: Life, lake: LakeFS, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = tracing._lock_at

    def changed(folder: Path, commit: str | None) -> Lock | None:
        lock = read(folder, commit)
        return lock and dataclasses.replace(lock, data_manifest_sha256="1" * 64)

    monkeypatch.setattr(tracing, "_lock_at", changed)
    whole, said = traced(life, lake, "v1.0-acc1", capsys)
    assert not whole and f"data_manifest_sha256: says {'1' * 64}" in said, said


def test_the_copy_on_another_server_is_as_sound(life: Life, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has other commit ids; all that was written before the copy names the old ones."""
    tags = life.project.mlflow().get_run(life.runs["changed"]).data.tags
    start = servers.real if servers.real_available() else servers.embedded
    with start(tmp_path) as server:
        there = dataclasses.replace(
            life.settings,
            lakefs_access_key_id=server.access_key_id,
            lakefs_secret_access_key=server.secret_access_key,
            lakefs_storage_namespace=server.storage_namespace,
        )
        copy_history(there, server.endpoint)
        with connect(dataclasses.replace(there, lakefs_endpoint=server.endpoint)) as copied:
            old = tags["lakefs_model_commit"]
            new = copied.resolve(old)
            assert new != old
            for target in (MODEL, "v1.0-acc1", old, new, f"model-{NAME}-v1", tags["lakefs_data_commit"]):
                whole, said = traced(life, copied, target, capsys)
                assert whole and life.runs["changed"] in said, f"{target}\n{said}"
