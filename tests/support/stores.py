"""S3 servers for the tests: each object store whose program is installed, else moto."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.processes import ServerProcess, free_port, run_server

BUCKET = "lake"  # created by every store, for lakeFS


@dataclass(frozen=True)
class Storage:
    """A running S3 server with its root keys."""

    endpoint: str
    access_key: str
    secret_key: str
    store: str = "other"  # a key of STORES, "moto", or "other" for the server of MINIO_ENDPOINT
    process: ServerProcess | None = field(default=None, compare=False, repr=False)


@contextlib.contextmanager
def versitygw(folder: Path) -> Iterator[Storage]:
    """Run VersityGW over the files of `folder`."""
    folder.mkdir(parents=True)
    address, user, password = _address(), "tests", secrets.token_hex(16)
    command = ["versitygw", "--port", address, "--health", "/health", "--keep-alive", "--quiet", "posix", str(folder)]
    settings = {"ROOT_ACCESS_KEY": user, "ROOT_SECRET_KEY": password}
    with run_server(command, settings, f"http://{address}/health", folder.parent) as process:
        yield _with_bucket(Storage(f"http://{address}", user, password, "versitygw", process))


@contextlib.contextmanager
def seaweedfs(folder: Path) -> Iterator[Storage]:
    """Run SeaweedFS's master, volume server, filer and S3 gateway in one process on `folder`."""
    folder.mkdir(parents=True)
    user, password = "tests", secrets.token_hex(16)
    ports = {name: free_port() for name in ("master.port", "volume.port", "filer.port", "s3.port")}
    ports |= {f"{name}.grpc": free_port() for name in ports}
    command = ["weed", "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]
    command += [f"-{name}={port}" for name, port in ports.items()]
    command += ["-volume.max=0", "-master.volumeSizeLimitMB=1024"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]  # catalogues of tables, on fixed ports unless switched off
    settings = {"AWS_ACCESS_KEY_ID": user, "AWS_SECRET_ACCESS_KEY": password}
    address = f"127.0.0.1:{ports['s3.port']}"
    with run_server(command, settings, f"http://{address}/healthz", folder.parent) as process:
        yield _with_bucket(Storage(f"http://{address}", user, password, "weed", process))


@contextlib.contextmanager
def minio(folder: Path) -> Iterator[Storage]:
    """Run MinIO on `folder`."""
    folder.mkdir(parents=True)
    address, user, password = _address(), "tests", secrets.token_hex(16)
    command = ["minio", "server", "--address", address, str(folder)]
    settings = {"MINIO_ROOT_USER": user, "MINIO_ROOT_PASSWORD": password}
    with run_server(command, settings, f"http://{address}/minio/health/live", folder.parent) as process:
        yield _with_bucket(Storage(f"http://{address}", user, password, "minio", process))


# By the name of the program; the first that is installed is used wherever one store is enough.
STORES: dict[str, Callable[[Path], AbstractContextManager[Storage]]] = {
    "versitygw": versitygw,
    "weed": seaweedfs,
    "minio": minio,
}


def installed() -> list[str]:
    """Return the stores whose programs are on the PATH; TEST_OBJECT_STORE=minio chooses one of them."""
    found = [name for name in STORES if shutil.which(name)]
    chosen = os.environ.get("TEST_OBJECT_STORE")
    if chosen and chosen not in found:
        raise RuntimeError(f"TEST_OBJECT_STORE={chosen}: not installed; available: {', '.join(found) or 'none'}")
    return [chosen] if chosen else found


def start(name: str, folder: Path) -> AbstractContextManager[Storage]:
    """Return the context manager that runs store `name` on a new folder below `folder`."""
    return STORES[name](folder / name)


def choices() -> list[str]:
    """Return every S3 server the S3 tests can run on: that of MINIO_ENDPOINT, else all installed stores, else moto."""
    return ["endpoint"] if os.environ.get("MINIO_ENDPOINT") else installed() or ["moto"]


@contextlib.contextmanager
def s3(choice: str, folder: Path) -> Iterator[Storage]:
    """Run the S3 server of one of `choices()`."""
    env = os.environ
    if choice == "endpoint":
        yield Storage(env["MINIO_ENDPOINT"], env["MINIO_ACCESS_KEY"], env["MINIO_SECRET_KEY"])
    elif choice == "moto":
        with _moto() as storage:
            yield storage
    else:
        with start(choice, folder) as storage:
            yield storage


@contextlib.contextmanager
def _moto() -> Iterator[Storage]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        yield Storage("http://{}:{}".format(*server.get_host_and_port()), "tests", "tests", "moto")
    finally:
        server.stop()


def _with_bucket(storage: Storage) -> Storage:
    """Create the bucket of lakeFS, as users do."""
    import config
    from utils import minio_utils

    keys = {"minio_access_key": storage.access_key, "minio_secret_key": storage.secret_key}
    minio_utils.ensure_bucket(config.load_settings(minio_endpoint=storage.endpoint, **keys), BUCKET)
    return storage


def _address() -> str:
    return f"127.0.0.1:{free_port()}"
