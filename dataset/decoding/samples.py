"""Decode an image file to its samples: as many bands as the file has, in its own depth."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from core.i18n import tr, trn
from dataset.classes import InvalidFileError, UInt8
from dataset.decoding import tiff
from dataset.decoding.files import (
    DECODE_ERRORS,
    ImageTooLargeError,
    is_animation,
    open_image,
    pixel_limit,
    unreadable,
)
from dataset.decoding.options import ReadOptions
from dataset.decoding.orientation import to_upright

PNG_MAGIC, PNG_DEPTH_AT, PNG_COLOUR_AT = b"\x89PNG\r\n\x1a\n", 24, 25  # offsets of two bytes of the header
JPEG_MAGIC, JPEG_END = b"\xff\xd8", b"\xff\xd9"
PNG_RGB, PNG_GREY_ALPHA, PNG_RGBA = 2, 4, 6
# A colour image in text (P3) or bytes (P6): kind, width, height, largest value, one white space; comments anywhere.
_SPACE = rb"(?:\s|#[^\r\n]*[\r\n])+"
PNM_HEADER = re.compile(rb"P([36])" + _SPACE + rb"\d+" + _SPACE + rb"\d+" + _SPACE + rb"(\d{1,5})\s")


@dataclass(frozen=True)
class RawImage:
    """An image as it is stored, upright: `pixels` (H,W,C) of any number type; 8-bit grey is (H,W,3).

    Transparent parts are black, except in TIFF files, whose "alpha" is a band like the others.
    """

    pixels: npt.NDArray[Any]
    bands: int  # of the file: 1, 3, or C of another TIFF
    valid: npt.NDArray[np.bool_] | None = None  # (H,W); None: every pixel has data
    opaque_alpha: bool = False  # the last band is called alpha, and hides nothing
    truncated: bool = False  # the end of the file is missing; its pixels are grey


def decode_raw(data: bytes, options: ReadOptions, max_pixels: int | None = None, page: int | None = None) -> RawImage:
    """Return the samples of an image file's bytes; `page` is that of a TIFF file of several. Raises InvalidFileError."""
    if tiff.is_tiff(data):
        found = tiff.read_samples(data, page, pixel_limit(max_pixels))
        return _from_pillow(data, options, max_pixels, found) if isinstance(found, int) else _from_tiff(found, options)
    if data.startswith(PNG_MAGIC) and data[PNG_DEPTH_AT : PNG_DEPTH_AT + 1] == b"\x10":
        return _from_deep_png(data, options, max_pixels)
    if (header := PNM_HEADER.match(data)) and int(header[2]) > 255:
        return _from_deep_pnm(data, header, options, max_pixels)
    try:
        return _from_pillow(data, options, max_pixels, 0)
    except ImageTooLargeError:
        raise
    except InvalidFileError:
        image = _from_truncated_jpeg(data, options, max_pixels) if data.startswith(JPEG_MAGIC) else None
        if image is None:
            raise
    if not options.allow_truncated:
        truncated = trn(
            "a truncated one, {count:,} byte (--allow-truncated accepts it)",
            "a truncated one, {count:,} bytes (--allow-truncated accepts it)",
            len(data),
        )
        raise InvalidFileError((tr("a complete JPEG"), truncated))
    return image


def _from_truncated_jpeg(data: bytes, options: ReadOptions, max_pixels: int | None) -> RawImage | None:
    """Return the image of a JPEG whose end is missing, as browsers show it; None for another fault.

    An end marker is added, at which the decoder fills the rest with grey. Pillow's own switch for truncated files
    holds for the whole process and all of its threads.
    """
    try:
        return dataclasses.replace(_from_pillow(data + JPEG_END, options, max_pixels, 0), truncated=True)
    except InvalidFileError:
        return None


def _from_pillow(data: bytes, options: ReadOptions, max_pixels: int | None, frame: int) -> RawImage:
    """Return what Pillow reads without loss: 8 bits a channel, or 16-bit grey."""
    with open_image(data, options, max_pixels, frame) as image:
        _require_still(image)
        if image.mode[0] in "IF":
            return RawImage(_compact(np.asarray(image))[:, :, None], 1)
        bands = 1 if image.mode in ("1", "L", "LA", "La") else 3
        try:
            if image.format != "TIFF" and image.has_transparency_data:
                black = Image.new("RGBA", image.size, (0, 0, 0, 255))
                return RawImage(np.array(Image.alpha_composite(black, image.convert("RGBA")).convert("RGB")), bands)
            return RawImage(np.array(image.convert("RGB")), bands)
        except DECODE_ERRORS as error:
            raise unreadable(data, error) from None


def _require_still(image: Image.Image) -> None:
    """Raise InvalidFileError for an animation, of which only the first frame would be read."""
    if is_animation(image):
        raise InvalidFileError((tr("an image of one frame"), tr("an animation (save each frame as an image)")))


