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

from core.errors import UsageError
from core.i18n import tr
from core.reporting import progress
from core.safety.json_object import JsonObject
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
        "origin": dict(
            origin
        ),  # at the beginning, where inference/earlier/ownership.py looks; labelme keeps unknown keys
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
    for number, record in enumerate(progress(records, len(records), tr("writing annotations"), tr("images")), 1):
        size = {"height": record["height"], "width": record["width"]}
        images.append({"id": number, "file_name": record["input"], **size})
        for label, ring in _read_outlines(folder / record["polygons"], ids):
            place = {"id": len(annotations) + 1, "image_id": number, "category_id": ids[label]}
            annotations.append(place | describe_ring(ring))
    categories = [{"id": value, "name": name} for value, name in zip(classes.ids, classes.names, strict=True)]
    content = {"info": dict(origin), "images": images, "annotations": annotations, "categories": categories}
    return json.dumps(content, ensure_ascii=False).encode()


def _read_outlines(path: Path, ids: Mapping[str, int]) -> Iterator[tuple[str, Points]]:
    """Yield class and corners (N,2) of the outlines of a labelme file. Raises UsageError for one that was changed."""
    fix = tr("it was changed since infer.py wrote it: move it, and run without --resume")
    for shape in JsonObject.parse(path.read_bytes(), path, fix, UsageError).objects("shapes"):
        label, corners = shape.text("label"), shape.items("points")
        if label not in ids:
            raise shape.invalid("label", " | ".join(ids))
        if len(corners) < 3 or not all(map(_is_point, corners)):
            raise shape.invalid("points", tr("three or more pairs of numbers"))
        yield label, np.array(corners, np.float64)


def _is_point(corner: object) -> bool:
    return (
        isinstance(corner, list)
        and len(corner) == 2
        and all(type(part) in (int, float) and abs(part) < 1 << 31 for part in corner)
    )


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
