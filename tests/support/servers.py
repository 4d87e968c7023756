"""Servers for the tests: the embedded lakeFS server, and real servers where their programs are installed."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import stores
from tests.support.processes import ServerProcess, free_port, run_server, wait_until_up
from tests.support.stores import Storage
from utils.lakefs_utils import LakeFS

SOURCE = Path(__file__).resolve().parents[2]
KINDS = ["embedded", *(["real"] if shutil.which("lakefs") else [])]


@dataclass(frozen=True)
class Server:
    """A running lakeFS server; each repository uses its own prefix below `storage_namespace`."""

    kind: str  # "embedded" or "real"
    endpoint: str  # without /api/v1
    access_key_id: str
    secret_access_key: str
    storage_namespace: str
    storage: Storage | None = None  # the object storage behind it, if this module started one
    process: ServerProcess | None = field(default=None, compare=False, repr=False)

    def settings(self, **changes: Any) -> dict[str, Any]:
        """Return the settings that connect to this server, with the name of a new repository."""
        return {
            "lakefs_endpoint": self.endpoint,
            "lakefs_access_key_id": self.access_key_id,
            "lakefs_secret_access_key": self.secret_access_key,
            "lakefs_storage_namespace": self.storage_namespace,
            "lakefs_repo": f"repo-{secrets.token_hex(6)}",
            **changes,
        }

    def namespace(self, repository: str) -> str:
        """Return an unused storage namespace: lakeFS refuses used ones, even of deleted repositories."""
        return f"{self.storage_namespace.rstrip('/')}/{repository}/{secrets.token_hex(4)}"


def branches(lake: LakeFS) -> list[str]:
    """Return the names of all branches, sorted."""
    return [name for name, _ in lake.list_refs("branches")]


def real_available() -> bool:
    return bool(os.environ.get("LAKEFS_ENDPOINT")) or shutil.which("lakefs") is not None


@contextlib.contextmanager
def embedded(folder: Path) -> Iterator[Server]:
    """Run the embedded server on `folder` in this process."""
    from utils import local_lakefs

    with local_lakefs.start(folder) as server:
        yield Server("embedded", server.endpoint, server.access_key_id, server.secret_access_key, "local://tests")


@contextlib.contextmanager
def real(folder: Path, first_admin: bool = True, store: str | None = None) -> Iterator[Server]:
    """Yield the server of LAKEFS_ENDPOINT, or run one on `folder`: over `store`, else the first installed, else files.

    Without `first_admin` the new server waits for somebody to make its first user.
    """
    env = os.environ
    if env.get("LAKEFS_ENDPOINT") and store is None:
        keys = env["LAKEFS_ACCESS_KEY_ID"], env["LAKEFS_SECRET_ACCESS_KEY"]
        yield Server("real", env["LAKEFS_ENDPOINT"].rstrip("/"), *keys, env["LAKEFS_STORAGE_NAMESPACE"])
        return
    with contextlib.ExitStack() as stack:
        name = store or next(iter(stores.installed()), None)
        storage = stack.enter_context(stores.start(name, folder)) if name else None
        blocks = _s3_blocks(storage) if storage else _local_blocks(folder)
        namespace = f"s3://{stores.BUCKET}" if storage else "local://lake"
        address, access, secret = f"127.0.0.1:{free_port()}", "AKIA" + secrets.token_hex(8), secrets.token_hex(20)
        settings = _lakefs_settings(folder, address, access, secret)
        if not first_admin:
            settings["LAKEFS_INSTALLATION_USER_NAME"] = ""
        command, health = ["lakefs", "run"], f"http://{address}/_health"
        process = stack.enter_context(run_server(command, settings | blocks, health, folder))
        yield Server("real", f"http://{address}", access, secret, namespace, storage, process)


def _lakefs_settings(folder: Path, address: str, access: str, secret: str) -> dict[str, str]:
    return {
        "LAKEFS_LISTEN_ADDRESS": address,
        "LAKEFS_DATABASE_TYPE": "local",
        "LAKEFS_DATABASE_LOCAL_PATH": str(folder / "kv"),
        # By default in the home directory: servers of other tests would share it, and delete each other's files.
        "LAKEFS_COMMITTED_LOCAL_CACHE_DIR": str(folder / "committed-cache"),
        "LAKEFS_STATS_ENABLED": "false",
        "LAKEFS_LOGGING_LEVEL": "WARN",
        "LAKEFS_AUTH_ENCRYPT_SECRET_KEY": secret,
        "LAKEFS_INSTALLATION_USER_NAME": "admin",
        "LAKEFS_INSTALLATION_ACCESS_KEY_ID": access,
        "LAKEFS_INSTALLATION_SECRET_ACCESS_KEY": secret,
    }


class KillableServer:
    """A lakeFS server on `folder`, embedded or real, in its own process that can be killed and restarted.

    Real lakeFS stores its objects as local files, because an object store would survive the kill.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.address, self.access, self.secret = f"127.0.0.1:{free_port()}", "AKIA" + secrets.token_hex(8), "s" * 40
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(exist_ok=True)

    def start(self, max_file_bytes: int | None = None) -> Server:
        """Run it and wait until it is available; `max_file_bytes` limits the size of each of its files."""
        folder, port = self.folder, self.address.split(":")[1]
        if self.kind == "real":
            settings = _lakefs_settings(folder, self.address, self.access, self.secret) | _local_blocks(folder)
            command, health = ["lakefs", "run"], "/_health"
        else:
            command = [sys.executable, "-m", "utils.local_lakefs", "--port", port, "--dir", str(folder / "store")]
            settings, health = {}, "/api/v1/healthcheck"
        if max_file_bytes:
            command = ["bash", "-c", f'ulimit -f {max_file_bytes // 1024} && exec "$@"', "limited", *command]
        with (folder / "log").open("ab") as log:
            environment = os.environ | settings
            self.process = subprocess.Popen(command, env=environment, cwd=SOURCE, stdout=log, stderr=log)
        wait_until_up(self.process, f"http://{self.address}{health}", folder / "log")
        keys = self.access, self.secret
        if self.kind == "embedded":
            stored = json.loads((folder / "store/credentials.json").read_text())
            keys = stored["access_key_id"], stored["secret_access_key"]
        return Server(self.kind, f"http://{self.address}", *keys, "local://tests")

    def kill(self) -> None:
        """Kill the process by SIGKILL."""
        if self.process:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def quickstart(folder: Path) -> Iterator[Server]:
    """Run the server of `python -m lakefs.quickstart`: files in the home directory and the documented key pair."""
    address = f"127.0.0.1:{free_port()}"
    settings = {"HOME": str(folder), "LAKEFS_LISTEN_ADDRESS": address, "LAKEFS_STATS_ENABLED": "false"}
    with run_server(["lakefs", "run", "--quickstart"], settings, f"http://{address}/_health", folder):
        key, secret = "AKIAIOSFOLQUICKSTART", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
        yield Server("real", f"http://{address}", key, secret, "local://")


