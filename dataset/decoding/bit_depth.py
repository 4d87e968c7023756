"""Undo what decoders do to the samples of masks: stretch small ones to 0..255, cut large ones, lose them to compression."""

from __future__ import annotations

import re
import struct

import numpy as np
from PIL import Image

from dataset.classes import UInt8

_PNG_GREY = 0  # colour type in the header
_PNG_HEADER = 33  # bytes of the signature and the first chunk
_TIFF_BITS, _TIFF_COMPRESSION, _TIFF_PHOTOMETRIC = 258, 259, 262
_TIFF_SOFTWARE = 305
_WHITE_IS_ZERO = 0
_LOSSY_TIFF = (6, 7, 34712, 34892, 50001)  # JPEG (old and new), JPEG 2000, lossy JPEG of DNG, WebP
_PNM_HEADER = re.compile(rb"P[2356](?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+(\d+)\s")


def unstretch(data: bytes, image: Image.Image, pixels: UInt8) -> UInt8 | None:
    """Return the samples of a grey image (H,W) as they are stored; None if that is what was decoded.

    Pillow shows 2-bit samples as 0, 85, 170, 255: as class ids they are 0 to 3.
    """
    highest = _highest_sample(data, image)
    if not 0 < highest < 255:
        return None
    stored = np.rint(np.arange(256) * (highest / 255)).astype(np.uint8)[pixels]
    stretched = np.round(np.arange(highest + 1) * (255 / highest)).astype(np.int64)
    exact = np.abs(stretched[stored] - pixels) <= 1  # decoders round in different ways
    return stored if exact.all() else None


def _highest_sample(data: bytes, image: Image.Image) -> int:
    """Return the largest value that a grey sample of the file can have; 255 where it is not less than that."""
    if image.format == "PNG":
        return (1 << _significant_png_bits(data)) - 1
    if image.format == "TIFF":
        return (1 << min(8, _tiff_bits(image))) - 1
    if image.format == "PPM" and (header := _PNM_HEADER.match(data)):
        return min(255, int(header[1]))
    return 255


def _significant_png_bits(data: bytes) -> int:
    """Return the bits of a grey PNG's samples, as the header or the chunk sBIT states them; 8 for every other PNG."""
    depth, kind = data[24], data[25]
    if kind != _PNG_GREY or depth > 8:
        return 8
    start = _PNG_HEADER
    while data[start + 4 : start + 8] not in (b"IDAT", b"IEND", b""):
        (length,) = struct.unpack(">I", data[start : start + 4])
        if data[start + 4 : start + 8] == b"sBIT" and length == 1:
            return min(depth, max(1, data[start + 8]))
        start += 12 + length
    return depth


def _tiff_bits(image: Image.Image) -> int:
    """Return the bits of the largest sample of a TIFF file."""
    bits = image.tag_v2.get(_TIFF_BITS, (8,))  # type: ignore[attr-defined]
    return max(map(int, bits)) if isinstance(bits, tuple) else int(bits)


def has_cut_samples(data: bytes, image: Image.Image) -> bool:
    """Return whether the file has several channels of more than 8 bits, of which Pillow keeps the upper 8."""
    if len(image.getbands()) == 1:
        return False
    if image.format == "PNG":
        return data[24] > 8
    if image.format == "PPM" and (header := _PNM_HEADER.match(data)):
        return int(header[1]) > 255
    return image.format == "TIFF" and _tiff_bits(image) > 8


def is_inverted(image: Image.Image) -> bool:
    """Return whether the file says that its value 0 is white: Pillow then subtracts the values from 255."""
    return image.format == "TIFF" and image.tag_v2.get(_TIFF_PHOTOMETRIC, 1) == _WHITE_IS_ZERO  # type: ignore[attr-defined]


def holds_boolean_array(image: Image.Image) -> bool:
    """Return whether tifffile (scikit-image, imageio) wrote an array of bits, for which it says that 0 is white."""
    software = image.tag_v2.get(_TIFF_SOFTWARE, "") if is_inverted(image) else ""  # type: ignore[attr-defined]
    return str(software).startswith("tifffile")


def is_lossy(data: bytes, image: Image.Image) -> bool:
    """Return whether the file is compressed in a way that changes values."""
    if image.format == "TIFF":
        return image.tag_v2.get(_TIFF_COMPRESSION, 1) in _LOSSY_TIFF  # type: ignore[attr-defined]
    if image.format != "WEBP":
        return image.format in ("JPEG", "MPO")
    start = 12
    while len(kind := data[start : start + 4]) == 4:
        if kind in (b"VP8 ", b"VP8L"):
            return kind == b"VP8 "
        (length,) = struct.unpack("<I", data[start + 4 : start + 8])
        start += 8 + length + length % 2
    return False
