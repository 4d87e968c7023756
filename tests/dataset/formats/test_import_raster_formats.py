"""lake.py import-labels: Kaggle CamVid, Cityscapes, ADE20K and nnU-Net."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset.classes import UInt8
from dataset.decoding.options import DEFAULT_READING
from dataset.decoding.samples import decode_raw
from dataset.faults import DataFaults
from dataset.formats.raster.cityscapes import LABELS
from dataset.validation import check_data
from tests.support.exports.imports import check_imported, faults_of_import, mask_ids, only_fault, run_import
from tests.support.exports.raster import (
    COLORS,
    NAMES,
    SIZE,
    Labelled,
    draw_labelled,
    paint,
    palette_of,
    save_png,
    write_ade20k,
    write_cityscapes,
    write_kaggle_camvid,
    write_nnunet,
)
from tests.support.mask_files import grey_png, palette_png

SPLITS = ("train", "train", "val", "test")
LABELS_OF_NNUNET: dict[str, object] = {"background": 0, "road": 1, "car": 2}


@pytest.fixture
def items(tmp_path: Path) -> list[Labelled]:
    return draw_labelled(tmp_path / "drawn", SPLITS)


# --- Kaggle CamVid ---------------------------------------------------------------------------------------------------


def test_camvid_keeps_classes_colours_splits_and_pixels(tmp_path: Path, items: list[Labelled], target: Path) -> None:
    run_import(write_kaggle_camvid(tmp_path / "export/CamVid", items).parent, target)
    classes = check_imported(target, items).classes
    assert (classes.ids, classes.names, classes.colors) == ((0, 1, 2), NAMES, COLORS)


def test_void_of_camvid_is_ignored(tmp_path: Path, items: list[Labelled], target: Path) -> None:
    run_import(write_kaggle_camvid(tmp_path / "export", items, ("Void", "Road", "Car")), target)
    classes = check_imported(target, items).classes
    assert (classes.names, classes.ids, classes.ignore_ids) == (("Road", "Car"), (1, 2), (0,))


def test_test_images_without_masks_are_left_out(
    tmp_path: Path, items: list[Labelled], target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_kaggle_camvid(tmp_path / "export", items)
    shutil.rmtree(source / "test_labels")
    run_import(source, target)
    check_imported(target, items[:3])
    assert "left out (no mask): test/p03.png" in capsys.readouterr().out


def test_equal_names_get_their_split_in_front_and_copies_are_named(
    tmp_path: Path, items: list[Labelled], target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = replace(items[0], split="val")
    run_import(write_kaggle_camvid(tmp_path / "export", [items[0], items[1], copy]), target)
    assert "val/p00 = train/p00" in capsys.readouterr().err
    assert np.array_equal(mask_ids(target, "val/p00"), copy.ids)
    assert (target / "splits/train.txt").read_text() == "train/p00\ntrain/p01\n"
    with pytest.raises(DataFaults, match="same content as"):
        check_data(target, 0)


def test_camvid_without_partners_is_refused(tmp_path: Path, items: list[Labelled], target: Path) -> None:
    source = write_kaggle_camvid(tmp_path / "export", items)
    (source / "train/p00.png").unlink()
    (source / "train_labels/p01_L.png").unlink()
    assert [fault.file for fault in faults_of_import(source, target)] == ["train/p01.png", "train_labels/p00_L.png"]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("name,r,g\na,0,0\n", "name, r, g"),
        ("name,r,g,b\na,0,0,0\nb,250,50\n", "'b,250,50' (line 3)"),
        ("name,r,g,b\na,0,0,-1\n", "'a,0,0,-1' (line 2)"),
        ("name,r,g,b\na,0,0,0\nb,0,0,0\n", "(0, 0, 0): 'a' and 'b'"),
        ("", "no header"),
    ],
)
def test_contradictory_class_file_is_refused(
    tmp_path: Path, items: list[Labelled], target: Path, content: str, found: str
) -> None:
    source = write_kaggle_camvid(tmp_path / "export", items)
    (source / "class_dict.csv").write_text(content)
    fault = only_fault(source, target)
    assert (fault.file, fault.found) == ("class_dict.csv", found)


# --- Cityscapes ------------------------------------------------------------------------------------------------------


def with_ids(items: list[Labelled], *values: int) -> list[Labelled]:
    return [replace(item, ids=np.array(values, np.uint8)[item.ids]) for item in items]


def test_label_ids_of_cityscapes_keep_the_official_classes(tmp_path: Path, items: list[Labelled], target: Path) -> None:
    labelled = with_ids(items, 0, 7, 26)
    run_import(write_cityscapes(tmp_path / "export", labelled), target)
    classes = check_imported(target, labelled).classes
    assert classes.ids == tuple(value for _, value, counts, _ in LABELS if counts) and classes.num_classes == 19
    assert (classes.names[0], classes.colors[0], classes.ignore_ids) == ("road", (128, 64, 128), (0,))


def test_classes_of_one_official_colour_stay_apart(tmp_path: Path, items: list[Labelled], target: Path) -> None:
    labelled = with_ids(items, 7, 17, 18)  # road, pole, polegroup
    for item in labelled:
        item.ids[0, :4], item.ids[0, 4:] = 0, 4  # unlabeled, static: both black
    run_import(write_cityscapes(tmp_path / "export", labelled), target)
    classes = check_imported(target, labelled).classes
    assert classes.ignore_ids == (0, 4, 18) and classes.colors[classes.ids.index(17)] == (153, 153, 153)
    assert len({*classes.colors, *classes.ignore_colors}) == 22


def test_train_ids_of_cityscapes_are_numbered_in_order(tmp_path: Path, items: list[Labelled], target: Path) -> None:
    labelled = with_ids(items, 255, 0, 13)
    run_import(write_cityscapes(tmp_path / "export", labelled, "labelTrainIds"), target)
    classes = check_imported(target, labelled).classes
    assert (classes.ids, classes.names[13], classes.ignore_ids) == (tuple(range(19)), "car", (255,))


def test_colour_masks_of_cityscapes_become_label_ids(
    tmp_path: Path, items: list[Labelled], target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_cityscapes(tmp_path / "export", items, "color")
    palette = palette_of([(0, 0, 0), (128, 64, 128), (153, 153, 153)])
    for path in source.rglob("*_color.png"):
        item = next(item for item in items if path.name.startswith(item.name))
        save_png(path, np.dstack([paint(item.ids, palette), np.full(SIZE, 255, np.uint8)]))
    run_import(source, target)
    check_imported(target, with_ids(items, 0, 7, 17))
    assert "black is read as 'unlabeled'" in capsys.readouterr().err


def test_masks_of_the_hidden_test_split_are_left_out(
    tmp_path: Path, items: list[Labelled], target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled = [*with_ids(items[:3], 0, 7, 26), replace(items[3], ids=np.full(SIZE, 3, np.uint8))]
    source = write_cityscapes(tmp_path / "export", labelled)
    shutil.copyfile(items[0].image, source / "leftImg8bit/train/citytrain/preview.png")
    run_import(source, target)
    check_imported(target, labelled[:3])
    printed = capsys.readouterr().out
    assert "left out (every pixel is ignored): gtFine/test/" in printed
    assert "left out (not called NAME_leftImg8bit.png): leftImg8bit/train/citytrain/preview.png" in printed


def test_cityscapes_without_its_second_archive_is_refused(tmp_path: Path, items: list[Labelled], target: Path) -> None:
    source = write_cityscapes(tmp_path / "export", with_ids(items, 0, 7, 26))
    shutil.rmtree(source / "gtFine")
    assert "gtFine_trainvaltest.zip" in only_fault(source, target).expected


# --- ADE20K ----------------------------------------------------------------------------------------------------------


def test_ade20k_keeps_ids_names_and_splits_and_ignores_other_objects(
    tmp_path: Path, items: list[Labelled], target: Path
) -> None:
    labelled = items[:3]
    source = write_ade20k(tmp_path / "export/ADEChallengeData2016", labelled, ("wall", "building, edifice"))
    run_import(source.parent, target)
    classes = check_imported(target, labelled).classes
    assert (classes.ids, classes.names, classes.ignore_ids) == ((1, 2), ("wall", "building, edifice"), (0,))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", "no header"),
        ("Idx\tName\n1\twall\n1\tsky\n", "'1 sky' (line 3)"),
        ("Idx\tName\n1\n", "'1' (line 2)"),
        ("Idx\tName\nx\twall\n", "'x wall' (line 2)"),
    ],
)
def test_contradictory_names_of_ade20k_are_refused(
    tmp_path: Path, items: list[Labelled], target: Path, content: str, found: str
) -> None:
    source = write_ade20k(tmp_path / "export", items[:3], ("wall", "sky"))
    (source / "objectInfo150.txt").write_text(content)
    fault = only_fault(source, target)
    assert (fault.file, fault.found) == ("objectInfo150.txt", found)


# --- nnU-Net ---------------------------------------------------------------------------------------------------------


def test_nnunet_keeps_classes_and_pixels(tmp_path: Path, target: Path) -> None:
    items = draw_labelled(tmp_path / "drawn", [None] * 10)
    run_import(write_nnunet(tmp_path / "export", items, LABELS_OF_NNUNET), target)
    assert check_imported(target, items).classes.names == NAMES


def test_nnunet_of_version_1_and_ignore_label(tmp_path: Path, target: Path) -> None:
    items = draw_labelled(tmp_path / "drawn", [None] * 10)
    source = write_nnunet(tmp_path / "export", items, {"0": "background", "1": "road", "2": "ignore"})
    content = json.loads((source / "dataset.json").read_text())
    content["modality"] = content.pop("channel_names")
    (source / "dataset.json").write_text(json.dumps(content))
    run_import(source, target)
    classes = check_imported(target, items).classes
    assert (classes.names, classes.ignore_ids) == (("background", "road"), (2,))


def test_test_images_of_nnunet_count_only_with_masks(
    tmp_path: Path, items: list[Labelled], target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled = [replace(item, split="test" if item.split == "test" else "train") for item in items]
    source = write_nnunet(tmp_path / "export", labelled, LABELS_OF_NNUNET)
    run_import(source, target)
    assert (target / "splits/test.txt").read_text() == "p03\n"
    assert "no val split" in capsys.readouterr().err
    shutil.rmtree(source / "labelsTs")
    run_import(source, tmp_path / "other")
    assert not (tmp_path / "other/splits").exists()
    assert "left out (no mask): imagesTs/p03_0000.png" in capsys.readouterr().out


def test_three_channel_files_become_one_rgb_image(tmp_path: Path, target: Path) -> None:
    items = draw_labelled(tmp_path / "drawn", [None] * 10)
    source = write_nnunet(tmp_path / "export", items, LABELS_OF_NNUNET, channels=3)
    for item in items:
        with Image.open(item.image) as image:
            for channel, plane in enumerate(image.split()):
                plane.save(source / "imagesTr" / f"{item.name}_{channel:04d}.png")
    run_import(source, target)
    for item in items:
        with Image.open(item.image) as image, Image.open(target / "images" / f"{item.name}.png") as merged:
            assert np.array_equal(np.asarray(image), np.asarray(merged))


def two_bits(ids: UInt8) -> bytes:
    return grey_png(ids, 2)


def sorted_palette(ids: UInt8) -> bytes:
    """Return a palette PNG whose colours are the grey values, in another order, as oxipng writes it."""
    return palette_png(ids, {value: (value, value, value) for value in range(3)}, [2, 0, 1])


@pytest.mark.parametrize("encode", [two_bits, sorted_palette])
def test_masks_that_were_made_smaller_keep_their_ids(
    tmp_path: Path, target: Path, encode: Callable[[UInt8], bytes]
) -> None:
    items = draw_labelled(tmp_path / "drawn", [None] * 10)
    source = write_nnunet(tmp_path / "export", items, LABELS_OF_NNUNET)
    for item in items:
        (source / "labelsTr" / f"{item.name}.png").write_bytes(encode(item.ids))
    run_import(source, target)
    check_imported(target, items)


def test_lossy_masks_are_refused(tmp_path: Path, target: Path) -> None:
    items = draw_labelled(tmp_path / "drawn", [None] * 4)
    source = write_nnunet(tmp_path / "export", items, LABELS_OF_NNUNET)
    (source / "labelsTr/p01.png").unlink()
    Image.fromarray(items[1].ids).save(source / "labelsTr/p01.jpg")
    fault = only_fault(source, target)
    assert (fault.file, fault.found) == ("labelsTr/p01.jpg", "JPEG")


def test_white_that_may_be_an_ignored_pixel_or_a_class_is_refused(
    tmp_path: Path, items: list[Labelled], target: Path
) -> None:
    labelled = with_ids(items, 0, 0, 1)
    source = write_cityscapes(tmp_path / "export", labelled, "labelTrainIds")
    path = next(source.rglob("p00_gtFine_labelTrainIds.png"))
    save_png(path, labelled[0].ids, bytes([0, 0, 0, 255, 255, 255]))
    assert "different meanings" in only_fault(source, target).found


@pytest.mark.parametrize(("channels", "dtype"), [(2, np.uint8), (3, np.uint16), (5, np.uint8)])
def test_other_channel_files_become_bands(
    tmp_path: Path, target: Path, channels: int, dtype: type[np.uint8] | type[np.uint16]
) -> None:
    items = draw_labelled(tmp_path / "drawn", [None] * 10)
    source = write_nnunet(tmp_path / "export", items, LABELS_OF_NNUNET, channels)
    rng = np.random.default_rng(0)
    bands = {item.name: rng.integers(0, np.iinfo(dtype).max, (*SIZE, channels), dtype) for item in items}
    for name, pixels in bands.items():
        for channel in range(channels):
            Image.fromarray(pixels[..., channel]).save(source / "imagesTr" / f"{name}_{channel:04d}.png")
    run_import(source, target)
    for name, pixels in bands.items():
        image = decode_raw((target / "images" / f"{name}.tif").read_bytes(), DEFAULT_READING)
        assert image.bands == channels and np.array_equal(image.pixels, pixels)
    assert len(check_data(target, 0).pairs) == 10


@pytest.mark.parametrize(
    ("change", "file", "found"),
    [
        ({"labels": {"background": 0, "whole": [1, 2]}}, "dataset.json", "'whole': [1, 2]"),
        ({"labels": {"background": 0, "road": 1, "car": 1}}, "dataset.json", "1: 'road', 'car'"),
        ({"labels": None}, "dataset.json", "None"),
        ({"numTraining": 5}, "dataset.json", "4"),
        ({"file_ending": ".nii.gz"}, "imagesTr/", ".nii.gz"),
        ({"channel_names": {"0": "a", "1": "b"}}, "imagesTr/p01_*", "imagesTr/p01_0000.png, imagesTr/p01_0003.png"),
    ],
)
def test_contradictory_dataset_json_is_refused(
    tmp_path: Path, target: Path, change: dict[str, object], file: str, found: str
) -> None:
    items = draw_labelled(tmp_path / "drawn", [None] * 4)
    source = write_nnunet(tmp_path / "export", items, LABELS_OF_NNUNET)
    if "channel_names" in change:
        shutil.copyfile(source / "imagesTr/p01_0000.png", source / "imagesTr/p01_0003.png")
    content = json.loads((source / "dataset.json").read_text()) | change
    (source / "dataset.json").write_text(json.dumps(content))
    fault = only_fault(source, target)
    assert (fault.file, fault.found) == (file, found)
