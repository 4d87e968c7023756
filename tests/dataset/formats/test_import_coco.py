"""lake.py import-labels with COCO: polygons, run lengths, crowds, category ids, several files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dataset.splitting.splits import read_splits
from dataset.validation import check_data
from tests.support.data_directories import put_image
from tests.support.exports.polygon import (
    CAR,
    HEIGHT,
    ROAD,
    SIZE,
    WIDTH,
    as_runs,
    class_list,
    coco_content,
    differing,
    reference,
    refused,
    run_import,
    write_coco,
    write_json,
)

FILE = "annotations/instances_default.json"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "export")


def edit(root: Path, change: Callable[[Any], object], file: str = FILE) -> None:
    content = json.loads((root / file).read_text())
    change(content)
    (root / file).write_text(json.dumps(content))


def test_polygons_keep_category_ids_and_later_ones_cover_earlier_ones(source: Path, target: Path) -> None:
    run_import(source, target)
    assert class_list(target) == {"background": 0, "road": 1, "car": 3}
    assert max(differing(target, f"p{i:02d}", reference(road=1, car=3)) for i in range(3)) <= 0.005


def test_overlap_is_refused_with_strict(source: Path, target: Path) -> None:
    found = refused(source, target, "--strict")
    assert found[0].file == FILE and "annotation 2 covers" in found[0].found


@pytest.mark.parametrize("compressed", [True, False])
def test_run_lengths_and_crowds_are_bit_identical(source: Path, target: Path, compressed: bool) -> None:
    def change(content: Any) -> None:
        for annotation, corners in zip(content["annotations"], [ROAD, CAR] * 3, strict=True):
            annotation.update(segmentation=as_runs(corners, compressed), iscrowd=1)

    edit(source, change)
    run_import(source, target)
    assert differing(target, "p01", reference(road=1, car=3)) == 0


def test_object_of_several_polygons_is_their_union(source: Path, target: Path) -> None:
    parts = [[0, 0, 10, 0, 10, 10, 0, 10], [5, 5, 20, 5, 20, 15, 5, 15]]
    edit(source, lambda content: content["annotations"][5].update(segmentation=parts))
    run_import(source, target)
    values = np.asarray(Image.open(target / "masks/p02.png"))
    assert (values == 3).sum() == 100 + 150 - 25


def test_annotations_of_a_turned_tiff_have_the_size_that_viewers_show(source: Path, target: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in sorted(source.rglob("*.png")):
        with Image.open(path) as image:
            image.transpose(Image.Transpose.ROTATE_90).save(path.with_suffix(".tif"), exif=exif)
        path.unlink()

    def name_tiffs(content: Any) -> None:
        for image in content["images"]:
            image["file_name"] = image["file_name"].replace(".png", ".tif")

    edit(source, name_tiffs)
    run_import(source, target)
    assert max(differing(target, f"p{i:02d}", reference(road=1, car=3)) for i in range(3)) <= 0.005


# --- classes ------------------------------------------------------------------------------------------------


def test_classes_move_by_one_where_the_background_needs_their_zero(source: Path, target: Path) -> None:
    write_json(source / FILE, coco_content(["p00.png", "p01.png", "p02.png"], {"road": 0, "car": 1}))
    run_import(source, target)
    assert class_list(target) == {"background": 0, "road": 1, "car": 2}


def test_ids_stay_if_every_pixel_is_annotated(source: Path, target: Path) -> None:
    def change(content: Any) -> None:
        content["categories"][0]["id"] = 0
        for annotation in content["annotations"]:
            road = annotation["category_id"] == 1
            pixels = np.ones(SIZE, bool) if road else np.eye(HEIGHT, WIDTH, dtype=bool)
            counts = [0, HEIGHT * WIDTH] if road else _runs(pixels)
            annotation.update(category_id=0 if road else 3, segmentation={"size": list(SIZE), "counts": counts})

    edit(source, change)
    run_import(source, target)
    assert class_list(target) == {"road": 0, "car": 3}
    assert differing(target, "p00", np.eye(HEIGHT, WIDTH, dtype=np.uint8) * 3) == 0


def _runs(pixels: np.ndarray) -> list[int]:
    counts, last = [0], False
    for value in pixels.T.ravel().tolist():
        if value != last:
            counts.append(0)
        counts[-1] += 1
        last = value
    return counts


def test_category_that_is_named_background_is_the_background(source: Path, target: Path) -> None:
    edit(source, lambda content: content["categories"].append({"id": 7, "name": "Background"}))
    run_import(source, target)
    assert class_list(target) == {"road": 1, "car": 3, "Background": 7}
    assert np.asarray(Image.open(target / "masks/p00.png"))[0, 0] == 7


def test_ignored_category_keeps_its_id(source: Path, target: Path) -> None:
    edit(source, lambda content: content["categories"][1].update(name="Void"))
    run_import(source, target)
    assert class_list(target) == {"background": 0, "road": 1, "Void": 3}
    assert check_data(target, 0).classes.ignore_ids == (3,)


def test_more_classes_than_a_mask_can_hold_are_refused(source: Path, target: Path) -> None:
    more = [{"id": value, "name": f"class {value}"} for value in range(100, 400)]
    edit(source, lambda content: content["categories"].extend(more))
    (fault,) = refused(source, target)
    assert (fault.expected, fault.found) == ("at most 254 classes", "302")


def test_colours_of_categories_are_kept(source: Path, target: Path) -> None:
    edit(source, lambda content: content["categories"][1].update(color=[9, 80, 70]))
    run_import(source, target)
    assert check_data(target, 0).classes.colors[2] == (9, 80, 70)


def test_ids_beyond_a_mask_are_numbered_anew_with_a_warning(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(source / FILE, coco_content(["p00.png", "p01.png", "p02.png"], {"road": 1000, "car": 2000}))
    run_import(source, target)
    assert class_list(target) == {"background": 0, "road": 1, "car": 2}
    assert "numbered anew" in capsys.readouterr().err


# --- several files --------------------------------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Return an export of two splits, three images each."""
    write_coco(tmp_path / "parts", 3, "train2017")
    return write_coco(tmp_path / "parts", 3, "val2017", first=3)


