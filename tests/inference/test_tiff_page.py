"""A page of a TIFF file of several as a file of its own: the same samples and tags, whatever the layout."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from dataset.classes import InvalidFileError
from dataset.decoding.image import read_image
from dataset.decoding.options import DEFAULT_READING
from dataset.decoding.samples import decode_raw
from dataset.decoding.tiff import count_pages
from inference.annotations.tiff_page import extract_page
from tests.support.rasters import Pixels

RANDOM = np.random.default_rng(0)
GREY: dict[str, Any] = {"photometric": "minisblack"}
LAYOUTS = [
    *({**GREY, "byteorder": order, "bigtiff": big} for order in "<>" for big in (False, True)),
    {**GREY, "tile": (16, 16)},
    {**GREY, "rowsperstrip": 5, "compression": "zlib"},
    {**GREY, "imagej": True},
    {"photometric": "miniswhite"},
]


@pytest.mark.parametrize("options", LAYOUTS, ids=str)
@pytest.mark.parametrize("bands", [1, 3, 5])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_page_keeps_its_samples_and_tags(options: dict[str, Any], bands: int, kind: type) -> None:
    imagej = options.get("imagej", False)
    unread = options["photometric"] == "miniswhite" and bands > 1
    unread |= kind == np.uint8 and options.get("byteorder") == ">" and options["bigtiff"]
    if unread or (imagej and (bands == 5 or (bands == 3 and kind == np.uint16))):
        pytest.skip("such files are not read, or not written")
    options = {**options, "photometric": "rgb"} if bands == 3 else options
    shape = (3, 20, 36, bands) if bands > 1 else (3, 20, 36)
    pixels: Pixels = RANDOM.integers(0, 256, shape, np.uint8).astype(kind)
    buffer = io.BytesIO()
    tags: dict[str, Any] = {} if imagej else {"extratags": [(274, "H", 1, 6, True), (42113, "s", 0, "7", True)]}
    planar: dict[str, Any] = {"planarconfig": "contig"} if bands > 1 and not imagej else {}
    tifffile.imwrite(buffer, pixels, resolution=(300, 200), **options, **tags, **planar)
    data = buffer.getvalue()
    for page in range(3):
        copy = extract_page(data, page)
        expected, found = decode_raw(data, DEFAULT_READING, page=page), decode_raw(copy, DEFAULT_READING)
        assert count_pages(copy) == 1 and len(copy) < len(data)
        assert np.array_equal(found.pixels, expected.pixels)
        assert (found.valid is None) == (expected.valid is None)
        with tifffile.TiffFile(io.BytesIO(copy)) as file:
            assert file.pages[0].aspage().tags["XResolution"].value == (300, 1)
            assert file.series[0].shape == pixels.shape[1:]


@pytest.mark.parametrize(("mode", "compression"), [("RGB", "jpeg"), ("L", "tiff_lzw"), ("P", "raw"), ("1", "group4")])
def test_page_of_another_writer_is_read_alike(mode: str, compression: str) -> None:
    frames = [Image.fromarray(RANDOM.integers(0, 256, (20, 36, 3), np.uint8)).convert(mode) for _ in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "TIFF", save_all=True, append_images=frames[1:], compression=compression)
    for page in range(3):
        copy = extract_page(buffer.getvalue(), page)
        assert np.array_equal(read_image(copy, DEFAULT_READING), read_image(buffer.getvalue(), DEFAULT_READING, page))


def test_page_that_is_not_there_or_cannot_be_copied_is_an_error() -> None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((2, 8, 8), np.uint8), **GREY)
    with pytest.raises(InvalidFileError, match="a complete TIFF image"):
        extract_page(buffer.getvalue(), 2)
    with pytest.raises(InvalidFileError, match="a complete TIFF image"):
        extract_page(b"II*\0 not a TIFF", 0)
    with tifffile.TiffFile(io.BytesIO(buffer.getvalue())) as file:
        place = file.pages[1].aspage().tags["Compression"].valueoffset
    old = bytearray(buffer.getvalue())
    old[place] = 6
    with pytest.raises(InvalidFileError, match="page 2 in the old JPEG compression"):
        extract_page(bytes(old), 1)
