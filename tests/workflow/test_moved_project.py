"""A project that is moved, copied or mounted at another path, and MLflow databases that cannot be used as they are."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import config
from config import Settings
from core.errors import AppError, UsageError
from lineage.chain import Chain
from train.tracking import environment
from utils import mlflow_local, mlflow_utils
from utils.lakefs_utils import LakeFS
from utils.local_lakefs.database import explain_store_errors

FILES = ("settings.json", "packages.txt", "environment.json")


def settings_of(project: Path) -> Settings:
    return Settings(mlflow_tracking_uri=f"sqlite:///{project / 'mlflow.db'}", mlflow_experiment="experiment")


def record_run(project: Path) -> str:
    """Record a finished run with its artifacts; return its id."""
    settings = settings_of(project)
    client = mlflow_utils.connect(settings)
    tags = {environment.PATCH_TAG: "clean"}
    run_id = str(client.create_run(mlflow_utils.get_or_create_experiment(client, settings), tags=tags).info.run_id)
    source = project / "recorded"
    (source / "code").mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (source / "code" / name).write_text(run_id)
    (source / "report.html").write_text(run_id)
    mlflow_utils.log_artifacts(client, settings, run_id, source)
    client.set_terminated(run_id)
    return run_id


def read_artifact(project: Path, run_id: str, folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    settings = settings_of(project)
    client = mlflow_utils.connect(settings)
    return mlflow_utils.download_artifacts(client, settings, run_id, "code/settings.json", str(folder)).read_text()


def places(project: Path) -> set[str]:
    """Return every place of artifacts that the database names, of experiments of this project."""
    with closing(sqlite3.connect(project / "mlflow.db")) as db:
        found = db.execute("SELECT artifact_location FROM experiments WHERE name = 'experiment'").fetchall()
        found += db.execute("SELECT artifact_uri FROM runs").fetchall()
    return {str(row[0]) for row in found}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> tuple[Path, str]:
    """A directory with a database and the artifacts of a run; only copies of it are changed."""
    project = tmp_path_factory.mktemp("original") / "[a] 사진 project"
    project.mkdir()
    shutil.copy(mlflow_database, project)
    return project, record_run(project)


@pytest.fixture
def original(recorded: tuple[Path, str], tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A project of its own for the test; its database names its own path."""
    project, run_id = recorded
    target = tmp_path / project.name
    shutil.copytree(project, target)
    mlflow_utils.connect(settings_of(target))
    yield target, run_id


