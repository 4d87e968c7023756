"""Special files and links out of a directory: reported, and never opened, by check, push and infer."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

import config
from core.errors import UsageError
from core.hashing import file_sha256
from dataset.checks.page import write_page
from dataset.directory import data_files, is_empty
from dataset.faults import DataFaults
from dataset.validation import check_data, inspect_data
from inference import inputs
from tests.support.clones import Clone
from tests.support.data_directories import put_image, put_mask, put_pair
from tests.support.images import draw
from tests.support.special_files import SPECIAL, limited_time, opened_files
from train.tracking.publication import hash_files
from utils.lakefs_utils import LakeFS
from versioning import sync
from versioning.base import recorded_base

KINDS = pytest.mark.parametrize("kind", SPECIAL)
FOLLOWED = ("link out", "relative link out")  # by infer.py, outside of the data directory
# Where a program reads: an image, a mask, the lists of the data set, and files beside them.
PLACES = (
    *("images/b.png", "masks/b.png", "classes.json", "groups.csv", "splits/train.txt", "label_source.json"),
    *("notes.txt", ".lakefsignore", "check.html"),
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "project" / "data"
    for number in range(4):
        put_pair(root, f"a{number}")
    put_image(root / "images/b.png")
    put_mask(root / "masks/b.png")
    return root


@KINDS
@pytest.mark.parametrize("place", PLACES)
def test_check_and_push_report_a_special_file_and_open_none(data: Path, kind: str, place: str) -> None:
    make, found = SPECIAL[kind]
    path = data / place
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    make(path)
    with limited_time(), opened_files() as opened:
        inspection = inspect_data(data, 0)
        write_page(inspection)
        with pytest.raises(DataFaults) as caught:
            data_files(data)
        with pytest.raises(DataFaults):
            check_data(data, 0)
        assert not is_empty(data), "sample data is never mixed with it"
    assert [(fault.file, fault.found) for fault in inspection.faults] == [(place, found)]
    assert caught.value.faults == tuple(inspection.faults)
    assert not [name for name in opened if name.startswith(str(data)) or "outside.txt" in name]


def test_every_special_file_of_a_directory_is_reported_at_once(data: Path) -> None:
    for number, (make, _) in enumerate(SPECIAL.values()):
        if make is not SPECIAL["device"][0]:
            make(data / f"images/s{number}.png")
    with limited_time():
        assert len(inspect_data(data, 0).faults) == len(SPECIAL) - 1


def test_links_inside_of_the_directory_are_read(data: Path) -> None:
    (data / "originals").mkdir()
    os.rename(data / "images/b.png", data / "originals/b.png")
    (data / "images/b.png").symlink_to("../originals/b.png")
    os.rename(data / "masks", data / "drawn")
    (data / "masks").symlink_to("drawn")
    assert len(check_data(data, 0).pairs) == 5


def test_data_directory_may_be_a_link_itself(data: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(data)
    assert len(check_data(tmp_path / "linked", 0).pairs) == 5


def test_linked_directory_of_images_outside_is_a_fault(data: Path, tmp_path: Path) -> None:
    os.rename(data / "images", tmp_path / "images")
    (data / "images").symlink_to(tmp_path / "images")
    (fault,) = inspect_data(data, 0).faults
    assert (fault.file, fault.found) == ("images", "a link to a directory outside of it")
    assert "DATA_DIR" in fault.expected


def test_ignored_special_file_is_not_opened_and_no_fault(data: Path) -> None:
    os.mkfifo(data / "control.fifo")
    (data / ".lakefsignore").write_text("*.fifo\n")
    with limited_time():
        checked = check_data(data, 0)
        assert "control.fifo" not in hash_files(checked)


def test_push_and_pull_refuse_a_directory_with_a_pipe(
    lake: LakeFS, lake_settings: config.Settings, tmp_path: Path
) -> None:
    clone = Clone(
        dataclasses.replace(lake_settings, data_dir=tmp_path / "c/data", lakefs_local_dir=tmp_path / "l"), lake
    )
    clone.write(na="one")
    clone.push()
    root = clone.settings.data_dir
    os.mkfifo(root / "images/b.png")
    (root / "notes.txt").symlink_to("/etc/hostname")
    head = lake.head()
    with limited_time():
        with pytest.raises(UsageError, match=r"2 faults[\s\S]*images/b.png[\s\S]*notes.txt"):
            clone.push()
        with pytest.raises(UsageError, match=r"images/b\.png"):
            sync.pull(clone.settings, lake, "main", force=True)
    assert lake.head() == head
    for hidden in (sync.UNFINISHED, ".lakefs_ref.yaml"):
        (root / hidden).unlink(missing_ok=True)
        os.mkfifo(root / hidden)
    with limited_time():
        assert recorded_base(root) is None
        with pytest.raises((UsageError, OSError), match="special file"):
            sync.require_complete(root)


@KINDS
@pytest.mark.parametrize("in_data_directory", [True, False])
def test_infer_reports_a_special_file_and_opens_none(kind: str, in_data_directory: bool, tmp_path: Path) -> None:
    if kind in FOLLOWED and not in_data_directory:
        pytest.skip("a link to a regular file is followed")
    folder = tmp_path / "project" / "in"
    draw(folder, 1)
    make, _ = SPECIAL[kind]
    for name in ("s.png", "t"):
        (folder / name.replace(".", "_")).mkdir()
        make(folder / name.replace(".", "_") / name)
    data_dir = folder if in_data_directory else tmp_path / "data"
    with limited_time(), opened_files() as opened:
        found = {item.name: item.fault for item in inputs.collect_items([folder], data_dir)}
    assert found["000"] is None
    assert found["s_png/s"] is not None and str(folder / "s_png/s.png") in found["s_png/s"]
    assert not [name for name in opened if name.endswith(("/s.png", "/t")) or "outside.txt" in name]


def test_infer_names_files_of_other_kinds_that_are_special(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "project" / "in"
    draw(folder, 1)
    os.mkfifo(folder / "clip.mp4")
    (folder / "notes").symlink_to("/etc/hostname")
    os.mkfifo(folder / "predictions.json")
    with limited_time():
        inputs.collect_items([folder])
    errors = capsys.readouterr().err
    assert "2 (a special file)" in errors and str(folder / "clip.mp4") in errors
    assert f"1 (not an image file): {folder / 'notes'}" in errors


@pytest.mark.parametrize("where", [".", "images", "other/.."])
def test_infer_follows_links_out_of_a_folder_of_the_data_directory_within_it_only(
    data: Path, tmp_path: Path, where: str
) -> None:
    draw(tmp_path / "elsewhere", 2)
    (data / "other").mkdir()
    (data / "originals").mkdir()
    os.rename(tmp_path / "elsewhere/001.png", data / "originals/full.png")
    (data / "images/c.png").symlink_to("../originals/full.png")
    (data / "images/out.png").symlink_to(tmp_path / "elsewhere/000.png")
    (tmp_path / "alias").symlink_to(data)
    faults = {Path(item.name).name: item.fault for item in inputs.collect_items([tmp_path / "alias" / where], data)}
    assert faults["c"] is None
    assert "a link out of the data directory" in (faults["out"] or "")
    (item,) = inputs.collect_items([data / "images/out.png"], data)
    assert item.fault is None, "a link that is named itself"


def test_special_file_named_as_input_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with limited_time(), pytest.raises(UsageError, match="a special file"):
        inputs.collect_items([tmp_path / "pipe.png"])


def test_hash_of_a_special_file_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with limited_time(), pytest.raises(OSError, match="a special file"):
        file_sha256(tmp_path / "pipe")
