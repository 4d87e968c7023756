"""Fixtures shared by all tests."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from core.console_reporter import ConsoleReporter
from core.i18n import set_language
from core.provenance import code_files
from core.reporting import use_reporter
from tests.support import servers, stores
from tests.support.servers import Server
from tests.support.stores import Storage
from utils.lakefs_client import transfer

os.environ["APP_LANG"] = "en"  # before config.py is imported: tests expect English messages
os.environ.setdefault("OMP_NUM_THREADS", "1")  # each core runs a test file: more threads would compete
set_language("en")  # and for modules that do not import config.py
use_reporter(ConsoleReporter())  # tests read the printed messages

if TYPE_CHECKING:
    import config
    from tests.support.faults import Faults
    from tests.support.lifecycle import Lifecycle
    from tests.support.project import Project
    from utils.lakefs_utils import LakeFS


SESSION_FOLDERS = "session"  # below the temporary directory of pytest: what several test files use
ROOT = Path(__file__).resolve().parent.parent
# What starts scripts, servers or other processes; a test that uses none of them is marked `quick`.
STARTING_FIXTURES = {"lakefs_server", "s3", "lifecycle", "once_trained", "mlflow_database"}
STARTING_MODULES = {"subprocess", "multiprocessing", "benchmarks.training_busy"} | {
    f"tests.support.{name}"
    for name in [
        "clones",
        "documents",
        "faults",
        "hostile_server",
        "lab",
        "lake_cli_helpers",
        "lifecycle",
        "network",
        "processes",
        "project",
        "read_only",
        "servers",
        "stores",
    ]
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that start no other process, for `pytest -m quick`, and run their files last.

    Each file runs in one process: at the end, a file of long tests would leave the other processes without work.
    """
    starting: dict[object, bool] = {}
    for item in items:
        if not isinstance(item, pytest.Function):
            continue
        if item.module not in starting:
            values = vars(item.module).values()
            origins = {getattr(value, "__module__", None) or getattr(value, "__name__", None) for value in values}
            starting[item.module] = any(map(_starts_processes, origins))
        if not starting[item.module] and not STARTING_FIXTURES & set(item.fixturenames):
            item.add_marker("quick")
    long = {item.path for item in items if not item.get_closest_marker("quick")}
    items.sort(key=lambda item: item.path not in long)


def _starts_processes(module: str | None) -> bool:
    """Return whether a module, or the package that it belongs to, starts other processes."""
    parts = (module or "").split(".")
    return any(".".join(parts[:count]) in STARTING_MODULES for count in range(1, len(parts) + 1))


@pytest.fixture(autouse=True)
def lock_of_the_checkout_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let code that a test calls find no lakefs.lock in this checkout: whoever has trained here has one."""
    if code_files.lock_path(ROOT).exists():
        monkeypatch.setattr(code_files, "lock_path", _lock_path_elsewhere)


def _lock_path_elsewhere(folder: Path) -> Path:
    return (ROOT / "tests/no directory" if folder == ROOT else folder) / code_files.LOCK_NAME


@pytest.fixture(scope="module", autouse=True)
def disk_space(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Delete what the fixtures of a test file wrote when it ends, unless a test failed: all files write over 10 GB.

    pytest deletes by itself only the `tmp_path` of each test (`tmp_path_retention_policy` in pyproject.toml).
    """
    root, failed = tmp_path_factory.getbasetemp(), request.session.testsfailed
    before = set(root.iterdir())
    yield
    if request.session.testsfailed == failed:
        for folder in set(root.iterdir()) - before - {root / SESSION_FOLDERS}:
            shutil.rmtree(folder, ignore_errors=True)  # a test may have left directories that cannot be read


def session_folder(factory: pytest.TempPathFactory, name: str) -> Path:
    """Return a new directory that lives until the end of the session."""
    parent = factory.getbasetemp() / SESSION_FOLDERS
    parent.mkdir(exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=name, dir=parent))