def test_moved_project_finds_its_artifacts_and_writes_beside_its_database(
    original: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, run_id = original
    moved = tmp_path / "moved"
    os.rename(project, moved)
    lines: list[str] = []
    monkeypatch.setattr(mlflow_local, "notify", lines.append)
    assert read_artifact(moved, run_id, tmp_path / "out") == run_id
    assert len(lines) == 1 and str(moved / "mlartifacts") in lines[0] and str(project) in lines[0]
    new = record_run(moved)
    assert len(lines) == 1, "migrated once"
    assert (moved / "mlartifacts" / new / "artifacts/code/settings.json").is_file()
    assert not project.exists(), "the old place is not made again"
    assert all(place.startswith((moved / "mlartifacts").as_uri()) for place in places(moved))
    moved_again = tmp_path / "again"
    os.rename(moved, moved_again)
    assert read_artifact(moved_again, new, tmp_path / "out") == new


def test_runs_of_a_copy_write_into_the_copy(original: tuple[Path, str], tmp_path: Path) -> None:
    project, run_id = original
    before = sorted(project.rglob("*")), (project / "mlflow.db").read_bytes()
    copy = tmp_path / "copy"
    shutil.copytree(project, copy)
    new = record_run(copy)
    assert (copy / "mlartifacts" / new / "artifacts/report.html").is_file()
    assert read_artifact(copy, run_id, tmp_path / "out") == run_id
    assert (sorted(project.rglob("*")), (project / "mlflow.db").read_bytes()) == before


def test_copy_without_artifacts_writes_into_the_copy(original: tuple[Path, str], tmp_path: Path) -> None:
    project, _ = original
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(project / "mlflow.db", copy)
    new = record_run(copy)
    assert (copy / "mlartifacts" / new).is_dir() and not (project / "mlartifacts" / new).exists()


def test_project_of_another_user_is_used_from_its_new_place(original: tuple[Path, str], tmp_path: Path) -> None:
    project, run_id = original
    locked = tmp_path / "locked"
    locked.mkdir()
    shutil.move(project, locked / "project")
    mlflow_utils.connect(settings_of(locked / "project"))
    mine = tmp_path / "mine"
    shutil.copytree(locked / "project", mine)
    (locked / "project/mlflow.db").unlink()  # a test that runs as root cannot lock it: it is as good as not there
    shutil.rmtree(locked / "project/mlartifacts")
    assert read_artifact(mine, run_id, tmp_path / "out") == run_id
    assert record_run(mine) and not (locked / "project/mlartifacts").exists()


def test_process_with_another_path_of_the_directory_does_not_redirect_a_run(
    original: tuple[Path, str], tmp_path: Path
) -> None:
    project, run_id = original
    settings = settings_of(project)
    client = mlflow_utils.connect(settings)
    with closing(sqlite3.connect(project / "mlflow.db")) as db, db:  # a container has entered its own path
        own = (project / "mlartifacts").as_uri()
        db.execute("UPDATE runs SET artifact_uri = replace(artifact_uri, ?, 'file:///workspace/mlartifacts')", (own,))
    (tmp_path / "new").mkdir()
    (tmp_path / "new/late.txt").write_text("late")
    mlflow_utils.log_artifacts(client, settings, run_id, tmp_path / "new")
    assert (project / "mlartifacts" / run_id / "artifacts/late.txt").is_file()
    assert not Path("/workspace").exists()


def test_place_that_somebody_chose_is_kept(original: tuple[Path, str], tmp_path: Path) -> None:
    project, _ = original
    disk = tmp_path / "disk"
    for name, place in (("other", disk / "mlartifacts"), ("third", disk / "elsewhere"), ("s3", None)):
        if place is not None:
            place.mkdir(parents=True)
        client = mlflow_utils.connect(settings_of(project))
        client.create_experiment(name, artifact_location=place.as_uri() if place else "s3://bucket/mlartifacts")
    mlflow_utils.connect(settings_of(project))
    with closing(sqlite3.connect(project / "mlflow.db")) as db:
        found = dict(db.execute("SELECT name, artifact_location FROM experiments").fetchall())
    assert found["other"] == (disk / "mlartifacts").as_uri()
    assert found["third"] == (disk / "elsewhere").as_uri() and found["s3"] == "s3://bucket/mlartifacts"


def test_directories_of_experiments_that_mlflow_created_move_too(original: tuple[Path, str], tmp_path: Path) -> None:
    project, run_id = original
    old = tmp_path / "gone/mlruns/1"
    with closing(sqlite3.connect(project / "mlflow.db")) as db, db:
        own = (project / "mlartifacts").as_uri()
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            db.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (own, old.as_uri()))
    (project / "mlruns").mkdir()
    os.rename(project / "mlartifacts", project / "mlruns/1")
    assert read_artifact(project, run_id, tmp_path / "out") == run_id
    assert all(place.startswith((project / "mlruns/1").as_uri()) for place in places(project))


def test_trace_reports_missing_artifacts_as_a_broken_link(original: tuple[Path, str], lake: LakeFS) -> None:
    project, run_id = original
    client = mlflow_utils.connect(settings_of(project))
    chain = Chain(settings_of(project), lake, client)
    assert chain.artifacts(client.get_run(run_id)).faults == []
    artifacts = project / "mlartifacts" / run_id / "artifacts"
    (artifacts / "code/settings.json").unlink()
    (artifacts / "report.html").unlink()
    (fault,) = chain.artifacts(client.get_run(run_id)).faults
    assert "code/settings.json, report.html" in fault and str(run_id) in fault
    shutil.rmtree(project / "mlartifacts")
    (fault,) = chain.artifacts(client.get_run(run_id)).faults
    assert all(f"code/{name}" in fault for name in FILES)


# --- databases ---------------------------------------------------------------------------------------------


def set_revision(project: Path, revision: str) -> None:
    with closing(sqlite3.connect(project / "mlflow.db")) as db, db:
        db.execute("UPDATE alembic_version SET version_num = ?", (revision,))


@pytest.mark.parametrize("lacks_a_table", [False, True])
def test_database_of_a_newer_mlflow_is_named_with_the_fix(original: tuple[Path, str], lacks_a_table: bool) -> None:
    project, _ = original
    set_revision(project, "ffff0123abcd")
    if lacks_a_table:
        with closing(sqlite3.connect(project / "mlflow.db")) as db, db:
            db.execute("DROP TABLE input_tags")
    before = (project / "mlflow.db").read_bytes()
    with pytest.raises(AppError, match=r"newer MLflow.*pip install --upgrade mlflow") as caught:
        mlflow_utils.connect(settings_of(project))
    assert "\n" not in str(caught.value) and "<" not in str(caught.value)
    assert (project / "mlflow.db").read_bytes() == before


