"""Sizes of an image from its header, without decoding its pixels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image, TiffImagePlugin

from dataset.decoding.files import DECODE_ERRORS, FORMATS, unreadable
from dataset.decoding.options import DEFAULT_READING
from dataset.decoding.orientation import exif_orientation
from dataset.decoding.samples import decode_raw
from dataset.decoding.tiff import is_tiff

Size = tuple[int, int]  # height, width in pixels
_TURNED = (5, 6, 7, 8)  # orientations that exchange height and width


def image_sizes(source: Path | bytes) -> tuple[Size, Size]:
    """Return the size of an image as it is shown, and as it is stored. Raises InvalidFileError, OSError.

    Only the header is read, so that a truncated file has a size too; a TIFF file that Pillow does not know is decoded.
    """
    if isinstance(source, Path):
        with source.open("rb") as stream:
            return _read_sizes(stream)
    return _read_sizes(io.BytesIO(source))


def _read_sizes(stream: BinaryIO) -> tuple[Size, Size]:
    try:
        with Image.open(stream, formats=FORMATS) as image:
            stored = _stored_size(image)
            turned = _orientation(image, stream) in _TURNED
        return (stored[::-1] if turned else stored), stored
    except (Image.DecompressionBombError, *DECODE_ERRORS) as error:
        stream.seek(0)
        data = stream.read()
        if not is_tiff(data):
            raise unreadable(data, error) from None
    height, width = decode_raw(data, DEFAULT_READING).pixels.shape[:2]
    return (height, width), ((width, height) if exif_orientation(data) in _TURNED else (height, width))


def _stored_size(image: Image.Image) -> Size:
    """Return the size of the stored pixels: of a TIFF page, newer versions of Pillow have the upright one as `size`."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(image.tag_v2[TiffImagePlugin.IMAGELENGTH]), int(image.tag_v2[TiffImagePlugin.IMAGEWIDTH])
    return image.height, image.width


def _orientation(image: Image.Image, stream: BinaryIO) -> int:
    """Return the EXIF orientation; 1 for a truncated PNG, whose tags may have been at its end."""
    try:
        if image.format == "PNG":
            stream.seek(0)
            return exif_orientation(stream.read())
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except DECODE_ERRORS:
        return 1
