"""lake.py import-labels: what YOLO data sets contain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset.splitting.splits import read_splits
from tests.support.exports import polygon as exports
from tests.support.exports.polygon import class_list, differing, reference, refused, run_import

TWO = {"background": 0, "road": 1, "car": 2}


@pytest.mark.parametrize(
    ("line", "expected", "found"),
    [
        ("0 0.1 0.1 0.2", "corners", "3 numbers"),
        ("0 0.5 0.5 0.2 0.2", "at least 3 corners", "box"),
        ("0 0.1 0.1 nan 0.2 0.3 0.3", "coordinates", "nan"),
        ("2 0.1 0.1 0.2 0.2 0.3 0.1", "0 road, 1 car", "2"),
        ("road 0.1 0.1 0.2 0.2 0.3 0.1", "as numbers", "road"),
        ("0 10 10 80 10 80 60", "fractions", "80"),
    ],
)
def test_malformed_yolo_line_is_named(source: Path, target: Path, line: str, expected: str, found: str) -> None:
    exports.write_yolo(source)
    with (source / "labels/train/p01.txt").open("a") as file:
        file.write(f"\n{line}\n")
    (fault,) = refused(source, target)
    assert fault.file == "labels/train/p01.txt" and "line 4" in fault.found
    assert expected in fault.expected and found in fault.found


def test_yolo_images_without_polygons_are_background_and_named(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exports.write_yolo(source)
    (source / "labels/train/p01.txt").unlink()
    run_import(source, target)
    assert not np.asarray(Image.open(target / "masks/p01.png")).any()
    assert (
        "images without annotations (1): no polygons means background: images/train/p01.png" in capsys.readouterr().err
    )


def test_shapes_beyond_the_image_are_cut_off_and_named(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exports.write_yolo(source)
    (source / "labels/train/p01.txt").write_text("0 0.5 0.5 1.5 0.5 1.5 0.75 0.5 0.75\n")
    run_import(source, target)
    assert (np.asarray(Image.open(target / "masks/p01.png")) == 1).sum() == 80 * 30
    assert (
        "shapes that reach beyond their image were cut off (1): labels/train/p01.txt: line 1" in capsys.readouterr().err
    )


def test_yaml_files_that_disagree_are_refused(source: Path, target: Path) -> None:
    exports.write_yolo(source)
    text = (source / "data.yaml").read_text()
    (source / "other.yaml").write_text(text)
    (source / "wrong.yaml").write_text(text.replace("0: road", "0: street"))
    (fault,) = refused(source, target)
    assert fault.file == "wrong.yaml" and "names" in fault.expected and "data.yaml" in fault.expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("val: images/val", "val: images/train", "each image in one split"),
        ("val: images/val", "val: images/valid", "val: a directory or list of images"),
        ("names:", "nc: 5\nnames:", "nc: 2"),
        ("  0: road", "  zero: road", "number: name"),
        ("path: .", "path: [", "readable YAML"),
        ("path: .", "path: !!python/object/apply:os.getcwd []", "readable YAML"),
    ],
)
def test_contradictory_yaml_is_refused(source: Path, target: Path, old: str, new: str, expected: str) -> None:
    exports.write_yolo(source)
    path = source / "data.yaml"
    path.write_text(path.read_text().replace(old, new))
    found = refused(source, target)
    assert {fault.file for fault in found} == {"data.yaml"}
    assert any(expected in fault.expected for fault in found)


def test_yolo_lists_of_images_are_the_splits(source: Path, target: Path) -> None:
    exports.write_yolo(source)
    (source / "train.txt").write_text("/home/me/set/images/train/p00.png\n./images/train/p01.png\n")
    (source / "val.txt").write_text("images/val/p02.png\n")
    (source / "data.yaml").write_text("train: train.txt\nval: val.txt\nnames: [road, car]\n")
    run_import(source, target)
    stored = read_splits(target)
    assert stored is not None
    assert {name: split for split, _, name in stored.lines} == {"p00": "train", "p01": "train", "p02": "val"}


def test_yolo_label_without_an_image_is_refused(source: Path, target: Path) -> None:
    exports.write_yolo(source)
    (source / "images/train/p01.png").unlink()
    (fault,) = refused(source, target)
    assert fault.file == "labels/train/p01.txt"


def test_yolo_classes_txt_replaces_the_yaml_file(source: Path, target: Path) -> None:
    exports.write_yolo(source)
    (source / "data.yaml").unlink()
    (source / "classes.txt").write_text("road\ncar\n")
    run_import(source, target)
    assert class_list(target) == TWO


def test_background_among_the_yolo_names_is_not_added_again(source: Path, target: Path) -> None:
    exports.write_yolo(source)
    path = source / "data.yaml"
    path.write_text(path.read_text() + "  2: Background\n")
    run_import(source, target)
    assert class_list(target) == {"road": 0, "car": 1, "Background": 2}
    assert differing(target, "p00", np.where(reference(road=1, car=2) > 0, reference(road=1, car=2) - 1, 2)) <= 0.005


@pytest.mark.parametrize("key", ["names", "nc", "train"])
def test_references_of_yaml_that_stand_for_endless_lists_are_refused(source: Path, target: Path, key: str) -> None:
    exports.write_yolo(source)
    lists = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'x'] * 10)}]" for i in range(12)]
    values = {"names": "[road, car]", "train": "images/train", key: "[*a11]"}
    (source / "data.yaml").write_text("\n".join([*lists, *(f"{name}: {value}" for name, value in values.items()), ""]))
    (fault,) = refused(source, target)
    assert fault.file == "data.yaml" and "a reference" in fault.found
