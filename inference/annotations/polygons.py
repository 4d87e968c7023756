"""Predictions as outlines that annotation tools can edit: a labelme file for each image, and one COCO file.

Filled again by `dataset.shapes.polygon`, as import-labels does, the outlines give exactly the predicted mask. The
background, if a class has that name, is not outlined: it is what remains.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataset.classes import ClassMap, UInt8
from dataset.formats.polygon.numbering import BACKGROUND_NAMES
from dataset.shapes.contours import bridge, trace
from dataset.shapes.polygon import Points

LABELME_VERSION = "5.4.1"  # of the file format; labelme 4 and later read it


def outlines(indices: UInt8, classes: ClassMap) -> Iterator[tuple[int, Points]]:
    """Yield (class index, outline (N,2) of x, y in pixels) of every connected part of class indices (H,W) uint8."""
    for index in np.unique(indices).tolist():
        if index < classes.num_classes and classes.names[index].lower() not in BACKGROUND_NAMES:
            for rings in trace(indices == index):
                yield index, bridge(rings)


def labelme_json(indices: UInt8, classes: ClassMap, image_path: str, origin: Mapping[str, str]) -> bytes:
    """Return a labelme file of class indices (H,W) uint8; `image_path` is relative to the directory of the file."""
    shapes = [
        {
            "label": classes.names[index],
            "points": ring.tolist(),
            "group_id": None,
            "shape_type": "polygon",
            "flags": {},
        }
        for index, ring in outlines(indices, classes)
    ]
    content = {
        "version": LABELME_VERSION,
        "origin": dict(origin),  # at the beginning, where inference/ownership.py looks; labelme keeps unknown keys
        "flags": {},
        "shapes": shapes,
        "imagePath": image_path,
        "imageData": None,
        "imageHeight": indices.shape[0],
        "imageWidth": indices.shape[1],
    }
    return json.dumps(content, ensure_ascii=False).encode()


def path_from(folder: Path, image: Path) -> str:
    """Return the path of an image relative to a directory, with '/'; absolute where there is none (Windows drives)."""
    try:
        return Path(os.path.relpath(image.resolve(), folder.resolve())).as_posix()
    except ValueError:
        return image.resolve().as_posix()


def coco_polygons_json(
    folder: Path, records: Sequence[Mapping[str, Any]], classes: ClassMap, origin: Mapping[str, str]
) -> bytes:
    """Return a COCO file of the labelme files of these records; category ids are the mask values of the classes."""
    ids = dict(zip(classes.names, classes.ids, strict=True))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, record in enumerate(records, 1):
        size = {"height": record["height"], "width": record["width"]}
        images.append({"id": number, "file_name": record["input"], **size})
        for shape in json.loads((folder / record["polygons"]).read_text(encoding="utf-8"))["shapes"]:
            place = {"id": len(annotations) + 1, "image_id": number, "category_id": ids[shape["label"]]}
            annotations.append(place | describe_ring(np.array(shape["points"])))
    categories = [{"id": value, "name": name} for value, name in zip(classes.ids, classes.names, strict=True)]
    content = {"info": dict(origin), "images": images, "annotations": annotations, "categories": categories}
    return json.dumps(content, ensure_ascii=False).encode()


def describe_ring(ring: Points) -> dict[str, Any]:
    """Return what COCO stores of an outline (N,2): corners, area and box [x, y, width, height] in pixels."""
    x, y = ring.T
    area = abs(float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())) / 2
    low, size = ring.min(axis=0), np.ptp(ring, axis=0)
    return {
        "segmentation": [ring.ravel().tolist()],
        "area": area,
        "bbox": [*low.tolist(), *size.tolist()],
        "iscrowd": 0,
    }
