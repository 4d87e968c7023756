"""Read images as the network sees them: upright, 8 bits a channel, RGB or the bands of the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.i18n import trn
from dataset.classes import InvalidFileError, UInt8
from dataset.decoding.files import error_with_name, read_bytes
from dataset.decoding.options import ReadOptions
from dataset.decoding.samples import RawImage, decode_raw
from dataset.decoding.value_range import BandValues, measure_values, pool_ranges, scale_to_bytes
from dataset.overlay import as_rgb


def decode_image(data: bytes, options: ReadOptions, max_pixels: int | None = None, page: int | None = None) -> UInt8:
    """Return an image's bytes as (H,W,`channels`) uint8, upright unless `raw_orientation`; `page` of a TIFF file of several.

    Grey becomes three equal channels. More than 8 bits are scaled by `value_ranges`. Transparent parts become black,
    except in TIFF files, where "alpha" is a band. Raises InvalidFileError, ImageTooLargeError.
    """
    return to_channels(decode_raw(data, options, max_pixels, page), options)


def to_channels(image: RawImage, options: ReadOptions) -> UInt8:
    """Return the samples of an image as (H,W,`channels`) uint8. Raises InvalidFileError for another number of bands."""
    pixels, wanted = image.pixels, options.channels
    if image.opaque_alpha and pixels.shape[2] == wanted + 1:
        pixels = pixels[..., :wanted]
    if pixels.shape[2] != wanted and not (pixels.shape[2] == 1 and wanted == 3):
        expected = trn(
            "an image of {count} band, as the data that the model is trained on",
            "an image of {count} bands, as the data that the model is trained on",
            wanted,
        )
        raise InvalidFileError((expected, trn("{count} band", "{count} bands", image.bands)))
    scaled = scale_to_bytes(pixels, image.valid, options.value_ranges)
    return scaled if scaled.shape[2] == wanted else np.repeat(scaled, wanted, axis=2)


def to_preview(image: RawImage, values: BandValues | None = None) -> UInt8:
    """Return an image as (H,W,3) uint8 to look at or to compare; more than 8 bits by the range of its own values.

    They are measured unless `values` are given.
    """
    if values is None and image.pixels.dtype != np.uint8:
        values = measure_values(image.pixels, image.valid)
    ranges = pool_ranges([values], shared=True) if values is not None else ()
    return as_rgb(scale_to_bytes(image.pixels, image.valid, ranges))


def read_image(source: Path | bytes, options: ReadOptions, page: int | None = None) -> UInt8:
    """Return an image as (H,W,`channels`) uint8, as `decode_image` does. Raises UsageError naming the file."""
    try:
        return decode_image(read_bytes(source), options, page=page)
    except (InvalidFileError, OSError) as error:
        raise error_with_name(source, error) from None