@pytest.fixture(autouse=True)
def english() -> Iterator[None]:
    """Return to English after a test that sets another language."""
    yield
    set_language("en")


@pytest.fixture(scope="session")
def real_lakefs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One real server for all test files: its start takes seconds."""
    with servers.real(session_folder(tmp_path_factory, "real")) as server:
        yield server


@pytest.fixture(scope="module", params=["embedded", "real"] if servers.real_available() else ["embedded"])
def lakefs_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A lakeFS server; its tests run on every kind that this machine can start."""
    if request.param == "real":
        yield request.getfixturevalue("real_lakefs_server")
        return
    with servers.embedded(tmp_path_factory.mktemp("embedded")) as server:
        yield server


@pytest.fixture(scope="module")
def lakefs_server_kind(lakefs_server: Server) -> str:
    """'embedded' or 'real'."""
    return lakefs_server.kind


@pytest.fixture(scope="session", params=stores.choices())
def s3(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """An S3 server; its tests run on the one of MINIO_ENDPOINT, otherwise on each installed store, otherwise on moto."""
    with stores.s3(request.param, session_folder(tmp_path_factory, "s3")) as storage:
        yield storage


@pytest.fixture(scope="session")
def lifecycle(tmp_path_factory: pytest.TempPathFactory) -> "Lifecycle":
    """A project with registered, refused, promoted and rolled back models; tests must not change it."""
    from tests.support.lifecycle import run_lifecycle

    return run_lifecycle(session_folder(tmp_path_factory, "life"))


@pytest.fixture(scope="session")
def once_trained(tmp_path_factory: pytest.TempPathFactory) -> "Project":
    """A project with one run of one epoch; tests must not change data, model and registry."""
    from tests.support.project import make_project

    project = make_project(session_folder(tmp_path_factory, "once_trained"))
    done = project.run("train.py", "--epochs", "1", "--batch-size", "5", "--image-size", "64", "64")
    assert done.returncode == 0, done.stdout + done.stderr
    return project


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs, to be copied: MLflow takes seconds to make one."""
    from config import Settings
    from utils import mlflow_utils

    database = session_folder(tmp_path_factory, "mlflow") / "mlflow.db"
    mlflow_utils.connect(Settings(mlflow_tracking_uri=f"sqlite:///{database}"))
    return database


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """A data directory with ten valid pairs in images/ and masks/."""
    from tests.support.data_directories import make_flat

    return make_flat(tmp_path)


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same retries without delays."""
    make = transfer.make_pool

    def pool() -> transfer.TimedPoolManager:
        made = make()
        made.connection_pool_kw["retries"] = made.connection_pool_kw["retries"].new(backoff_factor=0, backoff_jitter=0)
        return made

    monkeypatch.setattr(transfer, "make_pool", pool)


@pytest.fixture
def lake_settings(lakefs_server: Server) -> "config.Settings":
    """Settings of a new repository on the server."""
    import config

    return config.load_settings(**lakefs_server.settings(app_lang="en"))


@pytest.fixture
def lake(lake_settings: "config.Settings") -> Iterator["LakeFS"]:
    """A new repository on the server."""
    from utils.lakefs_utils import connect

    with connect(lake_settings, create=True) as lake:
        yield lake


@pytest.fixture
def faulty_lake(lakefs_server: Server, tmp_path: Path) -> Iterator[tuple["LakeFS", "Faults"]]:
    """A new repository whose server is reached through a proxy that injects faults."""
    import config
    from tests.support.faults import fault_proxy
    from utils.lakefs_utils import connect

    with fault_proxy(lakefs_server.endpoint) as faults:
        changes = {"lakefs_endpoint": faults.endpoint, "lakefs_local_dir": tmp_path / "local"}
        settings = config.load_settings(**lakefs_server.settings(**changes))
        with connect(settings, create=True) as lake:
            yield lake, faults
