"""lake.py import-labels with outlines: what labelme, YOLO, Supervisely, Label Studio and Roboflow export."""

from __future__ import annotations

import base64
import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

import lake
from dataset.faults import DataFaults
from dataset.formats.record import read_record
from dataset.splitting.splits import read_splits
from dataset.validation import check_data
from tests.support import polygon_exports as exports
from tests.support.data_directories import put_image
from tests.support.polygon_exports import class_list, differing, reference, refused, run_import, write_json

CASES = Path(__file__).resolve().parents[3] / "shared/cases"
TWO = {"background": 0, "road": 1, "car": 2}
BY_NAME = {"background": 0, "car": 1, "road": 2}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "export"


def edit(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# --- every format -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "name", "ids", "split"),
    [
        (exports.write_labelme, "labelme", BY_NAME, False),
        (exports.write_yolo, "yolo", TWO, True),
        (exports.write_supervisely, "supervisely", TWO, True),
        (exports.write_label_studio, "label-studio", BY_NAME, False),
        (lambda root: exports.write_roboflow(root, "coco"), "roboflow", TWO, True),
        (lambda root: exports.write_roboflow(root, "yolo"), "roboflow", TWO, True),
        (lambda root: exports.write_roboflow(root, "masks"), "roboflow", TWO, True),
    ],
)
def test_export_is_imported_with_classes_splits_and_pixels(
    source: Path, target: Path, write: Callable[[Path], Path], name: str, ids: dict[str, int], split: bool
) -> None:
    assert run_import(write(source), target) == 0
    assert class_list(target) == ids
    record = read_record(target)
    assert record is not None and record.format == name and len(record.sha256) == 64
    expected = reference(road=ids["road"], car=ids["car"])
    for number in range(3):
        path = next((target / "masks").rglob(f"p{number:02d}.png"))
        assert differing(target, path.relative_to(target / "masks").with_suffix("").as_posix(), expected) <= 0.005
    stored = read_splits(target)
    assert (stored is not None) is split
    if stored is not None:
        assert sorted(part for part, _, _ in stored.lines) == ["train", "train", "val"]
        check_data(target, 0)


@pytest.mark.parametrize(
    "write", [exports.write_labelme, exports.write_yolo, exports.write_supervisely, exports.write_label_studio]
)
def test_overlap_of_two_classes_is_refused_with_strict(
    source: Path, target: Path, write: Callable[[Path], Path]
) -> None:
    found = refused(write(source), target, "--strict")
    assert len(found) == 3
    assert all("--strict" in fault.expected and "covers" in fault.found for fault in found)


@pytest.mark.parametrize(
    ("write", "title"),
    [
        (exports.write_coco, "COCO"),
        (exports.write_labelme, "labelme"),
        (exports.write_yolo, "YOLO segmentation"),
        (exports.write_supervisely, "Supervisely"),
        (exports.write_label_studio, "Label Studio (JSON)"),
        (lambda root: exports.write_roboflow(root, "coco"), "Roboflow"),
        (lambda root: exports.write_roboflow(root, "yolo"), "Roboflow"),
        (lambda root: exports.write_roboflow(root, "masks"), "Roboflow"),
    ],
)
def test_training_on_an_export_names_the_format_and_the_command(
    source: Path, write: Callable[[Path], Path], title: str
) -> None:
    with pytest.raises(DataFaults) as caught:
        check_data(write(source), 0)
    (fault,) = caught.value.faults
    assert title in fault.found and f"lake.py import-labels {source}" in fault.expected


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not here")
@pytest.mark.parametrize(
    ("case", "title", "corners"),
    [
        ("15_labelme_json", "labelme", [2, 2, 20, 2, 20, 15]),
        ("16_coco_json", "COCO", [2, 2, 20, 2, 20, 15]),
        ("29_yolo_seg", "YOLO", [3.2, 2.4, 19.2, 2.4, 19.2, 14.4]),
    ],
)
def test_case_is_named_and_imported(
    target: Path, capsys: pytest.CaptureFixture[str], case: str, title: str, corners: list[float]
) -> None:
    with pytest.raises(DataFaults, match=rf"import-labels .*{case}(.|\n)*{title}"):
        check_data(CASES / case / "data", 0)
    assert run_import(CASES / case / "data", target) == 0
    assert title in capsys.readouterr().out
    assert class_list(target) == {"background": 0, "road": 1}
    masks = [np.asarray(Image.open(path)) for path in sorted((target / "masks").rglob("*.png"))]
    assert len(masks) in (11, 12)
    expected = coco.decode(coco.merge(coco.frPyObjects([corners], 24, 32)))
    assert all((mask != expected).mean() <= 0.005 for mask in masks)


