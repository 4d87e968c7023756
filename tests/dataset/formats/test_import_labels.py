"""lake.py import-labels: contradictions, directories, interruptions and the record, whatever the format."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from benchmarks import round_trip
from core.errors import UsageError
from dataset.formats.raster.voc import VOC_2012, voc_color
from dataset.formats.record import source_metadata
from tests.support.data_directories import make_split, put_mask, write_classes
from tests.support.exports.imports import check_imported, faults_of_import, mask_ids, only_fault, run_import
from tests.support.exports.raster import (
    COLORS,
    Labelled,
    draw_labelled,
    paint,
    palette_of,
    save_png,
    write_cvat,
    write_kaggle_camvid,
    write_lists,
    write_voc,
)

VOC_PALETTE = palette_of([voc_color(index) for index in range(21)])
SPLITS = ("train", "train", "train", "val", "test")


@pytest.fixture
def items(tmp_path: Path) -> list[Labelled]:
    return draw_labelled(tmp_path / "drawn", SPLITS)


# --- contradictions --------------------------------------------------------------------------------------------------


def test_image_in_two_splits_is_refused(tmp_path: Path, items: list[Labelled], target: Path) -> None:
    source = write_cvat(tmp_path / "export", items)
    write_lists(source, [*items, Labelled("p00", "val", items[0].image, items[0].ids)])
    fault = only_fault(source, target)
    assert fault.file == "ImageSets/Segmentation/val.txt" and "'p00'" in fault.found and "train" in fault.found


def test_missing_files_and_other_sizes_are_named_together(tmp_path: Path, items: list[Labelled], target: Path) -> None:
    source = write_cvat(tmp_path / "export", items)
    (source / "SegmentationClass/p00.png").unlink()
    (source / "JPEGImages/p01.png").unlink()
    shutil.copyfile(source / "SegmentationClass/p02.png", source / "SegmentationClass/extra.png")
    files = [fault.file for fault in faults_of_import(source, target)]
    assert files == ["JPEGImages/p00.png", "SegmentationClass/extra.png", "SegmentationClass/p01.png"]


def test_mask_of_another_size_and_unknown_colour_are_named_together(
    tmp_path: Path, items: list[Labelled], target: Path
) -> None:
    source = write_cvat(tmp_path / "export", items)
    palette = palette_of(COLORS)
    save_png(source / "SegmentationClass/p00.png", paint(np.zeros((4, 8), np.uint8), palette))
    save_png(source / "SegmentationClass/p01.png", paint(items[1].ids, palette) + np.uint8(1))
    (source / "SegmentationClass/p02.png").write_bytes(b"no image")
    size, color, unreadable = faults_of_import(source, target)
    assert (size.file, size.expected, size.found) == ("SegmentationClass/p00.png", "8x6 (size of the image)", "8x4")
    assert color.file == "SegmentationClass/p01.png" and "(1, 1, 1)" in color.found
    assert unreadable.file == "SegmentationClass/p02.png"


def test_linked_files_outside_of_the_export_are_refused(tmp_path: Path, items: list[Labelled], target: Path) -> None:
    source = write_cvat(tmp_path / "export", items)
    image = source / "JPEGImages/p00.png"
    image.unlink()
    image.symlink_to(items[0].image)
    fault = only_fault(source, target)
    assert (fault.file, fault.found) == ("JPEGImages/p00.png", "a link to a file outside of it")


def test_listed_path_outside_of_the_export_is_refused(tmp_path: Path, items: list[Labelled], target: Path) -> None:
    source = write_cvat(tmp_path / "export", items)
    (source / "ImageSets/Segmentation/train.txt").write_text("../../drawn/p00\n")
    faults = faults_of_import(source, target)
    assert [fault.found for fault in faults] == ["'../../drawn/p00': no such files"]


def test_names_that_a_split_file_cannot_hold_are_refused(tmp_path: Path, items: list[Labelled], target: Path) -> None:
    odd = [Labelled("#1", "train", items[0].image, items[0].ids), Labelled("a\\b", "val", items[1].image, items[1].ids)]
    source = write_kaggle_camvid(tmp_path / "export", odd)
    assert [fault.found for fault in faults_of_import(source, target)] == ["'#1'", "'a\\\\b'"]


# --- directories -----------------------------------------------------------------------------------------------------


def test_target_with_data_is_refused(tmp_path: Path, items: list[Labelled], target: Path) -> None:
    source = write_cvat(tmp_path / "export", items)
    target.mkdir()
    (target / ".gitkeep").touch()
    run_import(source, target)
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="holds data already"):
        run_import(source, target)
    assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("inner", "outer"), [("data", "data"), ("data/export", "data"), ("export", "export/data")])
def test_export_and_target_inside_each_other_are_refused(
    tmp_path: Path, items: list[Labelled], inner: str, outer: str
) -> None:
    write_cvat(tmp_path / inner, items)
    with pytest.raises(UsageError, match="must be outside of"):
        run_import(tmp_path / inner, tmp_path / outer)


def test_missing_source_archive_and_unknown_format_are_named(tmp_path: Path, target: Path) -> None:
    with pytest.raises(UsageError, match="found nothing"):
        run_import(tmp_path / "nothing", target)
    (tmp_path / "export.zip").touch()
    with pytest.raises(UsageError, match="python -m zipfile -e"):
        run_import(tmp_path / "export.zip", target)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/readme.txt").touch()
    assert "Pascal VOC" in only_fault(tmp_path / "notes", target).expected
    with pytest.raises(UsageError, match="unknown format 'x'"):
        run_import(tmp_path / "notes", target, "--format", "x")


def test_interrupted_import_is_completed_only_by_the_same_export(
    tmp_path: Path, items: list[Labelled], target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_cvat(tmp_path / "export", items)
    other = write_voc(tmp_path / "other", items, VOC_PALETTE, VOC_2012)
    replaced: list[object] = []

    def interrupted(old: object, new: object) -> None:
        replaced.append(new)
        if len(replaced) == 4:
            raise KeyboardInterrupt
        shutil.move(str(old), str(new))

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_import(source, target)
    with pytest.raises(UsageError, match="interrupted"):
        run_import(other, target)
    run_import(source, target)
    check_imported(target, items)


# --- record ----------------------------------------------------------------------------------------------------------


def test_record_names_format_and_hash_of_the_export(tmp_path: Path, items: list[Labelled], target: Path) -> None:
    source = write_cvat(tmp_path / "export", items)
    run_import(source, target)
    first = source_metadata(target)
    assert first["label_format"] == "cvat" and len(first["label_source_sha256"]) == 64
    run_import(source, tmp_path / "same")
    assert source_metadata(tmp_path / "same") == first
    (source / "notes.txt").touch()
    run_import(source, tmp_path / "changed")
    assert source_metadata(tmp_path / "changed")["label_source_sha256"] != first["label_source_sha256"]


def test_damaged_record_is_an_error(target: Path) -> None:
    target.mkdir()
    assert source_metadata(target) == {}
    (target / "label_source.json").write_text(json.dumps({"format": "cvat"}))
    with pytest.raises(UsageError, match="not the record of an import"):
        source_metadata(target)


# --- images ----------------------------------------------------------------------------------------------------------


def save_rotated(item: Labelled, suffix: str) -> Labelled:
    """Store the image of `item` turned by a quarter, with the EXIF orientation that shows it upright again."""
    target = item.image.with_suffix(suffix)
    with Image.open(item.image) as image:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        image.transpose(Image.Transpose.ROTATE_90).save(target, exif=exif)
    return replace(item, image=target)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_masks_of_the_image_as_it_is_shown_or_stored_are_accepted(
    tmp_path: Path, target: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown, stored = (save_rotated(item, suffix) for item in draw_labelled(tmp_path / "drawn", [None, None]))
    stored = Labelled(stored.name, None, stored.image, np.ascontiguousarray(np.rot90(stored.ids)))
    run_import(write_cvat(tmp_path / "export", [shown, stored]), target)
    assert np.array_equal(mask_ids(target, "p01"), stored.ids)
    assert "train with --raw-orientation: p01\n" in capsys.readouterr().err


def test_truncated_image_is_left_to_the_data_check(tmp_path: Path, target: Path) -> None:
    items = draw_labelled(tmp_path / "drawn", ["train", "val"])
    content = items[0].image.read_bytes()
    items[0].image.write_bytes(content[:-30])
    run_import(write_cvat(tmp_path / "export", items), target)
    assert (target / "images/p00.png").read_bytes() == content[:-30]


def test_round_trip_benchmark_finds_no_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_split(tmp_path)
    for mask in tmp_path.rglob("masks/*.png"):
        put_mask(mask, (0, 1, 2, 2))
    ignored = {"id": 2, "name": "c", "ignore": True}
    write_classes(tmp_path, [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}, ignored])
    assert round_trip.main([str(tmp_path), "--formats", "voc", "coco-rle"]) == 0
    assert "5 pairs, 240 pixels, 120 of them ignored" in capsys.readouterr().out
