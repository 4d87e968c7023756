"""A lab for the tests of the registry: runs and models of a chosen quality."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lab import Lab, open_lab
from tests.support.servers import Server


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a test module; its labs share the MLflow database in it."""
    return tmp_path_factory.mktemp("registry")


@pytest.fixture
def lab(lakefs_server: Server, place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    with open_lab(lakefs_server, place / secrets.token_hex(4), monkeypatch) as lab:
        yield lab