@pytest.mark.parametrize(
    "write", [exports.write_coco, exports.write_yolo, exports.write_supervisely, exports.write_label_studio]
)
def test_export_without_images_is_one_fault(source: Path, target: Path, write: Callable[[Path], Path]) -> None:
    for path in write(source).rglob("*.png"):
        path.unlink()
    (fault,) = refused(source, target)
    assert (fault.file, fault.found) == ("images/", "none")


# --- labelme ----------------------------------------------------------------------------------------------


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


def test_annotations_of_the_unrotated_image_name_the_exif_orientation(source: Path, target: Path) -> None:
    exports.write_labelme(source)
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(source / "p01.png") as image:
        image.save(source / "p01.png", exif=exif)
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


# --- YOLO -------------------------------------------------------------------------------------------------


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


# --- Supervisely --------------------------------------------------------------------------------------------


def test_supervisely_colours_and_holes_are_kept(source: Path, target: Path) -> None:
    exports.write_supervisely(source)
    hole = [[100, 90], [120, 90], [120, 100], [100, 100]]
    edit(source / "train/ann/p00.png.json", lambda content: content["objects"][0]["points"].update(interior=[hole]))
    run_import(source, target)
    assert check_data(target, 0).classes.colors == ((0, 0, 0), (10, 20, 30), (40, 50, 60))
    values = np.asarray(Image.open(target / "masks/p00.png"))
    assert not values[90:100, 100:120].any() and values[89, 110] == 1


@pytest.mark.parametrize("packed", ["grey", "palette", "rgba"])
def test_supervisely_bitmaps_of_each_kind_are_read(source: Path, target: Path, packed: str) -> None:
    exports.write_supervisely(source)
    pixels = np.zeros((5, 6), np.bool_)
    pixels[1:4, 2:5] = True
    image = Image.fromarray(pixels.astype(np.uint8) * 255)
    if packed == "palette":
        image = Image.fromarray(pixels.astype(np.uint8))
        image.putpalette([0, 0, 0, 255, 255, 255])
        image.info["transparency"] = 0
    elif packed == "rgba":
        image = Image.merge("RGBA", [image, image, image, image])
    path = target.parent / "bitmap.png"
    image.save(path)
    entry = exports.supervisely_bitmap(pixels, 20, 10)
    entry["bitmap"]["data"] = base64.b64encode(zlib.compress(path.read_bytes())).decode()
    edit(source / "train/ann/p00.png.json", lambda content: content.update(objects=[entry]))
    run_import(source, target)
    values = np.asarray(Image.open(target / "masks/p00.png"))
    assert (values == 2).sum() == 9 and (values[11:14, 22:25] == 2).all()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"classTitle": "boat"}, "a class of meta.json"),
        ({"classTitle": ["car"]}, "a class of meta.json"),
        ({"geometryType": "line"}, "a shape with an area"),
        ({"bitmap": {"data": "AAAA", "origin": [0, 0]}}, "packed by zlib and base64"),
        ({"bitmap": {"data": base64.b64encode(zlib.compress(b"no PNG")).decode(), "origin": [0, 0]}}, "image"),
        ({"bitmap": {"data": "AAAA"}}, '"data" and "origin"'),
        (
            {"bitmap": {**exports.supervisely_bitmap(exports.filled(exports.CAR), 0, 0)["bitmap"], "origin": [9, 9]}},
            "inside",
        ),
    ],
)
def test_malformed_supervisely_object_is_named(
    source: Path, target: Path, change: dict[str, Any], expected: str
) -> None:
    exports.write_supervisely(source)
    edit(source / "train/ann/p01.png.json", lambda content: content["objects"][1].update(change))
    (fault,) = refused(source, target)
    assert fault.file == "train/ann/p01.png.json" and "object 2" in fault.found and expected in fault.expected