def test_database_of_an_older_mlflow_is_named_with_the_whole_command(
    recorded: tuple[Path, str], tmp_path: Path
) -> None:
    project = tmp_path / "old"  # not opened yet: MLflow checks a database once per process
    project.mkdir()
    shutil.copy(recorded[0] / "mlflow.db", project)
    set_revision(project, "451aebb31d03")  # of MLflow 1.0
    with pytest.raises(
        AppError, match=f"older MLflow.*mlflow db upgrade sqlite:///{re.escape(str(project))}/mlflow.db"
    ):
        mlflow_utils.connect(settings_of(project))


@pytest.mark.parametrize("newer", [True, False])
def test_database_of_a_server_is_explained_too(newer: bool) -> None:
    found = "ffff0123abcd" if newer else "451aebb31d03"
    message = f"Detected out-of-date database schema (found version {found}, but expected 1234)"
    from mlflow.exceptions import MlflowException

    words = "newer MLflow" if newer else "mlflow db upgrade postgresql://db.example/mlflow"
    with (
        pytest.raises(AppError, match=words) as caught,
        mlflow_local.explain_database_errors("postgresql://me:pw@db.example/mlflow"),
    ):
        raise MlflowException(message)
    assert "pw" not in str(caught.value)


def test_damaged_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database" * 100)
    with pytest.raises(AppError, match="not a readable database"):
        mlflow_utils.connect(settings_of(tmp_path))


def test_database_that_stays_locked_is_explained_in_one_line(tmp_path: Path, mlflow_database: Path) -> None:
    from mlflow.exceptions import MlflowException

    settings = settings_of(tmp_path)
    with (
        pytest.raises(AppError, match="another process keeps the database locked: run the command again") as caught,
        mlflow_utils.convert_errors(settings, "recording"),
    ):
        raise MlflowException("(sqlite3.OperationalError) database is locked\n[SQL: SELECT 1]")
    assert "SQL:" not in str(caught.value) and str(tmp_path / "mlflow.db") in str(caught.value)
    shutil.copy(mlflow_database, tmp_path)
    for name, reading in (
        ("mlflow", mlflow_local._reading(tmp_path / "mlflow.db")),
        ("lakefs", explain_store_errors(tmp_path)),
    ):
        with pytest.raises(AppError, match=rf"{name}\.db: another process keeps the database locked"), reading:
            raise sqlite3.OperationalError("database is locked")


@pytest.mark.parametrize(
    ("scheme", "package"), [("postgresql+psycopg", "psycopg[binary]"), ("mysql", "mysqlclient"), ("mssql", "pyodbc")]
)
def test_missing_driver_is_named_with_the_install_command(
    scheme: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sqlalchemy")
    monkeypatch.setitem(sys.modules, "psycopg", None)  # as where it is not installed
    settings = Settings(mlflow_tracking_uri=f"{scheme}://me:pw@127.0.0.1:9/mlflow")
    with pytest.raises(AppError, match=f"pip install '{re.escape(package)}'") as caught:
        mlflow_utils.connect(settings)
    assert "pw" not in str(caught.value)


def test_deleted_experiment_is_named_with_the_fix(original: tuple[Path, str]) -> None:
    project, _ = original
    settings = settings_of(project)
    client = mlflow_utils.connect(settings)
    number = mlflow_utils.get_or_create_experiment(client, settings)
    client.delete_experiment(number)
    for call in (mlflow_utils.get_or_create_experiment, mlflow_utils.find_best_runs):
        with pytest.raises(
            UsageError, match=f"'experiment' was deleted in MLflow.*--experiment-id {number}.*MLFLOW_EXPER"
        ):
            call(client, settings)
    client.restore_experiment(number)
    assert mlflow_utils.get_or_create_experiment(client, settings) == number


@pytest.mark.parametrize("uri", [None, "sqlite:///mlflow.db", "absolute"])
def test_artifacts_are_beside_the_database_from_any_working_directory(
    recorded: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str | None
) -> None:
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    project.mkdir()
    elsewhere.mkdir()
    shutil.copy(recorded[0] / "mlflow.db", project)
    monkeypatch.setattr(mlflow_utils, "ROOT", project)
    monkeypatch.setattr(config, "ROOT", project)
    monkeypatch.chdir(elsewhere)
    uri = f"sqlite:///{project / 'mlflow.db'}" if uri == "absolute" else uri
    settings = Settings(mlflow_tracking_uri=uri, mlflow_experiment="fresh")
    client = mlflow_utils.connect(settings)
    experiment = mlflow_utils.get_or_create_experiment(client, settings)
    assert client.get_experiment(experiment).artifact_location == (project / "mlartifacts").as_uri()
    assert list(elsewhere.iterdir()) == []