def test_file_names_give_the_splits(parts: Path, target: Path) -> None:
    run_import(parts, target)
    stored = read_splits(target)
    assert stored is not None
    assert [split for split, _, _ in stored.lines] == ["train"] * 3 + ["val"] * 3


def test_only_instances_are_read_beside_captions_and_keypoints(parts: Path, target: Path) -> None:
    for name in ("captions_train2017.json", "person_keypoints_train2017.json"):
        write_json(parts / "annotations" / name, coco_content(["p00.png"]))
    assert run_import(parts, target) == 0


@pytest.mark.parametrize(
    ("categories", "expected"),
    [
        ([{"id": 1, "name": "street"}, {"id": 3, "name": "car"}], "'road'"),
        ([{"id": 1, "name": "road"}, {"id": 2, "name": "car"}, {"id": 3, "name": "bus"}], "'car'"),
    ],
)
def test_categories_that_differ_between_files_are_refused(
    parts: Path, target: Path, categories: list[dict[str, Any]], expected: str
) -> None:
    file = "annotations/instances_val2017.json"
    edit(parts, lambda content: content.update(categories=categories), file)
    found = refused(parts, target)
    assert {fault.file for fault in found} == {file}
    assert any("instances_train2017.json" in fault.expected and expected in fault.expected for fault in found)


def test_image_in_two_files_is_refused(parts: Path, target: Path) -> None:
    file = "annotations/instances_val2017.json"
    edit(parts, lambda content: content["images"][0].update(file_name="p00.png"), file)
    (fault,) = refused(parts, target)
    assert fault.file == file and "p00.png, also in annotations/instances_train2017.json" in fault.found


def test_images_in_directories_of_their_split_are_found(tmp_path: Path, target: Path) -> None:
    root = tmp_path / "export"
    for split in ("train", "val"):
        for i in range(2):
            put_image(root / split / f"{i}.png", f"{split}{i}", SIZE)
        write_json(root / f"annotations/instances_{split}.json", coco_content(["0.png", "1.png"]))
    run_import(root, target)
    for split in ("train", "val"):
        assert (target / f"images/{split}/0.png").read_bytes() == (root / split / "0.png").read_bytes()