def test_supervisely_annotation_without_an_image_is_refused(source: Path, target: Path) -> None:
    exports.write_supervisely(source)
    (source / "val/img/p02.png").unlink()
    (fault,) = refused(source, target)
    assert fault.file == "val/ann/p02.png.json" and "val/img/p02.png" in fault.expected


# --- Label Studio -----------------------------------------------------------------------------------------


def test_label_studio_rectangles_and_ellipses_are_drawn(source: Path, target: Path) -> None:
    exports.write_label_studio(source, 1)
    box = {"x": 10, "y": 10, "width": 25, "height": 50, "rotation": 0, "rectanglelabels": ["box"]}
    disk = {"x": 70, "y": 50, "radiusX": 12.5, "radiusY": 25, "rotation": 90, "ellipselabels": ["disk"]}
    result = [
        {"id": "a", "type": "rectanglelabels", "value": box},
        {"id": "b", "type": "ellipselabels", "value": disk},
        {"id": "c", "type": "choices", "value": {"choices": ["night"]}},
    ]
    edit(source / "export.json", lambda tasks: tasks[0]["annotations"][0].update(result=result))
    run_import(source, target)
    values = np.asarray(Image.open(target / "masks/p00.png"))
    assert (values == 1).sum() == 40 * 60
    assert (values == 2).sum() == pytest.approx(np.pi * 20 * 30, rel=0.01)
    assert values[60, 140] == 2 and values[35, 112] == 0  # turned: wide, not high


def test_label_studio_labels_beside_the_shape_are_joined_by_id(source: Path, target: Path) -> None:
    exports.write_label_studio(source, 1)

    def split_labels(tasks: Any) -> None:
        result = tasks[0]["annotations"][0]["result"]
        polygon = result[0]
        polygon["type"] = "polygon"
        result.append({"id": "a", "type": "labels", "value": {"labels": polygon["value"].pop("polygonlabels")}})

    edit(source / "export.json", split_labels)
    run_import(source, target)
    assert differing(target, "p00", reference(road=2, car=1)) <= 0.005


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda task: task["annotations"].append(task["annotations"][0]), "task 2: 2"),
        (
            lambda task: task["annotations"][0]["result"][1]["value"].update(rle=[1, 2, 3]),
            "region 2: data that ends early",
        ),
        (lambda task: task["annotations"][0]["result"][1].update(original_width=80), "region 2: 80x120"),
        (lambda task: task["annotations"][0]["result"][0].update(image_rotation=90), "region 1: 90"),
        (lambda task: task["annotations"][0]["result"][0]["value"].update(points=[[1, 1]]), "region 1: 1"),
        (lambda task: task["annotations"][0]["result"][0].update(type="keypointlabels"), "region 1: keypointlabels"),
        (lambda task: task["annotations"][0]["result"][0]["value"].update(polygonlabels=["a", "b"]), '["a", "b"]'),
        (lambda task: task["data"].update(image="s3://bucket/other.png"), "task 2: none"),
        (lambda task: task.pop("annotations"), "task 2"),
    ],
)
def test_malformed_label_studio_task_is_named(
    source: Path, target: Path, change: Callable[[Any], object], found: str
) -> None:
    exports.write_label_studio(source)
    edit(source / "export.json", lambda tasks: change(tasks[1]))
    (fault,) = refused(source, target)
    assert fault.file == "export.json" and found in fault.found


