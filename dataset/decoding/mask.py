"""Read masks as class values: from grey values, palettes, bits, or the colours of classes.json."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from core.i18n import tr
from dataset.classes import ClassMap, InvalidFileError, UInt8, abbreviate
from dataset.decoding.files import error_with_name, open_image, read_bytes
from dataset.decoding.options import ReadOptions


def decode_mask(data: bytes, classes: ClassMap | None, options: ReadOptions) -> tuple[UInt8, bool]:
    """Return a mask's bytes as (H,W) uint8 raw values, and whether it has one bit per pixel (values 0 and 1).

    Colour masks are read through the colours of `classes`. Raises InvalidFileError.
    """
    with open_image(data, options) as image:
        pixels = np.array(image)
        if image.mode == "1":
            return pixels.astype(np.uint8), True
        if image.mode in ("L", "P"):
            return pixels, False
        if image.mode in ("LA", "PA"):
            return np.ascontiguousarray(pixels[..., 0]), False
        if image.mode.startswith("I"):
            if pixels.min() < 0 or pixels.max() > 255:
                raise _not_eight_bit(tr("values {min} to {max}", min=pixels.min(), max=pixels.max()))
            return pixels.astype(np.uint8), False
        if image.mode in ("RGB", "RGBA"):
            return _values_of_colors(pixels, classes), False
        raise _not_eight_bit(tr("mode '{mode}'", mode=image.mode))


def bilevel_high(known: Collection[int]) -> int:
    """Return the mask value that a set bit of a one-bit mask stands for: 1 if the data uses 1, else 255."""
    return 1 if 1 in known else 255


def _not_eight_bit(found: str) -> InvalidFileError:
    return InvalidFileError((tr("an 8-bit mask (pixel = class id)"), found))


def _values_of_colors(pixels: UInt8, classes: ClassMap | None) -> UInt8:
    """Return the values (H,W) uint8 of a colour mask (H,W,3 or 4) uint8, by class colours, else by equal channels."""
    red, green, blue = (pixels[..., channel] for channel in range(3))
    packed = red.astype(np.int64) << 16 | green.astype(np.int64) << 8 | blue
    unknown: list[str] = []
    if classes is not None:
        by_code: dict[int, int] = {}
        pairs = zip(classes.colors + classes.ignore_colors, classes.ids + classes.ignore_ids, strict=True)
        for (r, g, b), value in pairs:
            by_code.setdefault(r << 16 | g << 8 | b, value)
        codes = np.array(sorted(by_code))
        index = np.minimum(np.searchsorted(codes, packed), len(codes) - 1)
        missed = codes[index] != packed
        if not missed.any():
            if len(by_code) < len(classes.known):
                expected = tr("a different colour for each class in classes.json")
                raise InvalidFileError((expected, tr("a colour mask, and classes with the same colour")))
            return np.array([by_code[int(code)] for code in codes], np.uint8)[index]
        unknown = [f"#{code:06x}" for code in np.unique(packed[missed])]
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return np.ascontiguousarray(red)
    if unknown:
        expected = tr("an 8-bit mask, or colours of classes.json")
        raise InvalidFileError((expected, tr("unknown colours {unknown}", unknown=abbreviate(unknown, 4))))
    found = tr("a colour mask (needs colours in classes.json)")
    raise _not_eight_bit(found)


def read_mask(source: Path | bytes, classes: ClassMap, options: ReadOptions) -> UInt8:
    """Return a mask as (H,W) uint8 class indices, `IGNORE_INDEX` where ignored. Raises UsageError naming the file."""
    try:
        values, bilevel = decode_mask(read_bytes(source), classes, options)
        return classes.encode(values * np.uint8(bilevel_high(classes.known)) if bilevel else values)
    except (InvalidFileError, OSError, ValueError) as error:
        raise error_with_name(source, error) from None
