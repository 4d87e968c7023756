"""The EXIF orientation tag: which way up a viewer shows the stored pixels."""

from __future__ import annotations

import io

import numpy as np
from PIL import ExifTags, Image

from dataset.classes import UInt8
from dataset.decoding.options import ReadOptions

_INVERSE = {6: 8, 8: 6}  # the others undo themselves


def exif_orientation(data: bytes) -> int:
    """Return the orientation tag (1 to 8) of a readable image file; 1, upright, where there is no valid one."""
    with Image.open(io.BytesIO(data)) as image:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    return value if value in range(1, 9) else 1


def to_upright(pixels: UInt8, orientation: int) -> UInt8:
    """Return stored pixels (H,W[,C]) as a viewer shows them by this orientation tag, as Pillow's `exif_transpose` does."""
    if orientation in (3, 4, 6, 7):
        pixels = pixels[::-1]
    if orientation in (2, 3, 7, 8):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels.swapaxes(0, 1) if orientation >= 5 else pixels)


def to_stored(pixels: UInt8, orientation: int) -> UInt8:
    """Return upright pixels (H,W[,C]) as the file with this orientation tag stores them."""
    return to_upright(pixels, _INVERSE.get(orientation, orientation))


def reorient(pixels: UInt8, data: bytes, before: ReadOptions, after: ReadOptions) -> UInt8:
    """Return pixels (H,W[,C]) that belong to an image file read by `before` as they lie if it is read by `after`."""
    if before.raw_orientation == after.raw_orientation:
        return pixels
    orientation = exif_orientation(data)
    return to_stored(pixels, orientation) if after.raw_orientation else to_upright(pixels, orientation)
