"""The EXIF orientation tag: which way up a viewer shows the stored pixels."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from dataset.classes import UInt8
from dataset.decoding.options import ReadOptions
from dataset.decoding.tiff import UNDONE_BY, is_tiff, read_orientation

T = TypeVar("T", bound=np.generic)
_PNG_KEYS = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")  # of the chunks in which a PNG file has tags


def exif_orientation(data: bytes, page: int | None = None) -> int:
    """Return the orientation tag (1 to 8) of a readable image file; 1, upright, where there is no valid one.

    `page` is that of a TIFF file of several.
    """
    if is_tiff(data):
        value = read_orientation(data, page)
    else:
        with Image.open(io.BytesIO(data)) as image:
            if image.format == "PNG" and not any(key in data for key in _PNG_KEYS):
                return 1  # without a look behind the pixels, for which Pillow decodes all of them
            value = image.getexif().get(ExifTags.Base.Orientation, 1)
    return value if value in range(1, 9) else 1


def to_upright(pixels: npt.NDArray[T], orientation: int) -> npt.NDArray[T]:
    """Return stored pixels (H,W[,C]) as a viewer shows them by this orientation tag, as Pillow's `exif_transpose` does."""
    if orientation in (3, 4, 6, 7):
        pixels = pixels[::-1]
    if orientation in (2, 3, 7, 8):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels.swapaxes(0, 1) if orientation >= 5 else pixels)


def to_stored(pixels: npt.NDArray[T], orientation: int) -> npt.NDArray[T]:
    """Return upright pixels (H,W[,C]) as the file with this orientation tag stores them."""
    return to_upright(pixels, UNDONE_BY.get(orientation, orientation))


def reorient(pixels: UInt8, data: bytes, before: ReadOptions, after: ReadOptions, page: int | None = None) -> UInt8:
    """Return pixels (H,W[,C]) that belong to an image file read by `before` as they lie if it is read by `after`."""
    if before.raw_orientation == after.raw_orientation:
        return pixels
    orientation = exif_orientation(data, page)
    return to_stored(pixels, orientation) if after.raw_orientation else to_upright(pixels, orientation)


@dataclass(frozen=True)
class OrientationFacts:
    """How a mask fits an image that has an orientation tag, read with the tag and without it."""

    tag: int  # 2 to 8
    swapped: bool  # the mask has the image's size the other way only
    as_read: float = 0.0  # contrast of the image along the mask's outlines, relative to the whole image
    other: float = 0.0  # the same with the image the other way


def compare_orientations(
    data: bytes, image: npt.NDArray[Any], mask: UInt8, options: ReadOptions, page: int | None = None
) -> OrientationFacts | None:
    """Return how a mask (H,W) fits an image (H,W,C) of these file bytes; None for an image that is upright anyway."""
    tag = exif_orientation(data, page)
    if tag == 1:
        return None
    other = to_upright(image, tag) if options.raw_orientation else to_stored(image, tag)
    if mask.shape != image.shape[:2]:
        return OrientationFacts(tag, swapped=mask.shape == other.shape[:2])
    if mask.shape != other.shape[:2]:
        return OrientationFacts(tag, swapped=False)
    return OrientationFacts(tag, False, _edge_agreement(image, mask), _edge_agreement(other, mask))


def _edge_agreement(image: npt.NDArray[Any], mask: UInt8) -> float:
    """Return the mean step of brightness where the mask changes, divided by that of all pixels; 1 where nothing changes."""
    grey = image.mean(2, dtype=np.float32)
    across, down = np.abs(np.diff(grey, axis=1)), np.abs(np.diff(grey, axis=0))
    outline_across, outline_down = mask[:, 1:] != mask[:, :-1], mask[1:] != mask[:-1]
    count = int(outline_across.sum()) + int(outline_down.sum())
    total = float(across.sum() + down.sum())
    if not count or not total:
        return 1.0
    on_outline = float(across[outline_across].sum() + down[outline_down].sum()) / count
    return float(on_outline / (total / (across.size + down.size)))
