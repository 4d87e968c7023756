"""`lake.py verify`: a changed byte of the data or the model in the store is found."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from core.hashing import file_sha256
from tests.support.lake_cli_helpers import REPO, commit_id, run_lake
from tests.support.project import Project, make_project
from utils import local_lakefs
from utils.identifiers import RunId, Sha256
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import LakeFS, LakePath
from versioning.lockfile import Lock, write_lock


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path / "project", images=12)


def corrupt_files(store: Path, *sha256s: str) -> None:
    """Change the first byte of stored contents in the embedded store."""
    for sha256 in sha256s:
        content = store / "content" / sha256
        if content.exists():
            content.chmod(0o600)
            content.write_bytes(bytes([content.read_bytes()[0] ^ 1]) + content.read_bytes()[1:])
        else:
            with sqlite3.connect(store / "lakefs.db") as db:
                (data,) = db.execute("SELECT data FROM blobs WHERE sha256=?", (sha256,)).fetchone()
                db.execute("UPDATE blobs SET data=? WHERE sha256=?", (bytes([data[0] ^ 1]) + data[1:], sha256))


def test_verify_checks_the_model_of_the_lock_file(project: Project) -> None:
    data = commit_id(run_lake(project, "push"))
    with local_lakefs.start(project.folder / ".lakefs") as server:
        store = LakeFS(server.endpoint, server.access_key_id, server.secret_access_key, REPO, "main")
        file = project.folder / "model.pth"
        file.write_bytes(b"a model")
        sha256 = file_sha256(file)
        model = store.publish({"model.pth": LocalFile(file, sha256)}, "models/", "model", {}, mirror=False).commit_id
    paths = LakePath(REPO, data, "data/"), LakePath(REPO, model, "models/model.pth")
    write_lock(project.folder, Lock(paths[0], Sha256("0" * 64), paths[1], Sha256(sha256), RunId("e" * 32)))
    printed = run_lake(project, "verify", "lock")
    assert f"{data}: 0 of" in printed and f"{model}: 0 of" in printed
    corrupt_files(project.folder / ".lakefs", sha256)
    printed = run_lake(project, "verify", "lock", code=1)
    assert f"{data}: 0 of" in printed and f"{model}: 1 of" in printed and "models/model.pth: expected" in printed


def test_verify_detects_a_changed_byte_in_the_store(project: Project) -> None:
    big = project.folder / "data/notes.bin"
    big.write_bytes(bytes(200_000))
    commit = commit_id(run_lake(project, "push"))
    assert "0 of" in run_lake(project, "verify", "main")
    store = project.folder / ".lakefs"
    content = next(path for path in (store / "content").rglob("*") if path.is_file())
    content.write_bytes(b"\1" + content.read_bytes()[1:])
    with sqlite3.connect(store / "lakefs.db") as db:  # small files are stored in the database
        sha256, data = db.execute("SELECT sha256, data FROM blobs WHERE data IS NOT NULL AND size > 500").fetchone()
        db.execute("UPDATE blobs SET data=? WHERE sha256=?", (data[:-1] + bytes([data[-1] ^ 1]), sha256))
    printed = run_lake(project, "verify", commit, code=1)
    assert (
        f"{commit}: 2 of" in printed
        and "data/notes.bin: expected" in printed
        and f"expected {sha256}, found" in printed
    )
