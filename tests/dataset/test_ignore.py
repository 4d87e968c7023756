"""`.lakefsignore`: the files that it names are neither versioned nor part of the data."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest

import config
from core.errors import UsageError
from dataset.directory import data_files, is_data_name
from dataset.layout.ignore import IGNORE_FILE
from dataset.samples import committed_data
from dataset.validation import check_data
from tests.support.data_directories import faults_of, put_image
from tests.support.publish_helpers import write_local_files
from utils.lakefs_utils import LakeFS, LakePath
from versioning import sync
from versioning.push import push
from versioning.status import status


def ignore(root: Path, *lines: str) -> None:
    (root / IGNORE_FILE).write_text("\n".join(lines) + "\n")


def test_patterns_are_those_of_gitignore(flat: Path) -> None:
    for name in ("images/raw/x.png", "notes/plan.txt", "notes/keep.txt", "raw/y.png", "images/a1.tmp", "a b/z.png"):
        put_image(flat / "z.png").rename(flat / name) if (flat / name).parent.exists() else write(flat / name)
    ignore(
        flat, "# comments", "", "*.tmp", "raw/", "notes/*", "!notes/keep.txt", "/images/a[89].png", "/masks/a[89].png"
    )
    names = data_files(flat)
    assert {"notes/keep.txt", "a b/z.png", IGNORE_FILE, "images/a7.png"} <= names.keys()
    gone = {"images/raw/x.png", "notes/plan.txt", "raw/y.png", "images/a1.tmp", "images/a8.png", "masks/a9.png"}
    assert not gone & names.keys()


def write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


def test_ignored_pairs_are_not_part_of_the_data(flat: Path) -> None:
    ignore(flat, "a3.png", "a4.*")
    assert [pair.name for pair in check_data(flat, 0).pairs if pair.name in ("a3", "a4", "a5")] == ["a5"]
    assert len(check_data(flat, 0).pairs) == 8


def test_fault_of_a_pair_of_which_one_file_is_ignored_says_so(flat: Path) -> None:
    ignore(flat, "images/a3.png")
    (fault,) = faults_of(flat)
    assert fault.file == "masks/a3.png"
    assert ".lakefsignore ignores images/a3.png: ignore both files or neither" in fault.found


@pytest.mark.parametrize("content", [b"\xff\xfe*", b"a\n!\n"])
def test_invalid_file_is_an_error(flat: Path, content: bytes) -> None:
    (flat / IGNORE_FILE).write_bytes(content)
    with pytest.raises(UsageError, match=r"\.lakefsignore: expected patterns of .gitignore's syntax"):
        data_files(flat)


def test_only_the_file_at_the_top_counts() -> None:
    assert is_data_name(IGNORE_FILE) and not is_data_name(f"images/{IGNORE_FILE}") and not is_data_name(".hidden")


@pytest.fixture
def settings(lake_settings: config.Settings, flat: Path, tmp_path: Path) -> config.Settings:
    return dataclasses.replace(
        lake_settings, data_dir=flat, lakefs_local_dir=tmp_path.with_name(f"{tmp_path.name}-local")
    )


def committed(lake: LakeFS) -> set[str]:
    return {file.path.removeprefix("data/") for file in lake.objects(lake.head(), "data/")}


def test_ignored_files_are_not_versioned_and_the_rules_are(
    lake: LakeFS,
    settings: config.Settings,
    flat: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(flat / "scratch/notes.txt")
    ignore(flat, "scratch/")
    push(settings, lake, None, "default")
    assert committed(lake) == set(data_files(flat)) and IGNORE_FILE in committed(lake)
    assert status(settings, lake) and "same as on main" in capsys.readouterr().out
    other = dataclasses.replace(settings, data_dir=tmp_path_factory.mktemp("other"))
    sync.pull(other, lake, "main", force=False)
    assert (other.data_dir / IGNORE_FILE).read_bytes() == (flat / IGNORE_FILE).read_bytes()
    ignore(flat, "scratch/", "a9.png")
    push(settings, lake, None, "default")
    assert "images/a9.png" not in committed(lake) and (flat / "images/a9.png").exists()


def test_commit_is_read_by_its_own_rules(lake: LakeFS, settings: config.Settings, tmp_path: Path) -> None:
    contents = {"images/a.png": b"1", "images/b.png": b"2", IGNORE_FILE: b"b.png\n"}
    lake.publish(write_local_files(tmp_path, contents), "data/", "by another client", {}, mirror=True)
    source = LakePath(lake.repo, lake.head(), "data/")
    for _ in range(2):  # from the server, and from the cache
        files = committed_data(lake, source, settings.cache_dir)
        assert {file.path for file in files} == {"data/images/a.png", f"data/{IGNORE_FILE}"}
        lake.download(source, settings.cache_dir)


def test_pull_does_not_overwrite_an_ignored_file(lake: LakeFS, settings: config.Settings, flat: Path) -> None:
    push(settings, lake, None, "default")
    ignore(flat, "a9.png")
    (flat / "images/a9.png").write_bytes(b"my own")
    push(settings, lake, None, "default")
    with pytest.raises(UsageError, match="would be lost") as caught:
        sync.pull(settings, lake, "main~1", force=False)
    assert "images/a9.png" in str(caught.value)
    assert hashlib.sha256((flat / "images/a9.png").read_bytes()).hexdigest() == hashlib.sha256(b"my own").hexdigest()
