"""lake.py import-labels: what Supervisely exports."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dataset.validation import check_data
from tests.support.exports import polygon as exports
from tests.support.exports.polygon import edit, refused, run_import


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
