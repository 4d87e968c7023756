"""Write one scene, a car on a road, as an export of each annotation tool that stores outlines."""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco

import lake
from core.errors import UsageError
from dataset.classes import UInt8
from dataset.faults import DataFaults, Fault
from dataset.shapes.polygon import Bool
from dataset.shapes.rle import encode_brush
from tests.support.data_directories import put_image

SIZE = HEIGHT, WIDTH = 120, 160
ROAD = [[10.5, 70.0], [150.0, 60.25], [158.0, 118.0], [2.0, 118.5]]
CAR = [[50.0, 50.0], [90.3, 48.0], [95.0, 80.0], [48.0, 82.0]]
SCENE = (("road", ROAD), ("car", CAR))  # the car is painted over the road
SPLITS = ("train", "train", "val")


def reference(scene: Sequence[tuple[str, list[list[float]]]] = SCENE, **ids: int) -> UInt8:
    """Return the mask (H,W) that pycocotools draws, with these class ids."""
    mask = np.zeros(SIZE, np.uint8)
    for label, corners in scene:
        mask[filled(corners)] = ids[label]
    return mask


def filled(corners: list[list[float]]) -> Bool:
    """Return the pixels (H,W) bool of a polygon, by pycocotools."""
    parts = coco.frPyObjects([[number for corner in corners for number in corner]], HEIGHT, WIDTH)
    pixels: Bool = coco.decode(coco.merge(parts)).astype(np.bool_)
    return pixels


def differing(root: Path, name: str, expected: UInt8) -> float:
    """Return the fraction of pixels in which an imported mask differs."""
    with Image.open(root / "masks" / f"{name}.png") as mask:
        return float((np.asarray(mask) != expected).mean())


def class_list(root: Path) -> dict[str, int]:
    """Return class name -> id of an imported data directory."""
    return {entry["name"]: entry["id"] for entry in json.loads((root / "classes.json").read_text())}


def run_import(source: Path, target: Path, *options: str) -> int:
    return lake.main(["import-labels", str(source), "--to", str(target), *options])


def refused(source: Path, target: Path, *options: str) -> tuple[Fault, ...]:
    """Return the faults of an import that is refused as a whole."""
    try:
        run_import(source, target, *options)
    except DataFaults as error:
        assert not target.exists() or not any(target.rglob("*"))
        return error.faults
    except UsageError as error:  # pragma: no cover
        raise AssertionError(f"no table of faults: {error}") from error
    raise AssertionError("the import was not refused")


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


# --- COCO --------------------------------------------------------------------------------------------------


def coco_content(names: Sequence[str], ids: dict[str, int] | None = None) -> dict[str, Any]:
    """Return a COCO file with the scene in every image."""
    ids = ids or {"road": 1, "car": 3}
    images = [{"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH} for i, name in enumerate(names, 1)]
    annotations = [
        {"image_id": image["id"], "category_id": ids[label], "iscrowd": 0, "segmentation": [list(chain(*corners))]}
        for image in images
        for label, corners in SCENE
    ]
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number
    categories = [{"id": value, "name": label} for label, value in ids.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(root: Path, count: int = 3, split: str = "default", first: int = 0) -> Path:
    """Write images/ and annotations/instances_<split>.json."""
    names = [f"p{first + i:02d}.png" for i in range(count)]
    for name in names:
        put_image(root / "images" / name, name, SIZE)
    write_json(root / "annotations" / f"instances_{split}.json", coco_content(names))
    return root


def as_runs(corners: list[list[float]], compressed: bool) -> dict[str, Any]:
    """Return the segmentation of a polygon as run lengths."""
    pixels = filled(corners)
    if compressed:
        counts: Any = coco.encode(np.asfortranarray(pixels, np.uint8))["counts"].decode("ascii")
    else:
        flat = np.concatenate([[False], pixels.T.ravel(), [pixels.T.ravel()[-1] ^ True]])
        counts = np.diff(np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1])])).tolist()
    return {"size": list(SIZE), "counts": counts}


# --- the other formats ---------------------------------------------------------------------------------------


