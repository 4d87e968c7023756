"""`lake.py trace`: each artifact leads to the whole chain, and a changed byte anywhere in it is reported."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from core.errors import AppError, UsageError
from lineage import chain, finder, predictions, trace
from tests.support import servers
from tests.support.lifecycle import NAME, REPO, Lifecycle
from tests.support.project import make_project
from tests.support.tampering import MODEL, TAMPERINGS, flipped_bit, replaced_content
from utils import local_lakefs, mlflow_utils
from utils.identifiers import Sha256
from utils.lakefs_utils import LakeFS, connect
from versioning.lockfile import Lock
from versioning.migrate import copy_history


@pytest.fixture(scope="module")
def lifecycle(tmp_path_factory: pytest.TempPathFactory) -> Lifecycle:
    """A registered run of modified code with predictions of each kind, an export and tags."""
    for package in ("av", "onnx", "onnxscript", "onnxruntime", "pycocotools"):
        pytest.importorskip(package)
    from tests.support.images import write_video

    lifecycle = Lifecycle(make_project(tmp_path_factory.mktemp("traced"), images=12))
    project, folder = lifecycle.project, lifecycle.project.folder
    lifecycle.train("clean", "--epochs", "1")
    with (folder / "config.py").open("a") as code:
        code.write("# changed\n")
    lifecycle.train("changed", "--epochs", "2")
    project.git("checkout", "--", "config.py")
    project.git("add", "lakefs.lock")
    project.git("commit", "--quiet", "-m", "result")
    project.git("tag", "v1.0-acc1")
    random = np.random.default_rng(0)
    (folder / "new").mkdir()
    for name in ("one", "two"):
        Image.fromarray(random.integers(0, 256, (40, 60, 3), np.uint8)).save(folder / f"new/{name}.png")
    write_video(folder / "clip.mp4", 3)
    extras = ("--extra", "probabilities", "areas", "coco", "polygons", "--engine", "onnxruntime")
    for script, *arguments in (
        ("register_model.py", "--run-id", lifecycle.runs["changed"]),
        ("infer.py", "--export", "onnx"),
        ("infer.py", "--split", "val"),
        ("infer.py", "--input", "new", "--output", "out", *extras),
        ("infer.py", "--input", "clip.mp4", "--output", "video"),
    ):
        lifecycle.run(script, script, *arguments)
        assert lifecycle.results[script].returncode == 0, lifecycle.results[script].stderr
    return lifecycle


@pytest.fixture
def lake(lifecycle: Lifecycle) -> Iterator[LakeFS]:
    with local_lakefs.start(lifecycle.project.folder / ".lakefs") as server:
        yield LakeFS(server.endpoint, server.access_key_id, server.secret_access_key, REPO, "main")


@pytest.fixture(autouse=True)
def project_root(lifecycle: Lifecycle, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (chain, finder, predictions):
        monkeypatch.setattr(module, "ROOT", lifecycle.project.folder)


def run_trace(lifecycle: Lifecycle, lake: LakeFS, target: str, capsys: pytest.CaptureFixture[str]) -> tuple[bool, str]:
    """Return whether the chain of the target is intact, and the report."""
    capsys.readouterr()
    intact = trace.trace(lifecycle.settings, lake, mlflow_utils.connect(lifecycle.settings), target)
    return intact, capsys.readouterr().out


def test_each_kind_of_target_leads_to_the_whole_chain(
    lifecycle: Lifecycle, lake: LakeFS, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, run = lifecycle.project.folder, lifecycle.project.mlflow().get_run(lifecycle.runs["changed"])
    tags, moved = run.data.tags, tmp_path / "moved.png"
    shutil.copy(folder / "out/one.png", moved)
    model = tags["lakefs_model_commit"]
    exported = f"models/exports/{tags['model_sha256']}/model.onnx"
    listing = folder / "data/predictions/predictions.json"
    mask = listing.parent / json.loads(listing.read_text())["images"][0]["mask"]
    files = ("model.pth", "metrics.json", "MLmodel")
    made = (
        *("predictions.json", "one.png", "one_overlay.jpg", "one.npz", "one_shapes.json"),
        *("areas.csv", "predictions_coco.json", "predictions_polygons.json"),
    )
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
        intact, report = run_trace(lifecycle, lake, target, capsys)
        assert intact, f"{target}\n{report}"
        assert all(name in report for name in names), f"{target}\n{report}"
        assert "with uncommitted changes (code/changes.patch)" in report
    intact, report = run_trace(lifecycle, lake, tags["lakefs_data_commit"], capsys)
    assert intact and all(run_id in report for run_id in lifecycle.runs.values()), "all runs on these data"


def test_unknown_targets_raise_usage_errors(
    lifecycle: Lifecycle, lake: LakeFS, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "foreign.png")
    for target, words in (
        ("nothing", "is not a file, run, version, commit or tag"),
        (str(tmp_path / "missing.png"), "missing.png: no such file"),
        ("missing.png", "missing.png: no such file"),
        (str(tmp_path), "directory without predictions"),
        (str(tmp_path / "foreign.png"), "no predictions.json in a directory above lists it"),
    ):
        with pytest.raises(UsageError, match=words):
            run_trace(lifecycle, lake, target, capsys)


def test_branch_of_git_and_lakefs_names_the_way_to_the_other(
    lifecycle: Lifecycle, lake: LakeFS, capsys: pytest.CaptureFixture[str]
) -> None:
    _, report = run_trace(lifecycle, lake, "main", capsys)
    assert f"main: of Git; for the branch of lakeFS with this name: lakefs://{REPO}/main/" in report
    _, report = run_trace(lifecycle, lake, "HEAD", capsys)
    assert "of lakeFS with this name" not in report


# --- one changed byte ---


@pytest.mark.parametrize("name", TAMPERINGS)
def test_a_changed_byte_or_value_is_reported(
    lifecycle: Lifecycle, lake: LakeFS, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    tampering = TAMPERINGS[name](lifecycle)
    with tampering.change:
        intact, report = run_trace(lifecycle, lake, tampering.target, capsys)
    assert not intact and tampering.fault in report, report
    assert run_trace(lifecycle, lake, tampering.target, capsys)[0]


def test_the_command_exits_with_1_for_a_changed_byte(lifecycle: Lifecycle) -> None:
    with flipped_bit(lifecycle.project.folder / "out/one.npz"):
        done = lifecycle.project.run("lake.py", "trace", "out/one.npz")
    assert done.returncode == 1 and "one.npz: SHA-256 expected" in done.stdout, done.stderr


# --- other faults ---


def test_a_record_without_checksum_or_with_another_version_is_broken(
    lifecycle: Lifecycle, lake: LakeFS, capsys: pytest.CaptureFixture[str]
) -> None:
    listing = lifecycle.project.folder / "out/predictions.json"
    with replaced_content(listing, listing.read_bytes().replace(b"content_sha256", b"content_sha255")):
        intact, report = run_trace(lifecycle, lake, str(listing), capsys)
    assert not intact and "predictions.json: has no content_sha256" in report
    with (
        replaced_content(listing, b"?" + listing.read_bytes()),
        pytest.raises(AppError, match="json: not a readable record"),
    ):
        run_trace(lifecycle, lake, str(listing), capsys)
    with replaced_content(listing, listing.read_bytes().replace(f"{NAME} v1".encode(), f"{NAME} v2".encode())):
        intact, report = run_trace(lifecycle, lake, str(listing), capsys)
    assert not intact and f"version: says {NAME} v2, but its run has: {NAME} v1" in report


def test_a_moved_input_file_is_not_a_fault(
    lifecycle: Lifecycle, lake: LakeFS, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = lifecycle.project.folder / "new/two.png"
    picture.rename(tmp_path / "two.png")
    try:
        intact, report = run_trace(lifecycle, lake, str(lifecycle.project.folder / "out"), capsys)
    finally:
        (tmp_path / "two.png").rename(picture)
    assert intact and "1 input file not found" in report, report


def test_a_mask_apart_from_its_listing_is_traced_by_its_png_text(
    lifecycle: Lifecycle, lake: LakeFS, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = tmp_path / "moved.png"
    shutil.copy(lifecycle.project.folder / "out/one.png", mask)
    with flipped_bit(mask, offset=-30), pytest.raises(AppError, match="not a readable PNG"):  # of its pixels
        run_trace(lifecycle, lake, str(mask), capsys)
    with Image.open(mask) as picture:
        text = PngImagePlugin.PngInfo()
        for key, value in picture.info.items():
            text.add_text(str(key), lifecycle.runs["clean"] if key == "run_id" else str(value))
        picture.save(mask, pnginfo=text)
    intact, report = run_trace(lifecycle, lake, str(mask), capsys)
    assert not intact and "model_sha256: says" in report


def test_an_export_used_for_predictions_must_be_named_by_the_run(
    lifecycle: Lifecycle, lake: LakeFS, capsys: pytest.CaptureFixture[str]
) -> None:
    client, run = lifecycle.project.mlflow(), lifecycle.runs["changed"]
    tags = client.get_run(run).data.tags
    names = ("lakefs_onnx_path", "onnx_sha256")
    for name in names:
        client.delete_tag(run, name)
        try:
            intact, report = run_trace(lifecycle, lake, str(lifecycle.project.folder / "out"), capsys)
        finally:
            client.set_tag(run, name, tags[name])
        assert not intact and f"the run has no tag {name}" in report
    for name in names:
        client.delete_tag(run, name)
    try:
        assert not run_trace(lifecycle, lake, str(lifecycle.project.folder / "out"), capsys)[0]
        assert run_trace(lifecycle, lake, str(lifecycle.project.folder / "data/predictions"), capsys)[0], (
            "predicted with torch"
        )
    finally:
        for name in names:
            client.set_tag(run, name, tags[name])


def test_a_changed_lock_contradicts_the_chain(
    lifecycle: Lifecycle, lake: LakeFS, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = finder._read_lock

    def changed(folder: Path, commit: str | None) -> Lock | None:
        lock = read(folder, commit)
        return lock and dataclasses.replace(lock, data_manifest_sha256=Sha256("1" * 64))

    monkeypatch.setattr(finder, "_read_lock", changed)
    intact, report = run_trace(lifecycle, lake, "v1.0-acc1", capsys)
    assert not intact and f"data_manifest_sha256: says {'1' * 64}" in report, report


def test_a_copy_on_another_server_is_intact(
    lifecycle: Lifecycle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The copy has other commit ids; records from before the copy name the old ones."""
    tags = lifecycle.project.mlflow().get_run(lifecycle.runs["changed"]).data.tags
    start = servers.real if servers.real_available() else servers.embedded
    with start(tmp_path) as server:
        there = dataclasses.replace(
            lifecycle.settings,
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
                intact, report = run_trace(lifecycle, copied, target, capsys)
                assert intact and lifecycle.runs["changed"] in report, f"{target}\n{report}"