# --- faults -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected", "found"),
    [
        ({"segmentation": [[1, 2, 3, 4]]}, "at least 3 corners", "2"),
        ({"segmentation": [[1, 2, 3, 4, 5]]}, "corners as numbers", "5 numbers"),
        ({"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}, "coordinates", "nan"),
        ({"segmentation": []}, "not only a box", "[]"),
        ({"segmentation": None}, "not only a box", "null"),
        ({"segmentation": {"size": [WIDTH, HEIGHT], "counts": [0]}}, "size [120, 160]", "[160, 120]"),
        ({"segmentation": {"size": list(SIZE), "counts": [5, 5]}}, "160x120", "10 pixels"),
        ({"segmentation": {"size": list(SIZE), "counts": "5:"}}, "160x120", "annotation 3"),
        ({"segmentation": {"size": list(SIZE), "counts": "~~~~"}}, "compressed run lengths", "annotation 3"),
        ({"category_id": 2}, "a category_id", "2"),
        ({"image_id": 99}, "an image_id", "99"),
    ],
)
def test_malformed_annotation_is_named(
    source: Path, target: Path, change: dict[str, Any], expected: str, found: str
) -> None:
    edit(source, lambda content: content["annotations"][2].update(change))
    (fault,) = refused(source, target)
    assert fault.file == FILE and "annotation 3" in fault.found
    assert expected in fault.expected and found in fault.found


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda content: content.pop("categories"), "a list 'categories'"),
        (lambda content: content["images"][1].pop("file_name"), '"file_name"'),
        (lambda content: content["images"][1].update(id=1), "each image id once"),
        (lambda content: content["images"][1].update(file_name="p00.png"), "each image once"),
        (lambda content: content["images"][1].update(file_name="gone.png"), "'gone.png' in the export"),
        (lambda content: content["images"][1].update(width=80), "160x120"),
        (lambda content: content["categories"][1].update(name="road"), "a different name"),
        (lambda content: content["categories"][1].update(id="x"), "whole"),
        (lambda content: content.update(annotations=[]), "at least one object"),
        (lambda content: content["annotations"].append("text"), "an annotation"),
    ],
)
def test_contradictory_file_is_refused(
    source: Path, target: Path, change: Callable[[Any], object], expected: str
) -> None:
    edit(source, change)
    found = refused(source, target)
    assert {fault.file for fault in found} == {FILE}
    assert any(expected in fault.expected for fault in found)


def test_all_faults_are_reported_at_once(source: Path, target: Path) -> None:
    def change(content: Any) -> None:
        content["annotations"][0].update(segmentation=[[1, 2]])
        content["annotations"][3].update(category_id=9)
        content["images"][2].update(height=1)

    edit(source, change)
    assert len(refused(source, target)) == 3


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "..\\secret.png", "https://host/secret.png"])
def test_file_name_out_of_the_export_is_not_followed(source: Path, target: Path, name: str) -> None:
    put_image(source.parent / "secret.png", 0, SIZE)
    edit(source, lambda content: content["images"][0].update(file_name=name))
    (fault,) = refused(source, target)
    assert "secret.png" in fault.expected and fault.found == "image 1: none"


def test_images_without_annotations_are_background_and_unlisted_ones_are_left_out(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_image(source / "images/extra.png", 9, SIZE)
    edit(source, lambda content: content.update(annotations=content["annotations"][:4]))
    run_import(source, target)
    shown = capsys.readouterr()
    assert "images without annotations (1): background: images/p02.png" in shown.err
    assert f"left out (not listed in {FILE}): images/extra.png" in shown.out
    assert not np.asarray(Image.open(target / "masks/p02.png")).any()


def test_corners_beyond_the_image_are_cut_off_and_named(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corners = [-20, -20, 10, -20, 10, 10, -20, 10]
    edit(source, lambda content: content["annotations"][1].update(segmentation=[corners]))
    run_import(source, target)
    assert (np.asarray(Image.open(target / "masks/p00.png")) == 3).sum() == 100
    assert f"shapes that reach beyond their image were cut off (1): {FILE}: annotation 2" in capsys.readouterr().err
