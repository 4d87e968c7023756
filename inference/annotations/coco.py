"""Predictions in COCO format: one run-length encoded mask for each class of an image, encoded by pycocotools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from core.errors import UsageError
from core.i18n import tr
from core.reporting import progress
from dataset.classes import ClassMap


def require_pycocotools() -> None:
    """Raise UsageError if the optional package is missing; called before predicting."""
    try:
        import pycocotools.mask  # noqa: F401
    except ImportError:
        raise UsageError(tr("--extra coco needs pycocotools: pip install pycocotools")) from None


def coco_json(folder: Path, records: Sequence[dict[str, Any]], classes: ClassMap) -> bytes:
    """Return a dataset file for `pycocotools.coco.COCO`; category ids are the mask values of the classes."""
    from pycocotools import mask as rle

    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, record in enumerate(progress(records, len(records), tr("writing annotations"), tr("images")), 1):
        images.append(
            {"id": number, "file_name": record["input"], "height": record["height"], "width": record["width"]}
        )
        with Image.open(folder / record["mask"]) as mask:
            values = np.asarray(mask)
        for category in np.unique(values):
            encoded = rle.encode(np.asfortranarray(values == category, np.uint8))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(category),
                    "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")},
                    "area": int(rle.area(encoded)),
                    "bbox": rle.toBbox(encoded).tolist(),
                    "iscrowd": 1,  # a class is a region, not one object
                }
            )
    categories = [{"id": value, "name": name} for value, name in zip(classes.ids, classes.names, strict=True)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return json.dumps(content, ensure_ascii=False).encode()
