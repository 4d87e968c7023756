"""Clones of one branch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

import config
from tests.support.clones import Clone
from utils.lakefs_utils import LakeFS
from versioning import sync


@pytest.fixture
def clone(lake: LakeFS, lake_settings: config.Settings, tmp_path: Path) -> Callable[[str], Clone]:
    def make(name: str) -> Clone:
        folder = tmp_path / name
        return Clone(dataclasses.replace(lake_settings, data_dir=folder / "data", lakefs_local_dir=folder / "l"), lake)

    return make


@pytest.fixture
def pair(clone: Callable[[str], Clone]) -> tuple[Clone, Clone]:
    """Two clones with the same twenty files; the first one has published them."""
    mine, theirs = clone("mine"), clone("theirs")
    mine.write(**{f"n{number:02}": "first" for number in range(20)})
    mine.push()
    sync.pull(theirs.settings, theirs.lake, "main", force=False)
    return mine, theirs
