"""The check of a data directory: classes.json, and classes inferred from mask values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset.faults import Fault
from dataset.validation import check_data
from tests.support.data_directories import (
    SIZE,
    faults_of,
    only_fault,
    put_image,
    put_mask,
    put_pair,
    write_classes,
)


def test_class_list_under_the_key_classes_is_read(flat: Path) -> None:
    write_classes(flat, {"classes": [{"id": 1, "name": "나무", "color": [1, 2, 3]}, {"id": 0, "name": "sky"}]})
    classes = check_data(flat, 0).classes
    assert (classes.ids, classes.names, classes.colors[1]) == ((0, 1), ("sky", "나무"), (1, 2, 3))


GOOD = {"id": 0, "name": "a"}


@pytest.mark.parametrize(
    ("content", "expected", "found"),
    [
        ([GOOD, {"id": 0, "name": "b"}], "ids that differ", "id 0 x2"),
        ([GOOD, {"id": 1, "name": "a"}], "names that differ", "name 'a' x2"),
        ([GOOD, {"id": 256, "name": "b"}], "class 2: id is a whole number from 0 to 255", "256"),
        ([GOOD, {"id": True, "name": "b"}], "class 2: id is a whole number from 0 to 255", "true"),
        ([GOOD, {"name": "b"}], "class 2: id is a whole number from 0 to 255", "missing"),
        ([GOOD, {"id": 1}], "class 2: a name that is not empty", "missing"),
        ([{**GOOD, "color": [0, 0, 300]}], "class 1: color is [red, green, blue], 0 to 255 each", "[0, 0, 300]"),
        ([{**GOOD, "color": "red"}], "class 1: color is [red, green, blue], 0 to 255 each", '"red"'),
        ([{**GOOD, "ignore": 1}], "class 1: ignore is true or false", "1"),
        (
            [{**GOOD, "colour": [0, 0, 0]}],
            "class 1: one of id, name, color, ignore",
            "unknown key 'colour' (did you mean 'color'?)",
        ),
        ([{**GOOD, "ignore": True}], "1 to 255 classes to learn (not ignored)", "0"),
        ([], "1 to 255 classes to learn (not ignored)", "0"),
        (["sky"], 'class 1: {"id": 0, "name": "..."}', '"sky"'),
        ("sky", "a list of classes [...]", '"sky"'),
    ],
)
def test_invalid_class_lists_are_faults(flat: Path, content: object, expected: str, found: str) -> None:
    write_classes(flat, content)
    assert Fault("classes.json", expected, found) in faults_of(flat)


def test_class_list_that_is_not_json_is_a_fault(flat: Path) -> None:
    (flat / "classes.json").write_text("[{,")
    assert only_fault(flat)[:2] == ("classes.json", "readable JSON (UTF-8)")


@pytest.mark.parametrize("high", [1, 255])
def test_binary_masks_become_background_and_foreground(tmp_path: Path, high: int) -> None:
    for number in range(4):
        put_pair(tmp_path, f"b{number}", (0, 0, high))
    data = check_data(tmp_path, 0)
    assert (data.classes.ids, data.classes.names) == ((0, high), ("background", "foreground"))
    assert data.classes.ignore_ids == ()
    assert data.pixel_counts["val"] == (32, 16)


def test_classes_are_inferred_from_mask_values(flat: Path) -> None:
    put_mask(flat / "masks" / "a0.png", (0, 3, 255))
    classes = check_data(flat, 0).classes
    assert (classes.ids, classes.names, classes.ignore_ids) == ((0, 1, 3), ("class_0", "class_1", "class_3"), (255,))
    assert classes.colors[0] == (0, 0, 0) and len(set(classes.colors)) == 3


def test_masks_with_one_value_only_are_a_fault(tmp_path: Path) -> None:
    for number in range(3):
        put_pair(tmp_path, f"b{number}", (0,))
    file, expected, found = only_fault(tmp_path)
    assert (file, found) == ("masks/", "1: 0")
    assert expected == "2 to 255 class values in all masks together (or classes.json)"


def test_too_many_values_are_a_fault_with_a_hint(flat: Path) -> None:
    put_mask(flat / "masks" / "a0.png", tuple(range(48)))
    check_data(flat, 0)
    put_image(flat / "images" / "a0.png", size=(16, 16))
    put_mask(flat / "masks" / "a0.png", tuple(range(100)), size=(16, 16))
    file, expected, found = only_fault(flat)
    assert (file, expected) == ("masks/a0.png", "at most 64 class values")
    assert found.startswith("100 values (a photo, JPEG artefacts, or interpolation?")


def test_jpeg_masks_with_artefacts_are_a_fault(flat: Path) -> None:
    put_mask(flat / "masks" / "a0.jpg", (0, 1, 90, 250))
    (flat / "masks" / "a0.png").unlink()
    assert "store masks as PNG" in only_fault(flat)[2]
    write_classes(flat, [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}])
    assert only_fault(flat)[1] == "a mask without lossy compression"
    assert "store masks as PNG" in only_fault(flat)[2]


@pytest.mark.parametrize("values", [(0, 1), (0, 255)])
def test_one_bit_masks_use_the_high_value_of_the_others(tmp_path: Path, values: tuple[int, int]) -> None:
    """A set bit means 1 where the others use 1, else 255; the check and later reads must agree."""
    for number in range(4):
        put_pair(tmp_path, f"b{number}", values)
    Image.fromarray(np.resize(np.array([True, False]), SIZE)).save(tmp_path / "masks" / "b0.png")
    data = check_data(tmp_path, 0)
    assert data.classes.ids == values
    assert sum(sum(counts) for counts in data.pixel_counts.values()) == 4 * 48
    assert [sum(counts[i] for counts in data.pixel_counts.values()) for i in (0, 1)] == [96, 96]
