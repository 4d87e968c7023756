"""Fixtures that several test folders share."""

from collections.abc import Iterator

import pytest

from tests import servers
from tests.servers import Server


@pytest.fixture(scope="session", params=["embedded", "real"] if servers.real_available() else ["embedded"])
def lakefs_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A lakeFS server; each test that takes it runs on every kind that this machine can start."""
    start = servers.embedded if request.param == "embedded" else servers.real
    with start(tmp_path_factory.mktemp(request.param)) as server:
        yield server
