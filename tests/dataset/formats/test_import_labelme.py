"""lake.py import-labels: what labelme exports."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dataset.validation import check_data
from tests.support.data_directories import put_image
from tests.support.exports import polygon as exports
from tests.support.exports.polygon import class_list, edit, refused, run_import, write_json


def test_labelme_shapes_with_an_area_are_drawn(source: Path, target: Path) -> None:
    exports.write_labelme(source, 1)
    mask = np.zeros((4, 5), np.bool_)
    mask[1:3, 1:4] = True
    shapes = [
        {"label": "box", "points": [[10, 10], [20, 14]], "shape_type": "rectangle"},
        {"label": "disk", "points": [[60, 60], [60, 80]], "shape_type": "circle"},
        {"label": "spot", "points": [[100, 20], [104, 23]], "shape_type": "mask", "mask": _base64_png(mask)},
    ]
    edit(source / "p00.json", lambda content: content.update(shapes=shapes))
    run_import(source, target)
    values = np.asarray(Image.open(target / "masks/p00.png"))
    counts = {name: int((values == value).sum()) for name, value in class_list(target).items()}
    assert counts["box"] == 40 and counts["spot"] == 6
    assert counts["disk"] == pytest.approx(np.pi * 400, rel=0.01)
    assert (values[21:23, 101:104] == class_list(target)["spot"]).all()


def _base64_png(pixels: np.ndarray) -> str:
    return base64.b64encode(exports.png_bytes(pixels)).decode()


def test_image_inside_a_labelme_file_replaces_a_missing_one(source: Path, target: Path) -> None:
    exports.write_labelme(source)
    data = (source / "p01.png").read_bytes()
    edit(source / "p01.json", lambda content: content.update(imageData=base64.b64encode(data).decode()))
    (source / "p01.png").unlink()
    run_import(source, target)
    assert (target / "images/p01.png").read_bytes() == data


def test_missing_image_names_the_labelme_file(source: Path, target: Path) -> None:
    exports.write_labelme(source)
    (source / "p01.png").unlink()
    (fault,) = refused(source, target)
    assert fault.file == "p01.json" and "p01.png" in fault.expected


def test_image_path_of_another_machine_is_found_in_the_export(source: Path, target: Path) -> None:
    exports.write_labelme(source)
    edit(source / "p01.json", lambda content: content.update(imagePath="C:\\Users\\me\\photos\\p01.png"))
    assert run_import(source, target) == 0


def test_path_out_of_the_export_is_not_followed(tmp_path: Path, source: Path, target: Path) -> None:
    exports.write_labelme(source)
    put_image(tmp_path / "secret.png", 0, exports.SIZE)
    (source / "p01.png").unlink()
    edit(source / "p01.json", lambda content: content.update(imagePath="../secret.png"))
    (fault,) = refused(source, target)
    assert fault.file == "p01.json" and "secret.png" in fault.expected


def test_images_without_a_labelme_file_are_named_and_left_out(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exports.write_labelme(source)
    (source / "p01.json").unlink()
    edit(source / "p02.json", lambda content: content.update(shapes=[], flags={"night": True, "day": False}))
    run_import(source, target)
    shown = capsys.readouterr()
    assert "left out (not annotated (no JSON file)): p01.png" in shown.out
    assert "images without annotations (1)" in shown.err and "p02.json" in shown.err and "night (1)" in shown.err
    assert not np.asarray(Image.open(target / "masks/p02.png")).any()
    assert not (target / "images/p01.png").exists()


def test_ignored_and_background_labels_of_labelme_keep_their_meaning(source: Path, target: Path) -> None:
    exports.write_labelme(source)
    (source / "labels.txt").write_text("__ignore__\n_background_\nroad\ncar\ntree\n")
    hole = {"label": "_background_", "points": [[60, 100], [70, 100], [70, 110]], "shape_type": "polygon"}
    off = {"label": "__ignore__", "points": [[80, 100], [90, 100], [90, 110]], "shape_type": "polygon"}
    edit(source / "p00.json", lambda content: content["shapes"].extend([hole, off]))
    run_import(source, target)
    assert class_list(target) == {"_background_": 0, "road": 1, "car": 2, "tree": 3, "__ignore__": 255}
    values = np.asarray(Image.open(target / "masks/p00.png"))
    assert (values[102, 68], values[102, 88]) == (0, 255)


def test_classes_json_in_the_export_gives_ids_and_colours(source: Path, target: Path) -> None:
    exports.write_labelme(source)
    listed = [{"id": 0, "name": "background"}, {"id": 7, "name": "car", "color": [9, 8, 7]}, {"id": 9, "name": "road"}]
    write_json(source / "classes.json", listed)
    run_import(source, target)
    assert class_list(target) == {"background": 0, "car": 7, "road": 9}
    assert check_data(target, 0).classes.colors[1] == (9, 8, 7)


def test_label_that_is_not_listed_is_refused(source: Path, target: Path) -> None:
    exports.write_labelme(source)
    (source / "labels.txt").write_text("__ignore__\n_background_\nroad\n")
    (fault,) = refused(source, target)
    assert fault.file == "labels.txt" and "car" in fault.found


@pytest.mark.parametrize(
    ("shape", "expected", "found"),
    [
        ({"points": [[1, 1], [2, 2]]}, "at least 3 corners", "2"),
        ({"points": [[1, 1], [2, 2], [3, float("nan")]]}, "coordinates of an image", "nan"),
        ({"points": "none"}, "corners as numbers", "other values"),
        ({"points": [[1, 1], [9, 9]], "shape_type": "line"}, "a shape with an area", "line"),
        ({"points": [[1, 1]], "shape_type": "circle"}, "two points", "[[1, 1]]"),
        ({"points": [[1, 1], [4, 4]], "shape_type": "mask", "mask": "%%%"}, "", "shape 1"),
        ({"points": [[1, 1], [4, 4]], "shape_type": "mask", "mask": None}, "base64", "null"),
        ({"label": ""}, "label", "shape 1"),
    ],
)
def test_malformed_labelme_shape_is_named(
    source: Path, target: Path, shape: dict[str, Any], expected: str, found: str
) -> None:
    exports.write_labelme(source)
    edit(source / "p01.json", lambda content: content["shapes"][0].update(shape))
    (fault,) = refused(source, target)
    assert fault.file == "p01.json" and "shape 1" in fault.found
    assert expected in fault.expected and found in fault.found


def test_annotations_of_another_size_are_refused(source: Path, target: Path) -> None:
    exports.write_labelme(source)
    edit(source / "p01.json", lambda content: content.update(imageWidth=64))
    (fault,) = refused(source, target)
    assert fault.file == "p01.json" and "160x120" in fault.expected and "64x120" in fault.found


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_annotations_of_the_unrotated_image_name_the_exif_orientation(source: Path, target: Path, kind: str) -> None:
    exports.write_labelme(source)
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(source / "p01.png") as image:
        image.save(source / "p01.png", kind, exif=exif)
    (fault,) = refused(source, target)
    assert "EXIF orientation" in fault.found and "120x160" in fault.expected


def test_image_with_two_labelme_files_is_refused(source: Path, target: Path) -> None:
    exports.write_labelme(source)
    write_json(source / "again.json", exports.labelme_content("p01.png"))
    (fault,) = refused(source, target)
    assert fault.file == "p01.json" and "again.json" in fault.found


def test_truncated_json_is_refused_by_name(source: Path, target: Path) -> None:
    exports.write_labelme(source)
    (source / "p01.json").write_text('{"shapes": [')
    (fault,) = refused(source, target)
    assert fault.file == "p01.json" and "JSON" in fault.expected