def _compact(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the 32-bit integers that Pillow makes of 16-bit grey as uint16 again."""
    if values.dtype == np.int32 and values.size and values.min() >= 0 and values.max() <= 65535:
        return values.astype(np.uint16)
    return values


def _from_tiff(found: tiff.TiffSamples, options: ReadOptions) -> RawImage:
    pixels = found.pixels
    require_real(pixels)
    if not options.raw_orientation:
        pixels = to_upright(pixels, found.orientation)
    opaque = False
    if found.alpha and pixels.dtype.kind == "u":
        opaque = bool((pixels[..., -1] == np.iinfo(pixels.dtype).max).all())
    valid = find_valid(pixels, found.nodata) if pixels.dtype != np.uint8 else None
    if valid is not None and not valid.any():
        raise InvalidFileError((tr("pixels with data"), tr("NaN or the value of no data everywhere")))
    return RawImage(pixels, pixels.shape[2], valid, opaque)


def require_real(pixels: npt.NDArray[Any]) -> None:
    """Raise InvalidFileError for complex samples, whose imaginary part would be lost."""
    if pixels.dtype.kind == "c":
        cure = tr("save the magnitude, or real and imaginary part as two bands")
        found = tr("complex numbers ({type})", type=pixels.dtype)
        raise InvalidFileError((tr("samples that are integers or floats"), f"{found} ({cure})"))


def find_valid(pixels: npt.NDArray[Any], nodata: float | None) -> npt.NDArray[np.bool_] | None:
    """Return where samples (H,W,C) are finite and not all the value of no data, (H,W); None where all pixels are."""
    valid = np.ones(pixels.shape[:2], np.bool_)
    if pixels.dtype.kind == "f":
        valid &= np.isfinite(pixels).all(2)
    if nodata is not None and np.isfinite(nodata):
        valid &= (pixels != nodata).any(2)
    return None if valid.all() else valid


def _from_deep_png(data: bytes, options: ReadOptions, max_pixels: int | None) -> RawImage:
    """Return a PNG of 16 bits, over black where it is transparent. Raises InvalidFileError where Pillow loses alpha.

    Pillow has no mode for colours of 16 bits and keeps the upper byte of each sample: they are read a second time in the
    other byte order, which keeps the lower one.
    """
    kind = data[PNG_COLOUR_AT]
    if kind == PNG_GREY_ALPHA:
        expected = tr("a PNG of 16 bits as grey, RGB or RGBA")
        raise InvalidFileError((expected, tr("grey with alpha of 16 bits (save it without alpha)")))
    if _has_transparent_value(data):
        found = tr("16 bits with a transparent value (save it as RGBA, or without transparency)")
        raise InvalidFileError((tr("a PNG of 16 bits without a transparent value"), found))
    if kind not in (PNG_RGB, PNG_RGBA):
        return _from_pillow(data, options, max_pixels, 0)
    with open_image(data, options, max_pixels) as image:
        _require_still(image)
        upper: UInt8 = np.array(image)
    with open_image(data, options, max_pixels, raw_mode=f"{image.mode};16L") as image:
        pixels = upper.astype(np.uint16) << 8 | np.asarray(image)
    if pixels.shape[2] == 4:
        alpha = pixels[..., 3:].astype(np.float64) / 65535
        pixels = np.rint(pixels[..., :3] * alpha).astype(np.uint16)
    return RawImage(pixels, 3)


def _has_transparent_value(data: bytes) -> bool:
    """Return whether a PNG names one value as transparent, which Pillow does not apply to 16 bits."""
    start = len(PNG_MAGIC)
    while (kind := data[start + 4 : start + 8]) not in (b"IDAT", b"IEND", b""):
        if kind == b"tRNS":
            return True
        start += 12 + int.from_bytes(data[start : start + 4], "big")
    return False


def _from_deep_pnm(data: bytes, header: re.Match[bytes], options: ReadOptions, max_pixels: int | None) -> RawImage:
    """Return a colour PPM of more than 8 bits, scaled to 16 bits as Pillow scales a grey one.

    Pillow reduces it to 8 bits.
    """
    with open_image(data, options, max_pixels) as image:  # raises for a damaged one
        width, height = image.size
    highest, count, body = int(header[2]), width * height * 3, data[header.end() :]
    if header[1] == b"6":
        samples = np.frombuffer(body, ">u2", count)
    else:
        samples = np.array(re.sub(rb"#[^\r\n]*", b"", body).split()[:count], np.int64)
    if samples.max(initial=0) > highest:
        raise InvalidFileError((tr("values of at most {high}", high=highest), str(samples.max())))
    scaled = np.rint(samples * (65535 / highest)).astype(np.uint16)
    return RawImage(scaled.reshape(height, width, 3), 3)