def labelme_content(image: str) -> dict[str, Any]:
    shapes: list[dict[str, Any]] = [
        {"label": label, "points": corners, "shape_type": "polygon", "flags": {}, "group_id": None}
        for label, corners in SCENE
    ]
    size = {"imageHeight": HEIGHT, "imageWidth": WIDTH}
    return {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": image, "imageData": None, **size}


def write_labelme(root: Path, count: int = 3) -> Path:
    """Write images with a JSON file beside each."""
    for i in range(count):
        put_image(root / f"p{i:02d}.png", i, SIZE)
        write_json(root / f"p{i:02d}.json", labelme_content(f"p{i:02d}.png"))
    return root


def yolo_lines() -> str:
    rows = []
    for number, (_, corners) in enumerate(SCENE):
        rows.append(" ".join([str(number), *(f"{x / WIDTH:.6f} {y / HEIGHT:.6f}" for x, y in corners)]))
    return "\n".join(rows) + "\n"


def write_yolo(root: Path) -> Path:
    """Write images/{train,val}, labels/{train,val} and data.yaml."""
    for i, split in enumerate(SPLITS):
        put_image(root / f"images/{split}/p{i:02d}.png", i, SIZE)
        label = root / f"labels/{split}/p{i:02d}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(yolo_lines())
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames:\n  0: road\n  1: car\n")
    return root


def png_bytes(pixels: UInt8 | Bool) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def supervisely_bitmap(pixels: Bool, left: int, top: int) -> dict[str, Any]:
    packed = base64.b64encode(zlib.compress(png_bytes(pixels))).decode()
    return {"classTitle": "car", "geometryType": "bitmap", "bitmap": {"data": packed, "origin": [left, top]}}


def supervisely_content() -> dict[str, Any]:
    left, top = 48, 48
    bitmap = filled(CAR)[top:82, left:95]
    polygon = {"classTitle": "road", "geometryType": "polygon", "points": {"exterior": ROAD, "interior": []}}
    size = {"height": HEIGHT, "width": WIDTH}
    return {"description": "", "size": size, "objects": [polygon, supervisely_bitmap(bitmap, left, top)]}


def write_supervisely(root: Path) -> Path:
    """Write meta.json and the data sets train/ and val/ with ann/ and img/."""
    classes = [
        {"title": "road", "shape": "polygon", "color": "#0A141E", "id": 71234},
        {"title": "car", "shape": "bitmap", "color": "#28323C", "id": 71235},
    ]
    write_json(root / "meta.json", {"classes": classes, "tags": []})
    for i, split in enumerate(SPLITS):
        put_image(root / f"{split}/img/p{i:02d}.png", i, SIZE)
        write_json(root / f"{split}/ann/p{i:02d}.png.json", supervisely_content())
    return root


def label_studio_task(number: int, image: str) -> dict[str, Any]:
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    percent = [[x / WIDTH * 100, y / HEIGHT * 100] for x, y in ROAD]
    polygon = {"id": "a", "type": "polygonlabels", "value": {"points": percent, "polygonlabels": ["road"]}, **size}
    stroke = {"format": "rle", "rle": encode_brush(filled(CAR)), "brushlabels": ["car"]}
    brush = {"id": "b", "type": "brushlabels", "value": stroke, **size}
    annotation = {"id": number, "was_cancelled": False, "result": [polygon, brush]}
    return {"id": number, "data": {"image": f"/data/upload/3/1a2b3c4d-{image}"}, "annotations": [annotation]}


def write_label_studio(root: Path, count: int = 3) -> Path:
    """Write the JSON export, and the images beside it."""
    for i in range(count):
        put_image(root / f"images/p{i:02d}.png", i, SIZE)
    write_json(root / "export.json", [label_studio_task(i + 1, f"p{i:02d}.png") for i in range(count)])
    return root


def write_roboflow(root: Path, kind: str) -> Path:
    """Write Roboflow's export as `coco`, `yolo` or `masks`."""
    for i, split in enumerate(("train", "train", "valid")):
        folder = root / split / ("images" if kind == "yolo" else "")
        put_image(folder / f"p{i:02d}.png", i, SIZE)
        if kind == "yolo":
            label = root / split / f"labels/p{i:02d}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(yolo_lines())
        elif kind == "masks":
            (folder / f"p{i:02d}_mask.png").write_bytes(png_bytes(reference(road=1, car=2)))
            (folder / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, road\n2, car\n")
    if kind == "coco":
        for split, names in (("train", ["p00.png", "p01.png"]), ("valid", ["p02.png"])):
            content = coco_content(names, {"road": 1, "car": 2})
            content["categories"] = [{"id": 0, "name": "scene", "supercategory": "none"}, *content["categories"]]
            for category in content["categories"][1:]:
                category["supercategory"] = "scene"
            write_json(root / split / "_annotations.coco.json", content)
    if kind == "yolo":
        lines = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\nnames: ['road', 'car']\n"
        (root / "data.yaml").write_text(lines + "roboflow:\n  version: 1\n")
    return root


def edit(path: Path, change: Callable[[Any], object]) -> None:
    """Change the content of a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
