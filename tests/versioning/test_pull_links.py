"""A pull never writes or removes anything through a link, with and without --force."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import config
from core.errors import AppError, UsageError
from tests.support.publish_helpers import publish, write_local_files
from utils.lakefs_utils import LakeFS
from versioning import sync
from versioning.base import REF_FILE, recorded_base
from versioning.lockfile import parse_lock

FIRST = {"train/images/a.png": b"1", "train/images/b.png": b"2", "train/masks/a.png": b"3", "notes.txt": b"4"}
SECOND = {"train/images/a.png": b"changed", "train/masks/a.png": b"3", "notes.txt": b"new"}


@pytest.fixture
def data(lake: LakeFS, lake_settings: config.Settings, tmp_path: Path) -> config.Settings:
    """Settings of a data directory with the first of two versions."""
    settings = dataclasses.replace(lake_settings, data_dir=tmp_path / "data", lakefs_local_dir=tmp_path / ".lakefs")
    publish(lake, write_local_files(tmp_path, FIRST))
    sync.pull(settings, lake, "main", force=False)
    publish(lake, write_local_files(tmp_path, SECOND))
    return settings


PULLS: dict[str, Callable[[config.Settings, LakeFS], None]] = {
    "force": lambda settings, lake: sync.pull(settings, lake, "main", force=True),
    "plain": lambda settings, lake: sync.pull(settings, lake, "main", force=False),
    "merge": lambda settings, lake: sync.merge(settings, lake, "main", "branch"),
}


@pytest.mark.parametrize("how", PULLS)
@pytest.mark.parametrize("place", ["train/images", "train"])
@pytest.mark.parametrize("inside", [False, True])
def test_pull_never_goes_through_a_link_to_a_directory(
    how: str, place: str, inside: bool, data: config.Settings, lake: LakeFS, tmp_path: Path
) -> None:
    target = (data.data_dir / "images" if inside else tmp_path / "outside").absolute()
    (data.data_dir / place).rename(target)
    (data.data_dir / place).symlink_to(target)
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    with pytest.raises(UsageError) as caught:
        PULLS[how](data, lake)
    assert str(data.data_dir / place) in str(caught.value) or place in str(caught.value)
    assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == before
    assert (data.data_dir / place).is_symlink() and (data.data_dir / "notes.txt").read_bytes() == b"4"


def test_link_to_a_file_is_replaced_and_its_target_left_alone(
    data: config.Settings, lake: LakeFS, tmp_path: Path
) -> None:
    kept = data.data_dir / "original.png"
    (data.data_dir / "train/images/a.png").rename(kept)
    (data.data_dir / "train/images/a.png").symlink_to(kept)
    sync.pull(data, lake, "main", force=True)
    assert not (data.data_dir / "train/images/a.png").is_symlink()
    assert (data.data_dir / "train/images/a.png").read_bytes() == b"changed"


def test_data_directory_may_itself_be_a_link(lake: LakeFS, data: config.Settings, tmp_path: Path) -> None:
    real = tmp_path / "disk"
    data.data_dir.rename(real)
    data.data_dir.symlink_to(real)
    sync.pull(data, lake, "main", force=False)
    assert (real / "notes.txt").read_bytes() == b"new" and not (real / "train/images/b.png").exists()


def test_marks_in_the_data_directory_are_replaced_and_not_followed(
    data: config.Settings, lake: LakeFS, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    for name in (REF_FILE, sync.UNFINISHED):
        (data.data_dir / name).unlink(missing_ok=True)
        (data.data_dir / name).symlink_to(outside)
    sync.pull(data, lake, "main", force=False)
    assert outside.read_text() == "mine" and (data.data_dir / "notes.txt").read_bytes() == b"new"


BAD_FIELDS = [
    *(("repository", value) for value in ("/abs/dir", "../..", "A", "", None, 7, ["repo"])),
    *(("commit", value) for value in ("main", "/abs", "a" * 63, "a" * 65, "A" * 64, "٣" * 64, None, ["a" * 64])),
    *(("path", value) for value in ("/etc/", "../", "a/../../", "a//", "C:/", "a\\", "data", "", None, ["data/"])),
]


@pytest.mark.parametrize(("field", "value"), BAD_FIELDS)
def test_lock_file_that_names_another_place_is_refused(field: str, value: object) -> None:
    entry = {"repository": "repo", "commit": "a" * 64, "path": "data/", "manifest_sha256": "b" * 64}
    model = {"repository": "repo", "commit": "c" * 64, "path": "models/model.pth", "sha256": "d" * 64}
    content = {"version": 1, "data": entry, "model": model, "mlflow_run_id": "e" * 32}
    assert parse_lock(json.dumps(content), "x").data.repo == "repo"
    for wrong in (
        {"data": {**entry, field: value}},
        {"model": {**model, field: value}} if value not in ("data", "") else {},
    ):
        if wrong:
            with pytest.raises(UsageError, match="not a valid lock") as caught:
                parse_lock(json.dumps({**content, **wrong}), "x")
            assert "\n" not in str(caught.value)
    for key, wrong_value in (
        ("mlflow_run_id", "../x"),
        ("mlflow_run_id", ["x"]),
        ("server", "file:///x"),
        ("server", "\x1b[2J"),
    ):
        with pytest.raises(UsageError, match="not a valid lock"):
            parse_lock(json.dumps({**content, key: wrong_value}), "x")
    with pytest.raises(UsageError, match="not a valid lock"):
        parse_lock("[" * 100_000, "x")


@pytest.mark.parametrize(
    "record",
    [
        "src: lakefs://../main/data/\nat_head: " + "a" * 64,
        "src: lakefs://repo/../data/\nat_head: " + "a" * 64,
        "src: lakefs://repo/main/../../x/\nat_head: " + "a" * 64,
        "src: lakefs://repo/main//abs/\nat_head: " + "a" * 64,
        "src: lakefs://repo/main/data/\nat_head: ../../x",
        "src: lakefs://repo/main/data/\nat_head: " + "a" * 63,
        "src: file:///etc/\nat_head: " + "a" * 64,
        "src: lakefs://repo/main/\nat_head: " + "a" * 64,
    ],
)
def test_record_of_a_directory_that_names_another_place_is_no_base(record: str, tmp_path: Path) -> None:
    (tmp_path / REF_FILE).write_text(record + "\n")
    assert recorded_base(tmp_path) is None
    (tmp_path / REF_FILE).write_text(f"src: lakefs://repo/main/data\nat_head: {'a' * 64}\n")
    base = recorded_base(tmp_path)
    assert base is not None and str(base) == f"lakefs://repo/{'a' * 64}/data/"


def test_missing_repository_name_is_one_line(lake: LakeFS) -> None:
    for ref in ("../x", "a b", "x/y", "a..b", "\0", "", "x" * 2000):
        with pytest.raises(AppError) as caught:
            from versioning.versions import find_data

            find_data(lake, ref)
        assert "\n" not in str(caught.value) and "\0" not in str(caught.value)
