"""lake.py import-labels: the formats of CVAT and Pascal VOC."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from dataset.formats.raster.voc import VOC_2012, voc_color
from dataset.splitting.splits import read_splits
from dataset.validation import check_data
from tests.support.exports.imports import check_imported, only_fault, run_import
from tests.support.exports.raster import (
    COLORS,
    NAMES,
    SIZE,
    Labelled,
    draw_labelled,
    palette_of,
    save_png,
    write_cvat,
    write_voc,
)

VOC_PALETTE = palette_of([voc_color(index) for index in range(21)])
SPLITS = ("train", "train", "train", "val", "test")


@pytest.fixture
def items(tmp_path: Path) -> list[Labelled]:
    return draw_labelled(tmp_path / "drawn", SPLITS)


# --- CVAT ------------------------------------------------------------------------------------------------------------


def test_cvat_export_keeps_classes_colours_splits_and_pixels(
    tmp_path: Path, items: list[Labelled], target: Path
) -> None:
    assert run_import(write_cvat(tmp_path / "export", items), target) == 0
    classes = check_imported(target, items).classes
    assert (classes.ids, classes.names, classes.colors) == ((0, 1, 2), NAMES, COLORS)
    assert not classes.ignore_ids  # no pixel has the border's colour
    assert check_data(target, 0).left_out == ()


def test_cvat_export_without_splits_is_divided_by_train(tmp_path: Path, target: Path) -> None:
    items = draw_labelled(tmp_path / "drawn", [None] * 10)
    run_import(write_cvat(tmp_path / "export", items), target)
    assert read_splits(target) is None
    check_imported(target, items)


def test_palette_masks_of_cvat_are_read_by_colour(tmp_path: Path, items: list[Labelled], target: Path) -> None:
    source = write_cvat(tmp_path / "export", items)
    swapped = palette_of([COLORS[2], COLORS[0], COLORS[1]])
    for item in items:
        save_png(source / "SegmentationClass" / f"{item.name}.png", (item.ids + 1) % 3, swapped)
    run_import(source, target)
    check_imported(target, items)


def test_grey_masks_of_cvat_are_read_by_value(tmp_path: Path, items: list[Labelled], target: Path) -> None:
    source = write_cvat(tmp_path / "export", items)
    for item in items:
        save_png(source / "SegmentationClass" / f"{item.name}.png", item.ids)
    run_import(source, target)
    check_imported(target, items)


def test_grey_mask_with_two_meanings_is_refused(tmp_path: Path, target: Path) -> None:
    items = [Labelled("p00", None, draw_labelled(tmp_path / "drawn", [None])[0].image, np.zeros(SIZE, np.uint8))]
    source = write_cvat(tmp_path / "export", items, NAMES, (COLORS[1], COLORS[0], COLORS[2]))
    save_png(source / "SegmentationClass/p00.png", np.zeros(SIZE, np.uint8))
    assert "different meanings" in only_fault(source, target).found


def test_ignored_names_and_border_are_not_learned(tmp_path: Path, target: Path) -> None:
    items = draw_labelled(tmp_path / "drawn", SPLITS, border=True)
    run_import(write_cvat(tmp_path / "export", items, ("road", "car", "Void")), target)
    classes = check_imported(target, items).classes
    assert (classes.ids, classes.names, classes.ignore_ids) == ((0, 1), ("road", "car"), (2, 255))


def test_cvat_label_names_may_contain_colons(tmp_path: Path, items: list[Labelled], target: Path) -> None:
    names = ("background", "sign: stop", "car")
    run_import(write_cvat(tmp_path / "export", items, names), target)
    assert check_imported(target, items).classes.names == names


@pytest.mark.parametrize(
    ("labelmap", "found"),
    [
        ("a:0,0,0::\nb:250,50,83::\nc:250,50,83::\n", "(250, 50, 83): 'b' and 'c'"),
        ("a:0,0,0::\na:250,50,83::\nc:51,221,255::\n", "'a' x2"),
        ("a:0,0,0::\nb:250,50::\n", "'b:250,50::' (line 2)"),
        ("a:0,0,256::\n", "'a:0,0,256::' (line 1)"),
        ("# nothing\n", "0"),
    ],
)
def test_contradictory_labelmap_is_refused(
    tmp_path: Path, items: list[Labelled], target: Path, labelmap: str, found: str
) -> None:
    source = write_cvat(tmp_path / "export", items)
    (source / "labelmap.txt").write_text(labelmap)
    fault = only_fault(source, target)
    assert (fault.file, fault.found) == ("labelmap.txt", found)


def test_images_may_be_in_another_directory(tmp_path: Path, items: list[Labelled], target: Path) -> None:
    source = write_cvat(tmp_path / "export", items)
    (source / "JPEGImages").rename(source / "frames")
    run_import(source, target)
    check_imported(target, items)


def test_export_without_images_is_one_fault(tmp_path: Path, items: list[Labelled], target: Path) -> None:
    source = write_cvat(tmp_path / "export", items)
    shutil.rmtree(source / "JPEGImages")
    fault = only_fault(source, target)
    assert fault.file == "JPEGImages/" and "Save images" in fault.expected


# --- VOC -------------------------------------------------------------------------------------------------------------


def test_voc_export_keeps_ignored_border_and_announces_the_names(
    tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = draw_labelled(tmp_path / "drawn", SPLITS, border=True)
    items = [dataclasses.replace(item, name=f"2007_0000{number:02}") for number, item in enumerate(drawn)]
    source = write_voc(tmp_path / "VOCdevkit/VOC2012", items, VOC_PALETTE)
    (source / "ImageSets/Segmentation/trainval.txt").write_text("".join(f"{item.name}\n" for item in items[:4]))
    run_import(tmp_path / "VOCdevkit", target)
    data = check_imported(target, items)
    assert data.classes.names == VOC_2012 and data.classes.ignore_ids == (255,)
    assert data.classes.colors[15] == (192, 128, 128) and data.classes.ignore_colors == ((224, 224, 192),)
    assert "its images are those of VOC 2012, so its 21 classes are taken" in capsys.readouterr().err
    assert "assumed-class-names" in {warning.kind for warning in data.warnings}, "it stays with the data"


def test_voc_export_of_other_images_must_name_its_classes(tmp_path: Path, items: list[Labelled], target: Path) -> None:
    """Else cells and background would be trained as aeroplanes and bicycles."""
    source = write_voc(tmp_path / "export", items, VOC_PALETTE)
    fault = only_fault(source, target)
    assert fault.file == "class_names.txt" and "one a line" in fault.expected and "p00, p01" in fault.found
    (source / "class_names.txt").write_text("background\ncell\nnucleus\n")
    run_import(source, target)
    assert check_imported(target, items).classes.names == ("background", "cell", "nucleus")


def test_voc_export_of_labelme_has_its_own_names(tmp_path: Path, target: Path) -> None:
    items = draw_labelled(tmp_path / "drawn", SPLITS)
    source = write_voc(tmp_path / "export", items, VOC_PALETTE, ("__ignore__", "_background_", "cat", "dog"))
    run_import(source, target)
    assert check_imported(target, items).classes.names == ("_background_", "cat", "dog")


def test_voc_masks_with_other_values_are_refused(tmp_path: Path, items: list[Labelled], target: Path) -> None:
    source = write_voc(tmp_path / "export", items, VOC_PALETTE, VOC_2012)
    save_png(source / "SegmentationClass/p01.png", np.full(SIZE, 21, np.uint8))
    fault = only_fault(source, target)
    assert fault.file == "SegmentationClass/p01.png" and "(21, 21, 21)" in fault.found


def test_challenge_test_images_without_masks_are_left_out(
    tmp_path: Path, items: list[Labelled], target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_voc(tmp_path / "export", items, VOC_PALETTE, VOC_2012)
    (source / "SegmentationClass/p04.png").unlink()
    run_import(source, target)
    check_imported(target, items[:4])
    assert "left out (no mask): JPEGImages/p04.png" in capsys.readouterr().out


def test_masks_that_no_list_names_are_left_out(
    tmp_path: Path, items: list[Labelled], target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_voc(tmp_path / "export", items, VOC_PALETTE, VOC_2012)
    (source / "ImageSets/Segmentation/test.txt").unlink()
    run_import(source, target)
    check_imported(target, items[:4])
    assert "in no list of ImageSets/Segmentation/" in capsys.readouterr().out
