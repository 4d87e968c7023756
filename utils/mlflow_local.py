"""MLflow without a server: the SQLite file of a project, and the artifacts beside it, wherever the project is now.

MLflow stores the absolute place of artifacts with each experiment and run, for ever. A project that was moved, copied,
or mounted under another path would write to the old place, or to the project that it is a copy of.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from core.errors import AppError
from core.files import is_writable
from core.i18n import tr
from core.locks import file_lock, is_locked_database, locked_database_fix
from core.reporting import notify
from core.safety.private_files import create_private_file, restrict
from core.safety.urls import without_credentials
from utils.network.limits import is_loopback

if TYPE_CHECKING:
    from mlflow import MlflowClient

ARTIFACTS = "mlartifacts"  # directory beside the database
_OLD_ARTIFACTS = "mlruns"  # of experiments that MLflow itself created; they have a directory each
_PLACES = (("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"))
# Of SQLAlchemy's drivers, those whose package has another name.
_PACKAGES = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}


def database_of(uri: str) -> Path | None:
    """Return the file of a SQLite URI; None for another store, and for a URI with options, which is MLflow's matter."""
    path = uri.removeprefix("sqlite:///")
    return Path(path) if path not in (uri, "", ":memory:") and "?" not in path else None


def artifact_place(database: Path) -> str:
    """Return the URI under which new experiments store their artifacts: beside the database."""
    return (database.parent / ARTIFACTS).as_uri()


def open_database(database: Path, read_only: bool) -> Path:
    """Prepare the database for MLflow's client: create it, check who wrote it, and follow a moved project.

    Return its path; with `read_only`, for a caller that only reads, that of a copy if this process may not write it:
    MLflow's client cannot open such a file. Raises AppError if it must be writable and is not.
    """
    if not is_writable(database.parent) or (database.exists() and not is_writable(database)):
        if not read_only:
            raise AppError(
                tr(
                    "{path} cannot be written by this user: make the file and its directory writable, or set "
                    "MLFLOW_TRACKING_URI",
                    path=database,
                )
            )
        copy = _copy(database)
        _refuse_newer(copy)
        return copy  # `artifacts_of` finds the artifacts of a project that was moved, too
    if not database.exists():
        _create(database)
    # Those of earlier versions have the rights of the umask, and the artifacts contain code.
    restrict(database.parent / ARTIFACTS, *(Path(f"{database}{suffix}") for suffix in ("", "-wal", "-shm", "-journal")))
    _refuse_newer(database)
    _relocate_artifacts(database)
    return database


