"""A checkout that cannot be written: what reads works, what writes says in one line what must be writable."""

from __future__ import annotations

import dataclasses
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from config import Settings
from core import files
from core.errors import AppError
from core.files import safe_join
from tests.support.clones import Clone
from tests.support.project import Project
from tests.support.read_only import Outcome, run_read_only
from utils import mlflow_local, mlflow_utils
from utils.lakefs_utils import LakeFS, connect
from utils.local_lakefs import database
from versioning import status
from versioning.versions import find_data

READING = {
    "status": ("lake.py", "status"),
    "log": ("lake.py", "log"),
    "diff": ("lake.py", "diff", "main~1", "main"),
    "branches": ("lake.py", "branches"),
    "trace": ("lake.py", "trace", "models/model.pth"),
    "verify": ("lake.py", "verify"),
    "list": ("register_model.py", "--list"),
    "check": ("train.py", "--check-only"),
    "predict": ("infer.py", "--input", "data/images", "--output", "OUT/images"),
    "predict split": ("infer.py", "--split", "val", "--output", "OUT/val"),
}
# Command -> what must be writable.
WRITING = {
    "train": (("train.py", "--smoke"), "mlflow.db"),
    "push": (("lake.py", "push", "--replace"), ".lakefs"),
    "tag": (("lake.py", "tag", "v9"), ".lakefs"),
    "pull": (("lake.py", "pull", "main~1", "--force"), "data"),
    "register": (("register_model.py",), "mlflow.db"),
    "predict": (("infer.py", "--input", "data/images"), "data/predictions"),
    "export": (("infer.py", "--export", "onnx"), "mlflow.db"),
}


@pytest.fixture(scope="module")
def outcomes(once_trained: Project, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Run every command in a copy of a trained project, moved to another place, that cannot be written."""
    folder = tmp_path_factory.mktemp("read-only") / "project"
    shutil.copytree(once_trained.folder, folder, symlinks=True)
    shutil.rmtree(folder / ".lakefs/cache", ignore_errors=True)
    out = tmp_path_factory.mktemp("out")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    named = {**{f"read {key}": command for key, command in READING.items()}} | {
        f"write {key}": command for key, (command, _) in WRITING.items()
    }
    commands = [
        [word.replace("OUT", str(out)).replace("data/images", str(folder / "data/images")) for word in command]
        for command in named.values()
    ]
    commands = [[str(folder / word) if word == "models/model.pth" else word for word in each] for each in commands]
    (folder / "data/images/new.txt").write_text("so that a push has something to upload")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    found = run_read_only(Project(folder, once_trained.env), commands, out)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before, "nothing was written"
    return dict(zip(named, found, strict=True))


@pytest.mark.parametrize("name", READING)
def test_commands_that_read_work(outcomes: dict[str, Outcome], name: str) -> None:
    done = outcomes[f"read {name}"]
    expected = 1 if name == "status" else 0  # the directory has a file that the branch has not
    assert done.code == expected and "error" not in done.error, done
    assert "Traceback" not in done.error


@pytest.mark.parametrize("name", WRITING)
def test_commands_that_write_state_what_must_be_writable(outcomes: dict[str, Outcome], name: str) -> None:
    done, place = outcomes[f"write {name}"], WRITING[name][1]
    errors = [line for line in done.error.splitlines() if not line.startswith("warning: ")]
    assert done.code in (1, 2) and len(errors) == 1, done
    assert errors[0].startswith("error: ") and place in errors[0], errors
    assert "cannot be" in errors[0] and "--debug" not in done.error, errors


@pytest.fixture
def unwritable(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Return a function that makes a directory unwritable for the code of this process, which may be root."""

    def lock(folder: Path) -> None:
        for module in (mlflow_local, database):
            monkeypatch.setattr(module, "is_writable", lambda path: not path.is_relative_to(folder))
        monkeypatch.setattr("utils.local_lakefs.store.is_writable", lambda path: not path.is_relative_to(folder))

    return lock


def test_missing_store_in_a_read_only_place_is_named(tmp_path: Path, unwritable: Callable[[Path], None]) -> None:
    unwritable(tmp_path)
    settings, words = Settings(lakefs_local_dir=tmp_path / ".lakefs"), r"lakefs\.db: missing or not readable.*writable"
    with pytest.raises(AppError, match=words), connect(settings):
        pass


def test_store_of_a_killed_process_is_read_with_its_log(tmp_path: Path, unwritable: Callable[[Path], None]) -> None:
    folder = tmp_path / ".lakefs"
    with connect(Settings(lakefs_local_dir=folder), create=True) as lake:
        killed = tmp_path / "killed"
        shutil.copytree(folder, killed)  # with the log: the last commits are not in the database itself yet
        head = lake.head()
    assert (killed / "lakefs.db-wal").stat().st_size
    unwritable(tmp_path)
    with connect(Settings(lakefs_local_dir=killed)) as lake:
        assert lake.head() == head
        words = "killed cannot be written by this user: make it writable"
        with pytest.raises(AppError, match=words), lake.convert_errors("a branch"):
            lake.create_branch("other", "main")


def test_reading_from_a_server_needs_no_writable_cache(
    lake: LakeFS, lake_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(lake_settings, data_dir=tmp_path / "data", lakefs_local_dir=tmp_path / "l")
    clone = Clone(settings, lake)
    clone.write(na="one", nb="two")
    clone.push()
    place = tmp_path / "read-only/.lakefs"
    monkeypatch.setattr(files, "is_writable", lambda path: not path.is_relative_to(place.parent))
    settings = dataclasses.replace(settings, lakefs_local_dir=place)
    assert status.status(settings, lake)
    assert (
        safe_join(lake.download(find_data(lake, "main"), settings.cache_dir), "data/images/a.png").read_text() == "one"
    )
    assert not place.parent.exists()


def test_moved_read_only_project_finds_its_artifacts(
    tmp_path: Path, mlflow_database: Path, unwritable: Callable[[Path], None]
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    shutil.copy(mlflow_database, old)
    settings = Settings(mlflow_tracking_uri=f"sqlite:///{old / 'mlflow.db'}")
    client = mlflow_utils.connect(settings)
    run_id = str(client.create_run(mlflow_utils.get_or_create_experiment(client, settings)).info.run_id)
    (tmp_path / "note").mkdir()
    (tmp_path / "note/note.txt").write_text("text")
    mlflow_utils.log_artifacts(client, settings, run_id, tmp_path / "note")
    old.rename(new)
    content = (new / "mlflow.db").read_bytes()
    unwritable(new)
    settings = Settings(mlflow_tracking_uri=f"sqlite:///{new / 'mlflow.db'}")
    with pytest.raises(AppError, match=r"mlflow\.db cannot be written by this user"):
        mlflow_utils.connect(settings)
    client = mlflow_utils.connect(settings, read_only=True)
    assert mlflow_utils.list_artifacts(client, settings, run_id) == {"note.txt"}
    assert (new / "mlflow.db").read_bytes() == content and not list(new.glob("mlflow.db?*"))
    with closing(sqlite3.connect(new / "mlflow.db")) as db:
        assert str(old) in db.execute("SELECT artifact_uri FROM runs").fetchone()[0]
