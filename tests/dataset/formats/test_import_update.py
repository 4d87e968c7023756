"""lake.py import-labels --update: new pairs and corrected masks in data that exists."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import UsageError
from dataset.class_file import read_classes
from dataset.faults import DataFaults, Fault
from dataset.formats.record import source_metadata
from dataset.splitting.splits import read_splits
from dataset.validation import check_data
from tests.support.data_directories import make_split
from tests.support.exports.imports import mask_ids, run_import
from tests.support.exports.raster import COLORS, NAMES, SIZE, Labelled, draw_labelled, write_cvat, write_voc

SPLITS = ("train", "train", "val", None, "train")


@pytest.fixture
def items(tmp_path: Path) -> list[Labelled]:
    return draw_labelled(tmp_path / "drawn", SPLITS)


@pytest.fixture
def target(tmp_path: Path, items: list[Labelled]) -> Path:
    """Return a data directory with the first three items, in the user's own splits."""
    run_import(write_cvat(tmp_path / "first", items[:3]), tmp_path / "data")
    return tmp_path / "data"


def update(source: Path, target: Path) -> None:
    run_import(source, target, "--update")


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def refused(source: Path, target: Path) -> tuple[Fault, ...]:
    """Return the faults of an update that changes nothing."""
    before = contents(target)
    with pytest.raises(DataFaults) as caught:
        update(source, target)
    assert contents(target) == before
    return caught.value.faults


def corrected(item: Labelled) -> Labelled:
    return replace(item, ids=((item.ids + 1) % 3).astype(np.uint8))


def test_corrected_masks_are_replaced_and_new_pairs_added(
    tmp_path: Path, items: list[Labelled], target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = [items[0], corrected(items[1]), items[3], items[4]]
    before = contents(target)
    update(write_cvat(tmp_path / "second", second), target)
    printed = capsys.readouterr()
    assert f"{target}: pairs added: 2, masks replaced: 1, unchanged: 1" in printed.out
    for item in (items[0], second[1], items[2], *items[3:]):
        assert np.array_equal(mask_ids(target, item.name), item.ids)
    assert contents(target)["masks/p00.png"] == before["masks/p00.png"]
    assert "lists them: p03\n" in printed.err
    splits = {pair.name: pair.split for pair in check_data(target, 0).pairs}
    assert splits == {"p00": "train", "p01": "train", "p02": "val", "p04": "train"}
    assert source_metadata(target)["label_source_sha256"] not in before["label_source.json"].decode()


def test_images_are_found_by_content_under_other_names(tmp_path: Path, items: list[Labelled], target: Path) -> None:
    renamed = replace(corrected(items[1]), name="task/frame_000001")
    update(write_cvat(tmp_path / "second", [renamed]), target)
    assert np.array_equal(mask_ids(target, "p01"), renamed.ids)
    assert not (target / "masks/task").exists()


def test_classes_are_matched_by_name(tmp_path: Path, items: list[Labelled], target: Path) -> None:
    swapped = replace(items[0], ids=np.array([2, 0, 1], np.uint8)[items[0].ids])
    names, colors = (NAMES[1], NAMES[2], NAMES[0]), (COLORS[1], COLORS[2], COLORS[0])
    update(write_cvat(tmp_path / "second", [swapped], names, colors), target)
    assert np.array_equal(mask_ids(target, "p00"), items[0].ids)


def test_unknown_class_is_refused_only_where_it_is_used(tmp_path: Path, items: list[Labelled], target: Path) -> None:
    names, colors = (*NAMES, "tree"), (*COLORS, (1, 2, 3))
    update(write_cvat(tmp_path / "unused", [items[3]], names, colors), target)
    used = replace(items[4], ids=np.full(SIZE, 3, np.uint8))
    (fault,) = refused(write_cvat(tmp_path / "used", [used], names, colors), target)
    assert "classes.json" in fault.expected and fault.found == "tree"


def test_ignored_pixels_become_the_ignored_id_of_the_data(tmp_path: Path) -> None:
    items = draw_labelled(tmp_path / "drawn", [None] * 2)
    names = ("road", "car", "void")
    run_import(write_cvat(tmp_path / "first", items[:1], names), tmp_path / "data")
    second = replace(items[1], ids=np.array([0, 1, 255], np.uint8)[items[1].ids])
    palette = bytes([0, 0, 0, 128, 0, 0]) + bytes(759) + bytes([224, 224, 192])
    update(write_voc(tmp_path / "second", [second], palette, names[:2]), tmp_path / "data")
    assert read_classes(tmp_path / "data/classes.json").ignore_ids == (2,)
    assert np.array_equal(mask_ids(tmp_path / "data", "p01"), items[1].ids)


def test_another_image_of_the_same_name_is_refused(tmp_path: Path, items: list[Labelled], target: Path) -> None:
    other = replace(items[4], name="p00")
    (fault,) = refused(write_cvat(tmp_path / "second", [other]), target)
    assert (fault.file, fault.found) == ("JPEGImages/p00.png", "another image")


def test_splits_of_train_py_are_left_to_it(tmp_path: Path, items: list[Labelled]) -> None:
    data = tmp_path / "data"
    first = [replace(item, split=None) for item in items[:3]]
    run_import(write_cvat(tmp_path / "first", first), data)
    check_data(data, 0)
    before = read_splits(data)
    update(write_cvat(tmp_path / "second", [replace(items[3], split="val")]), data)
    assert read_splits(data) == before
    assert len(check_data(data, 0).pairs) == 4


def test_mask_of_another_format_is_replaced(tmp_path: Path, items: list[Labelled], target: Path) -> None:
    with Image.open(target / "masks/p00.png") as image:
        image.convert("L").save(target / "masks/p00.tif")
    (target / "masks/p00.png").unlink()
    second = corrected(items[0])
    update(write_cvat(tmp_path / "second", [second]), target)
    assert np.array_equal(mask_ids(target, "p00"), second.ids) and not (target / "masks/p00.tif").exists()


def test_interrupted_update_is_completed(
    tmp_path: Path, items: list[Labelled], target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_cvat(tmp_path / "second", [corrected(items[0]), items[4]])
    moved: list[object] = []

    def interrupted(old: object, new: object) -> None:
        moved.append(new)
        if len(moved) == 3:
            raise KeyboardInterrupt
        shutil.move(str(old), str(new))

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            update(source, target)
    update(source, target)
    assert np.array_equal(mask_ids(target, "p00"), corrected(items[0]).ids)
    assert np.array_equal(mask_ids(target, "p04"), items[4].ids)
    assert {pair.name for pair in check_data(target, 0).pairs} == {"p00", "p01", "p02", "p04"}
    assert not (target / ".update").exists()


def test_other_layouts_and_data_without_classes_are_refused(
    tmp_path: Path, items: list[Labelled], target: Path
) -> None:
    source = write_cvat(tmp_path / "second", items[3:])
    with pytest.raises(UsageError, match="needs images/ and masks/"):
        update(source, make_split(tmp_path / "split"))
    (target / "classes.json").unlink()
    with pytest.raises(UsageError, match=r"needs a classes\.json"):
        update(source, target)


def test_update_of_an_empty_directory_is_an_import(tmp_path: Path, items: list[Labelled]) -> None:
    update(write_cvat(tmp_path / "export", items[:3]), tmp_path / "new")
    assert len(check_data(tmp_path / "new", 0).pairs) == 3
