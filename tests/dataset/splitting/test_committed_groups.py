"""The groups of a data commit are those that the data check found when it was made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from config import Settings
from core.hashing import file_sha256
from dataset.checks.committed_groups import add_groups
from dataset.samples import committed_items
from dataset.validation import check_data
from tests.dataset.splitting.test_group_splits import put_film
from tests.support.data_directories import make_split, put_pair
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import LakePath, connect


def put_patients(root: Path) -> None:
    for patient in range(12):
        for number in range(3):
            put_pair(root, f"patient{patient:02d}_slice_{number}")


def put_directories(root: Path) -> None:
    for site in range(12):
        for number in range(2):
            put_pair(root, f"site{site}/{number}")


def put_categories(root: Path) -> None:
    """Each directory has a class of its own: it is a kind of image, not a source."""
    for kind in range(3):
        for number in range(6):
            put_pair(root, f"kind{kind}/{number}", (0, kind + 1))


def put_listed(root: Path) -> None:
    for number in range(20):
        put_pair(root, f"a{number}")
    rows = "".join(f"a{number},place {number // 2}\n" for number in range(20))
    (root / "groups.csv").write_text(f"name,group\n{rows}")


def put_numbers(root: Path) -> None:
    for number in range(20):
        put_pair(root, f"a{number}")


@pytest.mark.parametrize(
    ("make", "rule", "pattern"),
    [
        (lambda root: put_film(root, "film_", 120, 0), "films", None),
        (put_patients, "subjects", None),
        (put_directories, "directories", None),
        (put_categories, "none", None),
        (put_listed, "groups.csv", None),
        (put_numbers, "split-group", r"^a(\d)"),
        (put_numbers, "none", None),
        (make_split, "none", None),
    ],
)
def test_groups_of_a_commit_are_those_of_the_data_check(
    make: Callable[[Path], object], rule: str, pattern: str | None, tmp_path: Path
) -> None:
    make(tmp_path / "data")
    data = check_data(tmp_path / "data", 0, split_group=pattern)
    assert data.groups is not None and data.groups.rule == rule
    cache = tmp_path / "cache"
    with connect(Settings(lakefs_local_dir=tmp_path / ".lakefs"), create=True) as lake:
        files = {name: LocalFile(path, file_sha256(path)) for name, path in data.files().items()}
        commit = lake.publish(files, "data/", "data", {}, mirror=True).commit_id
        source = LakePath(lake.repo, commit, "data/")
        committed = committed_items(lake, source, "val", cache)
        items = add_groups(lake, source, committed, cache, data.classes, data.reading)
    assert {item.name: item.group for item in items} == {pair.name: pair.group for pair in data.split("val")}
