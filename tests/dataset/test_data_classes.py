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
    warnings_of,
    write_classes,
)


def test_class_list_under_the_key_classes_is_read(flat: Path) -> None:
    write_classes(flat, {"classes": [{"id": 1, "name": "나무", "color": [1, 2, 3]}, {"id": 0, "name": "sky"}]})
    classes = check_data(flat, 0).classes
    assert (classes.ids, classes.names, classes.colors[1]) == ((0, 1), ("sky", "나무"), (1, 2, 3))


FORMS = 'classes as [{"id": 0, "name": "..."}, ...], ["name", ...], id -> name or name -> id'
GOOD = {"id": 0, "name": "a"}


@pytest.mark.parametrize(
    "content",
    [
        ["sky", "road"],
        {"names": ["sky", "road"], "nc": 2},
        {"0": "sky", "1": "road"},
        {"sky": 0, "road": 1},
        {"sky": "0", "road": "1"},
        {"classes": {"1": "road", "0": "sky"}},
        {"0": {"name": "sky"}, "1": {"name": "road", "color": "#FF8000"}},
        {"road": {"id": 1}, "sky": {"id": 0, "color": None}},
        [{"id": 0, "name": "sky"}, {"id": 1, "name": "road", "color": "#ff8000"}],
        {"categories": [{"id": 0, "name": "sky"}, {"id": 1, "name": "road", "supercategory": ""}], "images": []},
        [{"id": 1, "name": "road", "supercategory": "", "isthing": 0}, {"id": 0, "name": "sky"}],
    ],
)
def test_other_forms_of_class_lists_are_read(flat: Path, content: object) -> None:
    write_classes(flat, content)
    classes = check_data(flat, 0).classes
    assert (classes.ids, classes.names, classes.ignore_ids) == ((0, 1), ("sky", "road"), ())
    if "8000" in str(content):
        assert classes.colors[1] == (255, 128, 0)


@pytest.mark.parametrize("content", [{"0": "sky", "1": "road", "255": "Void"}, {"sky": 0, "road": 1, "ignore": 255}])
def test_255_with_the_name_of_no_class_is_ignored_in_short_forms(flat: Path, content: object) -> None:
    put_mask(flat / "masks" / "a0.png", (0, 1, 255))
    write_classes(flat, content)
    classes = check_data(flat, 0).classes
    assert (classes.names, classes.ignore_ids) == (("sky", "road"), (255,))


def test_coco_categories_imply_background_and_ignore_what_they_lack(flat: Path) -> None:
    for number in range(10):
        put_mask(flat / "masks" / f"a{number}.png", (0, 1, 2))
    write_classes(flat, {"categories": [{"id": 1, "name": "road", "supercategory": ""}]})
    data = check_data(flat, 0)
    assert (data.classes.names, data.classes.ids, data.classes.ignore_ids) == (("background", "road"), (0, 1), (2,))
    (warning,) = warnings_of(data)
    assert warning.kind == "unlisted-values" and warning.text.startswith("values 2 of the masks (33.3% of the pixels)")
    write_classes(flat, {"categories": [{"id": 1, "name": "road"}, {"id": 2, "name": "tree"}]})
    assert check_data(flat, 0).classes.names == ("background", "road", "tree")
    for number in range(10):
        put_mask(flat / "masks" / f"a{number}.png", (1, 2))
    assert check_data(flat, 0).classes.names == ("road", "tree"), "no mask has a background"


def test_key_that_occurs_twice_is_a_fault(flat: Path) -> None:
    (flat / "classes.json").write_text('{"sky": 0, "road": 1, "road": 2}')
    assert Fault("classes.json", "each key once", "'road' x2") in faults_of(flat)


@pytest.mark.parametrize(
    ("content", "entry"),
    [
        ([{"id": 1, "name": "crack"}], '{"id": 0, "name": "background"}'),
        ({"1": "crack"}, '"0": "background"'),
        ({"crack": 1}, '"background": 0'),
    ],
)
def test_forgotten_background_is_a_fault_with_the_entry_to_add(flat: Path, content: object, entry: str) -> None:
    write_classes(flat, content)
    file, expected, found = only_fault(flat)
    assert (file, found) == ("classes.json", "unknown values 0: in 10 masks, 50.0% of all pixels")
    assert expected == f"an entry for each mask value: add {entry}"


@pytest.mark.parametrize(
    ("content", "expected", "found"),
    [
        ([GOOD, {"id": 0, "name": "b"}], "ids that differ", "id 0 x2"),
        ([GOOD, {"id": 1, "name": "a"}], "names that differ", "name 'a' x2"),
        ([GOOD, {"id": 256, "name": "b"}], "class 2: id is a whole number from 0 to 255", "256"),
        ([GOOD, {"id": True, "name": "b"}], "class 2: id is a whole number from 0 to 255", "true"),
        ([GOOD, {"name": "b"}], "class 2: id is a whole number from 0 to 255", "missing"),
        ([GOOD, {"id": 1}], "class 2: a name of 1 to 200 characters, none of control", "missing"),
        (
            [{**GOOD, "color": [0, 0, 300]}],
            'class 1: color is [red, green, blue], 0 to 255 each, or "#rrggbb"',
            "[0, 0, 300]",
        ),
        ([{**GOOD, "color": "red"}], 'class 1: color is [red, green, blue], 0 to 255 each, or "#rrggbb"', '"red"'),
        ([{**GOOD, "ignore": 1}], "class 1: ignore is true or false", "1"),
        (
            [{**GOOD, "colour": [0, 0, 0]}],
            "class 1: one of id, name, color, ignore",
            "unknown key 'colour' (did you mean 'color'?)",
        ),
        ([{**GOOD, "ignore": True}], "1 to 255 classes to learn (not ignored)", "0"),
        ([], "1 to 255 classes to learn (not ignored)", "0"),
        ([GOOD, "sky"], 'class 2: {"id": 0, "name": "..."}', '"sky"'),
        ("sky", FORMS, '"sky"'),
        ({}, FORMS, "{}"),
        (["0", "1"], FORMS, 'a list of numbers or colours, without names: ["0", "1"]'),
        ({"0": 1, "1": 0}, FORMS, 'numbers on both sides: id -> name and name -> id look the same: {"0": 1, "1": 0}'),
        ({"sky": "#ff0000"}, FORMS, 'colours without ids or without names: {"sky": "#ff0000"}'),
        ({"0": [0, 0, 0]}, FORMS, 'colours without ids or without names: {"0": [0, 0, 0]}'),
        ({"sky": "blue"}, FORMS, '{"sky": "blue"}'),
        ({"0": {"id": 1, "name": "sky"}}, FORMS, """'0' with another id inside: {"0": {"id": 1, "name": "sky"}}"""),
        ({"classes": [GOOD], "categories": [GOOD]}, "one list of classes", '"classes", "categories"'),
        ({"sky": 0, "road": 256}, "class 2: id is a whole number from 0 to 255", "256"),
        (["sky", "sky"], "names that differ", "name 'sky' x2"),
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