def _copy(database: Path) -> Path:
    """Return the path of a copy of the database in a directory of this process; an empty one if there is none."""
    folder = tempfile.mkdtemp(prefix="mlflow-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy = Path(folder, database.name)
    if not database.exists():
        _create(copy)
        return copy
    with _reading(database) as source, contextlib.closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return copy


def _create(path: Path) -> None:
    """Create MLflow's schema under a lock, in a file of another name, and move it into place when it is complete.

    It takes seconds: two processes must not do it at once, and a kill must not leave an incomplete one.
    """
    import mlflow

    with file_lock(Path(f"{path}.lock"), tr("waiting for another process that creates the MLflow database")):
        if path.exists():
            return
        new, complete = path.with_name(f"{path.name}.new"), path.with_name(f"{path.name}.whole")
        new.unlink(missing_ok=True)
        create_private_file(new)
        mlflow.MlflowClient(tracking_uri=f"sqlite:///{new.as_posix()}").search_experiments(max_results=1)
        create_private_file(complete)
        shutil.copyfile(new, complete)  # MLflow keeps `new` open, and Windows cannot rename open files
        os.replace(complete, path)
        (path.parent / ARTIFACTS).mkdir(0o700, exist_ok=True)
        with contextlib.suppress(PermissionError):
            new.unlink()


# --- databases of other versions ---------------------------------------------------------------------------


def _refuse_newer(database: Path) -> None:
    """Raise AppError for a database that a newer MLflow wrote; its client would fail in many ways, or change it."""
    found = _read_column(database, "SELECT version_num FROM alembic_version")
    unknown = [revision for revision in found if not _is_known(revision)]
    if unknown:
        raise _newer(f"sqlite:///{database.as_posix()}", unknown[0])


@contextlib.contextmanager
def _reading(database: Path) -> Iterator[sqlite3.Connection]:
    try:
        with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", timeout=30, uri=True)) as db:
            yield db
    except sqlite3.DatabaseError as error:
        if is_locked_database(error):
            raise AppError(f"{database}: {locked_database_fix()}") from error
        raise AppError(
            tr("{file}: not a readable database ({error}): restore it from a backup", file=database, error=error)
        ) from error


def _read_column(database: Path, query: str) -> list[str]:
    """Return the first column of a query as texts; none for a database that is not MLflow's yet. Raises AppError."""
    with _reading(database) as db:
        try:
            return [str(row[0]) for row in db.execute(query)]
        except sqlite3.OperationalError as error:  # no such table
            if is_locked_database(error):
                raise
            return []


def _is_known(revision: str) -> bool:
    """Return whether the installed MLflow has this revision of the schema; files of revisions begin with their id."""
    found = importlib.util.find_spec("mlflow.store.db_migrations")
    folders = list(found.submodule_search_locations or ()) if found else []
    return not folders or any(Path(folders[0], "versions").glob(f"{revision}_*.py"))


def _newer(uri: str, revision: str) -> AppError:
    return AppError(
        tr(
            "MLflow {uri}: the database is of a newer MLflow (schema {revision}; installed is MLflow {version}): pip "
            "install --upgrade mlflow",
            uri=without_credentials(uri),
            revision=revision,
            version=version("mlflow"),
        )
    )


@contextlib.contextmanager
def explain_database_errors(uri: str) -> Iterator[None]:
    """Convert what MLflow raises for a database of another version, or without its driver, to AppError with the fix."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except ModuleNotFoundError as error:
        name = error.name or str(error)
        raise AppError(
            tr(
                "MLflow {uri}: needs the Python package '{name}': pip install '{package}'",
                uri=without_credentials(uri),
                name=name,
                package=_PACKAGES.get(name, name),
            )
        ) from error
    except MlflowException as error:
        match = re.search(r"found version (\w+), but expected", str(error))
        if match is None:
            raise
        if not _is_known(match[1]):
            raise _newer(uri, match[1]) from error
        raise AppError(
            tr(
                "MLflow {uri}: the database is of an older MLflow: make a copy of it, then run: mlflow db upgrade {uri}",
                uri=without_credentials(uri),
            )
        ) from error
    except Exception as error:
        match = re.search(r"Can't locate revision identified by '(\w+)'", str(error))  # alembic's CommandError
        if match is None:
            raise
        raise _newer(uri, match[1]) from error


# --- moved projects ----------------------------------------------------------------------------------------


def _relocate_artifacts(database: Path) -> None:
    """Let experiments and runs that name another place of the project's artifacts name the one beside the database."""
    places = _read_column(database, "SELECT DISTINCT artifact_location FROM experiments")
    moved = {old: new for old in places if (new := _relocated(old, database))}
    if not moved:
        return
    with contextlib.closing(sqlite3.connect(database, timeout=30, isolation_level=None)) as db:
        tables = {str(row[0]) for row in db.execute("SELECT name FROM sqlite_master")}
        db.execute("BEGIN IMMEDIATE")
        for old, new in moved.items():
            for table, column in _PLACES:
                if table in tables:
                    query = (
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR {column} GLOB ?"
                    )
                    db.execute(query, (new, len(old) + 1, old, f"{_escape_glob(old)}/*"))
        db.execute("COMMIT")
    old = ", ".join(str(_local_path(place)) for place in moved)
    place = database.parent / ARTIFACTS
    notify(
        tr(
            "MLflow: the project was at another place: its artifacts are in {place} now, not in {old}",
            place=place,
            old=old,
        )
    )


def _escape_glob(text: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", text)


def _relocated(location: str, database: Path) -> str | None:
    """Return where the artifacts of an experiment are now; None if the stored place is right, or is somebody's choice.

    The stored place is that of an earlier path of the project if it does not exist, or if it belongs to another project,
    of which this one is a copy.
    """
    old = _local_path(location)
    if old is None:
        return None
    new = database.parent / (ARTIFACTS if old.name == ARTIFACTS else f"{old.parent.name}/{old.name}")
    if old.name != ARTIFACTS and (old.parent.name != _OLD_ARTIFACTS or not new.is_dir()):
        return None
    project = old.parent if old.name == ARTIFACTS else old.parent.parent
    if old == new or (os.path.exists(old) and os.path.exists(new) and os.path.samefile(old, new)):
        return None
    if os.path.exists(project) and os.path.samefile(project, database.parent):
        return None  # the same directory under another name
    is_copy = os.path.exists(project / database.name)
    return new.as_uri() if is_copy or not os.path.exists(old) else None


def _local_path(location: str) -> Path | None:
    """Return the path of a file: URI or of an absolute path; None for other places."""
    parts = urlsplit(location)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    return Path(location) if not parts.scheme and location.startswith("/") else None


def artifacts_of(client: MlflowClient, uri: str, run_id: str) -> Any:
    """Return MLflow's ArtifactRepository (untyped) of a run.

    Of a project with a database, it is beside the database, whatever that says: another process may have the same
    directory under another path, such as a container, and have entered its own.
    """
    return _repository(client.get_run(run_id).info.artifact_uri, uri, run_id, run_id)


def artifacts_of_model(client: MlflowClient, uri: str, model_id: str) -> Any:
    """Return MLflow's ArtifactRepository (untyped) of a logged model, at the place that `artifacts_of` describes."""
    return _repository(client.get_logged_model(model_id).artifact_location, uri, model_id, f"models/{model_id}")


def _repository(location: str, uri: str, owner: str, folder: str) -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    database, place = database_of(uri), _local_path(location)
    _require_place_of_server(location, uri, owner)
    names = (*folder.split("/"), "artifacts")
    if database is not None and place is not None and place.parts[-len(names) :] == names:
        root = _relocated(place.parents[len(names) - 1].as_uri(), database)
        location = f"{root}/{folder}/artifacts" if root else location
    return get_artifact_repository(location, tracking_uri=uri)


def _require_place_of_server(location: str, uri: str, owner: str) -> None:
    """Raise AppError if a server names a place for artifacts that only this machine, or another server, can have.

    Files would be written there, or the keys of this server sent to another one. A directory must be the one that MLflow
    makes for this run or model. An object storage has keys of its own; references such as runs:/ lead to any other place.
    """
    parts, server = urlsplit(location), urlsplit(uri)
    is_remote = server.scheme in ("http", "https")
    if parts.scheme in ("", "file"):
        made = Path(unquote(parts.path)).parts[-2:] == (owner, "artifacts") and parts.netloc in ("", "localhost")
        foreign = not made or (is_remote and not is_loopback(server.hostname or ""))
    elif parts.scheme in ("http", "https", "mlflow-artifacts"):
        foreign = is_remote and parts.netloc not in ("", server.netloc.rpartition("@")[2])
    else:
        foreign = parts.scheme in ("runs", "models", "lakefs") or not parts.netloc
    if foreign:
        raise AppError(
            tr(
                "MLflow {uri}: the artifacts of run {run_id} are in {location}, which is not a place of this server: start "
                "it with --artifacts-destination, and set MLFLOW_EXPERIMENT to a new experiment",
                uri=without_credentials(uri),
                run_id=owner,
                location=without_credentials(location)[:200],
            )
        )