def test_relations_and_choices_of_label_studio_are_not_regions(source: Path, target: Path) -> None:
    exports.write_label_studio(source, 1)
    others = [{"type": "relation", "from_id": "a", "to_id": "b"}, {"type": "choices", "value": {"choices": ["x"]}}]
    edit(source / "export.json", lambda tasks: tasks[0]["annotations"][0]["result"].extend(others))
    assert run_import(source, target) == 0


def test_annotation_that_is_the_ground_truth_is_chosen(source: Path, target: Path) -> None:
    exports.write_label_studio(source, 1)

    def add_other(tasks: Any) -> None:
        tasks[0]["annotations"][0]["ground_truth"] = True
        tasks[0]["annotations"].insert(0, {"id": 9, "result": [], "ground_truth": False})

    edit(source / "export.json", add_other)
    run_import(source, target)
    assert differing(target, "p00", reference(road=2, car=1)) <= 0.005


def test_label_studio_region_ids_of_any_kind_are_joined(source: Path, target: Path) -> None:
    exports.write_label_studio(source, 1)

    def odd_ids(tasks: Any) -> None:
        result = tasks[0]["annotations"][0]["result"]
        result[0].update(id=[1], type="polygon")
        result.append({"id": [1], "type": "labels", "value": {"labels": result[0]["value"].pop("polygonlabels")}})

    edit(source / "export.json", odd_ids)
    assert run_import(source, target) == 0


def test_skipped_label_studio_tasks_are_left_out(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exports.write_label_studio(source)
    edit(source / "export.json", lambda tasks: tasks[1]["annotations"][0].update(was_cancelled=True))
    run_import(source, target)
    assert "left out (not annotated): images/p01.png" in capsys.readouterr().out


def test_label_studio_json_min_is_refused_by_name(source: Path, target: Path) -> None:
    exports.write_label_studio(source)
    write_json(source / "export.json", [{"image": "p00.png", "id": 1, "annotator": 1, "annotation_id": 1, "label": []}])
    (fault,) = refused(source, target)
    assert "JSON-MIN" in fault.expected


# --- Roboflow -----------------------------------------------------------------------------------------------


def test_roboflow_masks_are_bit_identical(source: Path, target: Path) -> None:
    exports.write_roboflow(source, "masks")
    run_import(source, target)
    assert differing(target, "p00", reference(road=1, car=2)) == 0


def test_roboflow_class_lists_that_differ_are_refused(source: Path, target: Path) -> None:
    exports.write_roboflow(source, "masks")
    (source / "valid/_classes.csv").write_text("Pixel Value, Class\n0, background\n1, car\n2, road\n")
    (fault,) = refused(source, target)
    assert fault.file == "valid/_classes.csv" and "train/_classes.csv" in fault.expected


def test_incomplete_roboflow_masks_are_refused(source: Path, target: Path) -> None:
    exports.write_roboflow(source, "masks")
    (source / "train/p00_mask.png").unlink()
    (source / "train/p01.png").unlink()
    assert [fault.file for fault in refused(source, target)] == ["train/p00_mask.png", "train/p01_mask.png"]


def test_export_without_any_outline_is_refused(source: Path, target: Path) -> None:
    exports.write_yolo(source)
    shutil.rmtree(source / "labels")
    (source / "labels").mkdir()
    (source / "labels/p00.txt").write_text("")
    found = refused(source, target)
    assert any(fault.file in ("labels/p00.txt", "data.yaml") for fault in found)


def test_formats_are_listed_for_an_unknown_directory(source: Path, target: Path) -> None:
    source.mkdir()
    (source / "notes.txt").write_text("nothing")
    with pytest.raises(Exception, match=r"COCO, .*Supervisely, labelme"):
        lake.main(["import-labels", str(source), "--to", str(target)])
