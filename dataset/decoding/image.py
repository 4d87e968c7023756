"""Read images as RGB, upright, 8 bits a channel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from core.i18n import tr
from dataset.classes import InvalidFileError, UInt8
from dataset.decoding.files import DECODE_ERRORS, error_with_name, open_image, read_bytes, unreadable
from dataset.decoding.options import ReadOptions


def decode_image(data: bytes, options: ReadOptions, max_pixels: int | None = None) -> UInt8:
    """Return an image's bytes as (H,W,3) uint8 RGB, upright unless `raw_orientation`; the first of several frames.

    16-bit grey is scaled to 8 bits, transparent parts become black. Raises InvalidFileError, ImageTooLargeError.
    """
    with open_image(data, options, max_pixels) as image:
        if image.mode.startswith("I"):
            deep = np.asarray(image).astype(np.int64)
            low, high = int(deep.min()), int(deep.max())
            if low < 0 or high > 65535:
                expected = tr("an image of 8 or 16 bits")
                raise InvalidFileError((expected, tr("values {low} to {high}", low=low, high=high)))
            grey = ((deep + 128) // 257).astype(np.uint8)
            return np.repeat(grey[:, :, None], 3, axis=2)
        if image.mode == "F":
            expected = tr("an image of 8 or 16 bits")
            raise InvalidFileError((expected, tr("float pixels")))
        try:
            if image.has_transparency_data:
                black = Image.new("RGBA", image.size, (0, 0, 0, 255))
                return np.array(Image.alpha_composite(black, image.convert("RGBA")).convert("RGB"))
            return np.array(image.convert("RGB"))
        except DECODE_ERRORS as error:
            raise unreadable(data, error) from None


def read_image(source: Path | bytes, options: ReadOptions) -> UInt8:
    """Return an image as (H,W,3) uint8 RGB, as `decode_image` does. Raises UsageError naming the file."""
    try:
        return decode_image(read_bytes(source), options)
    except (InvalidFileError, OSError) as error:
        raise error_with_name(source, error) from None