@contextlib.contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Run an MLflow server on `folder`; yield its URL."""
    with mlflow_process(folder) as (url, _):
        yield url


@contextlib.contextmanager
def mlflow_process(folder: Path) -> Iterator[tuple[str, ServerProcess]]:
    """Run an MLflow server on `folder`; yield its URL and its process."""
    address, port = "127.0.0.1", free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", address, "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        f"{folder}/artifacts",
    ]
    with run_server(command, {}, f"http://{address}:{port}/health", folder) as process:
        yield f"http://{address}:{port}", process


def _s3_blocks(storage: Storage) -> dict[str, str]:
    return {
        "LAKEFS_BLOCKSTORE_TYPE": "s3",
        "LAKEFS_BLOCKSTORE_S3_FORCE_PATH_STYLE": "true",
        "LAKEFS_BLOCKSTORE_S3_ENDPOINT": storage.endpoint,
        "LAKEFS_BLOCKSTORE_S3_DISCOVER_BUCKET_REGION": "false",
        "LAKEFS_BLOCKSTORE_S3_REGION": "us-east-1",
        "LAKEFS_BLOCKSTORE_S3_CREDENTIALS_ACCESS_KEY_ID": storage.access_key,
        "LAKEFS_BLOCKSTORE_S3_CREDENTIALS_SECRET_ACCESS_KEY": storage.secret_key,
    }


def _local_blocks(folder: Path) -> dict[str, str]:
    return {"LAKEFS_BLOCKSTORE_TYPE": "local", "LAKEFS_BLOCKSTORE_LOCAL_PATH": str(folder / "blocks")}
