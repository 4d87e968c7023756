"""Read images and masks of any bit depth, palette, transparency and orientation; errors name damaged files."""

from __future__ import annotations

import io
import struct
import sys
import warnings
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from core.errors import UsageError
from core.i18n import tr
from dataset.classes import ClassMap, InvalidFileError, UInt8, abbreviate

_DECODE_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, OverflowError, MemoryError),
    *(struct.error, zlib.error),  # Pillow's plugins let all of these through for a damaged file
)

# Whatever the suffix: Pillow also supports formats that run other programs (EPS) or whose decoders are rarely tested.
# JPEG includes MPO, which has no separate opener in Pillow.
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "GIF", "PPM")

# Between one and two times its limit Pillow only warns: large images are accepted, decompression bombs raise an error.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class ImageTooLargeError(InvalidFileError):
    """An image with more pixels than the limit; none of them has been decoded."""


def decode_image(data: bytes, max_pixels: int | None = None) -> UInt8:
    """Return an image's bytes as (H,W,3) uint8 RGB, upright; the first of several frames.

    16-bit grey is scaled to 8 bits, transparent parts become black. Raises InvalidFileError, ImageTooLargeError.
    """
    with _open_image(data, max_pixels) as image:
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
        except _DECODE_ERRORS as error:
            raise _unreadable(data, error) from None


def decode_mask(data: bytes, classes: ClassMap | None) -> tuple[UInt8, bool]:
    """Return a mask's bytes as (H,W) uint8 raw values, and whether it has one bit per pixel (values 0 and 1).

    Colour masks are read through the colours of `classes`. Raises InvalidFileError.
    """
    with _open_image(data) as image:
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


def _open_image(data: bytes, max_pixels: int | None = None) -> Image.Image:
    """Decode the first frame, rotated by its EXIF orientation. Raises InvalidFileError, ImageTooLargeError."""
    limit = min(max_pixels or sys.maxsize, 2 * (Image.MAX_IMAGE_PIXELS or 0))
    if not data:
        raise InvalidFileError((tr("a readable image"), tr("an empty file (0 bytes)")))
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > limit:
            raise Image.DecompressionBombError
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
    except Image.DecompressionBombError:
        expected = tr("an image of at most {limit:,} pixels", limit=limit)
        raise ImageTooLargeError((expected, tr("a larger one (cut it into tiles)"))) from None
    except _DECODE_ERRORS as error:
        raise _unreadable(data, error) from None
    return image


def _unreadable(data: bytes, error: Exception) -> InvalidFileError:
    # Pillow prints the address of the buffer, which does not help the user.
    reason = " ".join(str(error).split("<_io.")[0].split())
    found = tr("unreadable, {count:,} bytes: {reason}", count=len(data), reason=reason)
    return InvalidFileError((tr("a complete image"), found))


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


def read_image(source: Path | bytes) -> UInt8:
    """Return an image as (H,W,3) uint8 RGB, upright by its EXIF orientation. Raises UsageError naming the file."""
    try:
        return decode_image(_read_bytes(source))
    except (InvalidFileError, OSError) as error:
        raise _error_with_name(source, error) from None


def read_mask(source: Path | bytes, classes: ClassMap) -> UInt8:
    """Return a mask as (H,W) uint8 class indices, `IGNORE_INDEX` where ignored. Raises UsageError naming the file."""
    try:
        values, bilevel = decode_mask(_read_bytes(source), classes)
        return classes.encode(values * np.uint8(bilevel_high(classes.known)) if bilevel else values)
    except (InvalidFileError, OSError, ValueError) as error:
        raise _error_with_name(source, error) from None


def _read_bytes(source: Path | bytes) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()


def _error_with_name(source: Path | bytes, error: Exception) -> UsageError:
    name = tr("image data") if isinstance(source, bytes) else source
    return UsageError(f"{name}: {error}")
