"""Fixtures that several test folders share."""

import os
from collections.abc import Iterator

import pytest

from tests import servers
from tests.servers import Server, Storage

os.environ["APP_LANG"] = "en"  # before config.py is loaded: what tests read of messages is English


@pytest.fixture(scope="session", params=["embedded", "real"] if servers.real_available() else ["embedded"])
def lakefs_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A lakeFS server; each test that takes it runs on every kind that this machine can start."""
    start = servers.embedded if request.param == "embedded" else servers.real
    with start(tmp_path_factory.mktemp(request.param)) as server:
        yield server


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """An S3 server: the one that MINIO_ENDPOINT names, else MinIO where it is installed, else moto."""
    with servers.s3(tmp_path_factory.mktemp("s3")) as storage:
        yield storage
