"""Files that are not part of the data set: clutter is ignored, others are listed with a reason, unread masks are faults."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from config import Settings
from dataset.directory import data_files, is_data_name
from dataset.faults import DataFaults, Fault
from dataset.summary import summary
from dataset.validation import check_data, inspect_data
from tests.support.data_directories import (
    faults_of,
    make_flat,
    make_split,
    put_image,
    put_mask,
    put_pair,
    write_classes,
)
from train import data_check

CLUTTER = (
    "images/a0.png:Zone.Identifier",
    "masks/a0.png:Zone.Identifier",
    "images/@eaDir/a0.png/SYNOPHOTO_THUMB_M.jpg",
    "images/.DS_Store",
    "images/._a0.png",
    "images/Thumbs.db",
    "masks/Desktop.ini",
    "masks/.ipynb_checkpoints/a0-checkpoint.png",
    "__MACOSX/images/._a0.png",
    "__MACOSX/images/a0.png",
    "#recycle/a0.png",
    "$RECYCLE.BIN/a0.png",
    "classes.json~",
)


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"\0\1")


def test_clutter_is_ignored_everywhere(flat: Path) -> None:
    before = data_files(flat)
    put(flat, *CLUTTER)
    assert data_files(flat) == before
    data = check_data(flat, 0)
    assert len(data.pairs) == 10 and not data.left_out
    assert not any(is_data_name(name) for name in CLUTTER), "also in commits"
    assert all(is_data_name(name) for name in before)


def test_files_in_no_pair_are_listed_with_reason_and_size(flat: Path) -> None:
    put(flat, "images/b0.HEIC", "images/README.txt", "masks/scan", "scan/ct.nii.gz", "masks/a0.npy")
    put_image(flat / "previews/sheet.png")
    data = check_data(flat, 0)
    assert {item.file: item.reason for item in data.left_out} == {
        "images/b0.HEIC": ".heic is not read: convert it to PNG, TIFF or JPEG",
        "images/README.txt": "not an image file",
        "masks/scan": "no file suffix",
        "masks/a0.npy": ".npy is not read: convert it to PNG, TIFF or JPEG",
        "scan/ct.nii.gz": ".nii.gz is not read: convert it to PNG, TIFF or JPEG",
        "previews/sheet.png": "outside of images/, masks/",
    }
    assert set(data.files()) > {item.file for item in data.left_out}, "they are versioned"
    assert "files left out: 1 (not an image file): images/README.txt" in summary(data)
    listing = summary(data, list_all=True)
    assert "files versioned but not part of the data set: 6, " in listing
    assert ["scan/ct.nii.gz", "2", "B", ".nii.gz"] in [line.split()[:4] for line in listing.splitlines()]


def test_training_names_few_files_left_out_and_the_command_that_lists_all(flat: Path) -> None:
    put(flat, *(f"scan/{number}.dcm" for number in range(4)))
    assert "--check-only" not in summary(check_data(flat, 0)), "all are named"
    put(flat, *(f"scan/{number}.dcm" for number in range(4, 250)))
    data = check_data(flat, 0)
    short, listing = summary(data), summary(data, list_all=True)
    assert "scan/3.dcm" not in short and " and 246 more" in short and "python train.py --check-only" in short
    assert all(f"scan/{number}.dcm " in listing for number in range(250)) and "… and" not in listing


def test_check_with_faults_lists_the_files_left_out(flat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(flat, *(f"scan/{number}.dcm" for number in range(9)))
    (flat / "masks/a0.png").unlink()
    with pytest.raises(DataFaults):
        data_check.check(Settings(data_dir=flat), None, as_json=False)
    output = capsys.readouterr().out
    assert all(f"scan/{number}.dcm" in output for number in range(9))


def reasons_of(root: Path) -> dict[str, str]:
    return {item.file: item.reason for item in inspect_data(root, 0).left_out}


def test_images_without_a_directory_of_masks_are_not_called_unlisted(flat: Path) -> None:
    shutil.rmtree(flat / "masks")
    assert [fault.file for fault in faults_of(flat)] == ["masks/"]
    assert set(reasons_of(flat).values()) == {"in no valid pair (see the faults)"}


def test_files_of_a_pair_with_a_fault_are_not_called_unlisted(tmp_path: Path) -> None:
    for root, inside in ((make_flat(tmp_path / "flat"), ""), (make_split(tmp_path / "split"), "train/")):
        put_mask(root / f"{inside}masks/s.png")
        tifffile.imwrite(root / f"{inside}images/s.tif", np.zeros((3, 6, 8), np.uint8), photometric="minisblack")
        assert reasons_of(root) == {f"{inside}images/s.tif": "in no valid pair (see the faults)"}


def test_only_files_that_split_files_leave_out_are_called_unlisted(flat: Path) -> None:
    put_mask(flat / "masks/s.png")
    tifffile.imwrite(flat / "images/s.tif", np.zeros((3, 6, 8), np.uint8), photometric="minisblack")
    (flat / "splits").mkdir()
    (flat / "splits/train.txt").write_text("".join(f"a{number}\n" for number in range(8)) + "s\n")
    (flat / "splits/val.txt").write_text("a8\n")
    assert reasons_of(flat) == {
        "images/a9.png": "no split file lists it",
        "masks/a9.png": "no split file lists it",
        "images/s.tif": "in no valid pair (see the faults)",
    }


def test_masks_that_are_not_read_are_faults(flat: Path) -> None:
    (flat / "masks/a1.png").rename(flat / "masks/a1.npy")
    (flat / "images/a2.png").rename(flat / "images/a2.HEIC")
    put(flat, "masks/orphan.nii.gz")
    unread = "is not read: convert it to PNG, TIFF or JPEG"
    faults = faults_of(flat)
    assert Fault("images/a1.png", "masks/a1.*", f"no partner (masks/a1.npy: .npy {unread})") in faults
    assert Fault("masks/a2.png", "images/a2.*", f"no partner (images/a2.HEIC: .heic {unread})") in faults
    assert ("masks/orphan.nii.gz", f".nii.gz {unread}") in [(fault.file, fault.found) for fault in faults]


@pytest.mark.parametrize("suffix", [".jfif", ".JPG", ".jpe", ".ppm", ".dib"])
def test_other_suffixes_of_known_formats_are_read(tmp_path: Path, suffix: str) -> None:
    kinds = {".jfif": ".jpg", ".jpe": ".jpg", ".dib": ".bmp"}
    for number in range(3):
        written = put_image(tmp_path / f"images/{number}{kinds.get(suffix, suffix)}")
        written.rename(written.with_suffix(suffix))
        put_mask(tmp_path / f"masks/{number}.png")
    assert len(check_data(tmp_path, 0).pairs) == 3


# --- warnings ----------------------------------------------------------------------------------------------


def test_small_validation_split_is_a_warning(tmp_path: Path) -> None:
    put_pair(tmp_path, "one")
    put_pair(tmp_path, "two")
    data = check_data(tmp_path, 0)
    warning, undecided = data.warnings
    assert (warning.kind, undecided.kind) == ("small-split", "few-groups")
    assert (
        warning.text.startswith("images in val: 1, so its metrics say little") and "label more images" in warning.text
    )
    assert f"warning: {warning.text}" in summary(data)


def test_the_check_says_in_advance_that_two_images_cannot_decide(tmp_path: Path) -> None:
    for number in range(20):
        put_pair(tmp_path, f"photo{number:02d}")
    text = summary(check_data(tmp_path, 0))
    assert "register_model.py makes a champion only with --accept-warnings" in text
    assert "images in val: 2, groups among them: 2; register_model.py needs 3" in text
    assert "print the command" in text and "assign more images to val" in text


def test_many_images_of_two_groups_in_val_are_a_warning(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for number in range(12):
            put_pair(tmp_path / split, f"{split}{number}")
    rows = [f"train{number},a{number}" for number in range(12)] + [f"val{number},b{number % 2}" for number in range(12)]
    (tmp_path / "groups.csv").write_text("\n".join(["name,group", *rows]))
    (warning,) = [warning for warning in check_data(tmp_path, 0).warnings if warning.kind == "few-groups"]
    assert warning.split == "val" and "images in val: 12, groups among them: 2" in warning.text
    assert not warning.counts_against("val"), "the gate itself decides, and says so"


def test_class_absent_from_a_split_is_a_warning(tmp_path: Path) -> None:
    for split, values in (("train", (0, 1, 2)), ("val", (0, 1)), ("test", (0, 2))):
        for number in range(11):
            put_pair(tmp_path / split, f"{split}{number}", values)
    write_classes(tmp_path, [{"id": number, "name": name} for number, name in enumerate(("sky", "road", "car"))])
    assert [(warning.kind, warning.text) for warning in check_data(tmp_path, 0).warnings] == [
        ("absent-class", "classes absent from val: car"),
        ("absent-class", "classes absent from test: road"),
    ]
