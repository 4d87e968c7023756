"""Reading pictures and masks of any kind: depth, palette, transparency, orientation; damaged ones are named."""

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
from dataset.classes import ClassMap, InvalidFileError, UInt8, few

_DECODE_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, OverflowError, MemoryError),
    *(struct.error, zlib.error),  # Pillow's plugins let all of these through for a damaged file
)

# Whatever a file is called: Pillow knows formats that run other programs (EPS), or that few have ever looked at.
# JPEG includes MPO, which Pillow knows by no opener of its own.
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "GIF", "PPM")

# Between one and two times its limit Pillow only warns: large pictures are welcome, bombs become a fault.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class TooLarge(InvalidFileError):
    """A picture of more pixels than are wanted; none of them has been read."""


def decode_image(data: bytes, most_pixels: int | None = None) -> UInt8:
    """A picture's bytes -> (H,W,3) uint8 RGB, upright; of several frames the first. Raises Misfit, TooLarge.

    16-bit grey is scaled to 8 bits, transparent parts are laid over black.
    """
    with _opened(data, most_pixels) as image:
        if image.mode.startswith("I"):
            deep = np.asarray(image).astype(np.int64)
            low, high = int(deep.min()), int(deep.max())
            if low < 0 or high > 65535:
                expected = tr("a picture of 8 or 16 bits")
                raise InvalidFileError((expected, tr("values {low} to {high}", low=low, high=high)))
            grey = ((deep + 128) // 257).astype(np.uint8)
            return np.repeat(grey[:, :, None], 3, axis=2)
        if image.mode == "F":
            expected = tr("a picture of 8 or 16 bits")
            raise InvalidFileError((expected, tr("float pixels")))
        try:
            if image.has_transparency_data:
                black = Image.new("RGBA", image.size, (0, 0, 0, 255))
                return np.array(Image.alpha_composite(black, image.convert("RGBA")).convert("RGB"))
            return np.array(image.convert("RGB"))
        except _DECODE_ERRORS as error:
            raise _unreadable(data, error) from None


def decode_mask(data: bytes, classes: ClassMap | None) -> tuple[UInt8, bool]:
    """A mask's bytes -> (H,W) uint8 raw values, and whether it has one bit a pixel (then they are 0 and 1).

    Colour masks are read through the colours of `classes`. Raises Misfit.
    """
    with _opened(data) as image:
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
    """The mask value that a set bit of a one-bit mask stands for: 1 where the data knows 1, else white."""
    return 1 if 1 in known else 255


def _opened(data: bytes, most_pixels: int | None = None) -> Image.Image:
    """The first frame, loaded whole and turned as its EXIF says. Raises Misfit, TooLarge."""
    limit = min(most_pixels or sys.maxsize, 2 * (Image.MAX_IMAGE_PIXELS or 0))
    if not data:
        raise InvalidFileError((tr("a readable picture"), tr("an empty file (0 bytes)")))
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > limit:
            raise Image.DecompressionBombError
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
    except Image.DecompressionBombError:
        expected = tr("a picture of at most {limit:,} pixels", limit=limit)
        raise TooLarge((expected, tr("a larger one (cut it into tiles)"))) from None
    except _DECODE_ERRORS as error:
        raise _unreadable(data, error) from None
    return image


def _unreadable(data: bytes, error: Exception) -> InvalidFileError:
    # Pillow prints the address of the buffer, which says nothing to a person.
    reason = " ".join(str(error).split("<_io.")[0].split())
    found = tr("unreadable, {count:,} bytes: {reason}", count=len(data), reason=reason)
    return InvalidFileError((tr("a whole picture"), found))


def _not_eight_bit(found: str) -> InvalidFileError:
    return InvalidFileError((tr("an 8-bit mask (pixel = class id)"), found))


def _values_of_colors(pixels: UInt8, classes: ClassMap | None) -> UInt8:
    """Colour mask (H,W,3 or 4) uint8 -> values (H,W) uint8, by the classes' colours, else by equal channels."""
    red, green, blue = (pixels[..., channel] for channel in range(3))
    packed = red.astype(np.int64) << 16 | green.astype(np.int64) << 8 | blue
    unknown: list[str] = []
    if classes is not None:
        by_code: dict[int, int] = {}
        pairs = zip(classes.colors + classes.ignore_colors, classes.ids + classes.ignore_ids, strict=True)
        for (r, g, b), value in pairs:
            by_code.setdefault(r << 16 | g << 8 | b, value)
        codes = np.array(sorted(by_code))
        place = np.minimum(np.searchsorted(codes, packed), len(codes) - 1)
        missed = codes[place] != packed
        if not missed.any():
            if len(by_code) < len(classes.known):
                expected = tr("colours in classes.json that differ")
                raise InvalidFileError((expected, tr("classes of one colour, and a colour mask")))
            return np.array([by_code[int(code)] for code in codes], np.uint8)[place]
        unknown = [f"#{code:06x}" for code in np.unique(packed[missed])]
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return np.ascontiguousarray(red)
    if unknown:
        expected = tr("an 8-bit mask, or colours of classes.json")
        raise InvalidFileError((expected, tr("unknown colours {unknown}", unknown=few(unknown, 4))))
    found = tr("a colour mask (needs colours in classes.json)")
    raise _not_eight_bit(found)


def read_image(source: Path | bytes) -> UInt8:
    """A picture -> (H,W,3) uint8 RGB, upright by its EXIF orientation. Raises UsageError naming the file."""
    try:
        return decode_image(_bytes_of(source))
    except (InvalidFileError, OSError) as error:
        raise _naming(source, error) from None


def read_mask(source: Path | bytes, classes: ClassMap) -> UInt8:
    """A mask -> (H,W) uint8 class indices, `IGNORE_INDEX` where ignored. Raises UsageError naming the file."""
    try:
        values, bilevel = decode_mask(_bytes_of(source), classes)
        return classes.encode(values * np.uint8(bilevel_high(classes.known)) if bilevel else values)
    except (InvalidFileError, OSError, ValueError) as error:
        raise _naming(source, error) from None


def _bytes_of(source: Path | bytes) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()


def _naming(source: Path | bytes, error: Exception) -> UsageError:
    name = tr("picture data") if isinstance(source, bytes) else source
    return UsageError(f"{name}: {error}")
