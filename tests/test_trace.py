"""`lake.py trace`: every way in leads to the whole chain, and a byte that changed anywhere in it is found and named."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.life import NAME, REPO, Life
from utils import local_lakefs, mlflow_utils
from utils import trace as tracing
from utils.console import UsageError
from utils.lakefs_utils import LakeFS
from utils.lock import Lock


@pytest.fixture
def lake(life: Life) -> Iterator[LakeFS]:
    with local_lakefs.start(life.project.folder / ".lakefs") as server:
        yield LakeFS(server.endpoint, server.access_key_id, server.secret_access_key, REPO, "main")


@pytest.fixture(autouse=True)
def at_home(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "ROOT", life.project.folder)


def traced(life: Life, lake: LakeFS, target: str, capsys: pytest.CaptureFixture[str]) -> tuple[bool, str]:
    capsys.readouterr()
    whole = tracing.trace(life.settings, lake, mlflow_utils.connect(life.settings), target)
    return whole, capsys.readouterr().out


def test_every_way_in_leads_to_the_whole_chain(life: Life, lake: LakeFS, capsys: pytest.CaptureFixture[str]) -> None:
    project, client = life.project, life.project.mlflow()
    first, better = client.get_run(life.runs["first"]), client.get_run(life.runs["better"])
    project.git("add", "lakefs.lock")
    project.git("commit", "--quiet", "-m", "result")
    project.git("tag", "v1.0-acc1")
    listing = project.folder / "data/predictions/predictions.json"
    mask = listing.parent / json.loads(listing.read_text())["images"][0]["mask"]
    model = better.data.tags["lakefs_model_commit"]
    ways = {
        str(listing): first,
        str(listing.parent): first,
        str(mask): first,
        str(project.folder / "models/model.pth"): better,
        better.info.run_id: better,
        f"{NAME}/3": better,
        "champion": first,
        model: better,
        f"lakefs://{REPO}/{model}/models/model.pth": better,
        f"model-{NAME}-v3": better,
        "v1.0-acc1": better,
    }
    for target, run in ways.items():
        whole, said = traced(life, lake, target, capsys)
        assert whole, f"{target}\n{said}"
        tags = run.data.tags
        names = [run.info.run_id, tags["lakefs_model_commit"], tags["lakefs_data_commit"], tags["git_commit"], NAME]
        assert all(name in said for name in names), f"{target}\n{said}"
    data = better.data.tags["lakefs_data_commit"]
    whole, said = traced(life, lake, data, capsys)
    assert whole and all(run_id in said for run_id in life.runs.values()), "all runs on these data"
    with pytest.raises(UsageError, match="is no branch, tag or commit"):
        traced(life, lake, "nothing", capsys)


@contextlib.contextmanager
def flipped(path: Path, at: int = -1) -> Iterator[None]:
    """The file with one bit changed."""
    content = path.read_bytes()
    mode = path.stat().st_mode
    path.chmod(0o644)
    place = len(content) + at
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    try:
        yield
    finally:
        path.write_bytes(content)
        path.chmod(mode)


@contextlib.contextmanager
def tagged(life: Life, run: str, key: str, value: str) -> Iterator[None]:
    """The run with another value of a tag."""
    client = life.project.mlflow()
    before = client.get_run(run).data.tags[key]
    client.set_tag(run, key, value)
    try:
        yield
    finally:
        client.set_tag(run, key, before)


def test_a_changed_byte_in_a_prediction(life: Life, lake: LakeFS, capsys: pytest.CaptureFixture[str]) -> None:
    listing = life.project.folder / "data/predictions/predictions.json"
    record = json.loads(listing.read_text())["images"][0]
    for key in ("mask", "overlay"):
        file = listing.parent / record[key]
        with flipped(file):
            whole, said = traced(life, lake, str(listing), capsys)
            assert not whole and f"{file}: SHA-256 expected" in said, said
    text = listing.read_text()
    listing.write_text(text.replace('"height": 128', '"height": 129', 1))
    whole, said = traced(life, lake, str(listing), capsys)
    assert not whole and "predictions.json: changed since it was written" in said
    listing.write_text(text.replace(life.runs["first"], life.runs["better"]))
    whole, said = traced(life, lake, str(listing), capsys)
    assert not whole and "model_sha256: says" in said
    listing.write_text(text)
    assert traced(life, lake, str(listing), capsys)[0]


def test_a_changed_byte_in_lakefs(life: Life, lake: LakeFS, capsys: pytest.CaptureFixture[str]) -> None:
    run = life.project.mlflow().get_run(life.runs["better"])
    store = life.project.folder / ".lakefs"
    sha256 = run.data.tags["model_sha256"]
    with flipped(store / "content" / sha256):
        whole, said = traced(life, lake, f"{NAME}/3", capsys)
        assert not whole and f"models/model.pth: SHA-256 expected {sha256}" in said, said
    mask = next(f for f in lake.objects(run.data.tags["lakefs_data_commit"], "data/masks/"))
    with sqlite3.connect(store / "lakefs.db") as db:
        (content,) = db.execute("SELECT data FROM blobs WHERE sha256=?", (mask.sha256,)).fetchone()
        db.execute("UPDATE blobs SET data=? WHERE sha256=?", (content[:-1] + bytes([content[-1] ^ 1]), mask.sha256))
    try:
        whole, said = traced(life, lake, "champion", capsys)
        assert not whole and f"{mask.path}: expected {mask.sha256}" in said, said
    finally:
        with sqlite3.connect(store / "lakefs.db") as db:
            db.execute("UPDATE blobs SET data=? WHERE sha256=?", (content, mask.sha256))
    assert traced(life, lake, "champion", capsys)[0]


def test_a_changed_record_in_mlflow_git_or_the_lock(
    life: Life, lake: LakeFS, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = life.runs["better"]
    for key in ("model_sha256", "data_manifest_sha256", "git_commit"):
        with tagged(life, run, key, "0" * 64):
            whole, said = traced(life, lake, f"{NAME}/3", capsys)
            assert not whole and f"run {run}: {key}: says {'0' * 64}" in said, said
    model = life.project.folder / "models/model.pth"
    with flipped(model):
        whole, said = traced(life, lake, str(model), capsys)
        assert not whole and f"model file {model}: model_sha256: says" in said, said

    read = tracing._lock_at

    def changed(folder: Path, commit: str | None) -> Lock | None:
        lock = read(folder, commit)
        return lock and Lock(lock.data, "1" * 64, lock.model, lock.model_sha256, lock.run_id)

    with monkeypatch.context() as patch:
        patch.setattr(tracing, "_lock_at", changed)
        whole, said = traced(life, lake, "v1.0-acc1", capsys)
        assert not whole and f"data_manifest_sha256: says {'1' * 64}" in said, said

    commit = life.project.mlflow().get_run(run).data.tags["git_commit"]
    blob = life.project.git("rev-parse", f"{commit}:config.py")
    stored = life.project.folder / ".git/objects" / blob[:2] / blob[2:]
    with flipped(stored, at=-20):
        whole, said = traced(life, lake, f"{NAME}/3", capsys)
        assert not whole and f"code {commit}:" in said and blob in said, said
    assert traced(life, lake, f"{NAME}/3", capsys)[0]
