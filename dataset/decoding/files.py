"""Open an image file whatever its suffix; damaged files and decompression bombs are named errors."""

from __future__ import annotations

import io
import struct
import sys
import warnings
import zlib
from pathlib import Path

from PIL import Image, ImageOps

from core.errors import UsageError
from core.files import is_lfs_pointer
from core.i18n import current_language, tr, trn
from core.safety.terminal import escape_line
from dataset.classes import InvalidFileError
from dataset.decoding.options import ReadOptions
from dataset.decoding.tiff import load_as_stored

DECODE_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, OverflowError, MemoryError),
    *(struct.error, zlib.error),  # Pillow's plugins let all of these through for a damaged file
)

# Whatever the suffix: Pillow also supports formats that run other programs (EPS) or whose decoders are rarely tested.
# JPEG includes MPO, which has no separate opener in Pillow.
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "GIF", "PPM")

_ANIMATED = ("GIF", "PNG", "WEBP")  # formats whose further frames a viewer plays; pages of a TIFF are something else

# Between one and two times its limit Pillow only warns: large images are accepted, decompression bombs raise an error.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class ImageTooLargeError(InvalidFileError):
    """An image with more pixels than the limit; none of them has been decoded."""


def has_image_header(path: Path) -> bool:
    """Return whether a file begins like an image of a format that is read; a damaged image may do so too."""
    try:
        with Image.open(path, formats=FORMATS):
            return True
    except Image.DecompressionBombError:
        return True
    except DECODE_ERRORS:
        return False


def pixel_limit(max_pixels: int | None = None) -> int:
    """Return how many pixels an image may have: a larger one is a decompression bomb, or more than was asked for."""
    return min(max_pixels or sys.maxsize, 2 * (Image.MAX_IMAGE_PIXELS or 0))


def open_image(
    data: bytes, options: ReadOptions, max_pixels: int | None = None, frame: int = 0, raw_mode: str | None = None
) -> Image.Image:
    """Decode a frame, upright unless `raw_orientation`. Raises InvalidFileError, ImageTooLargeError.

    `raw_mode` is the layout of the samples in a PNG file, instead of the one that its header states.
    """
    limit = pixel_limit(max_pixels)
    if not data:
        raise InvalidFileError((tr("a readable image"), tr("an empty file (0 bytes)")))
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if frame:
            image.seek(frame)
        if image.width * image.height > limit:
            raise Image.DecompressionBombError
        if raw_mode:
            image.tile = [tile._replace(args=raw_mode) for tile in image.tile]
        if options.raw_orientation:
            load_as_stored(image)
        else:
            ImageOps.exif_transpose(image, in_place=True)
    except Image.DecompressionBombError:
        raise too_large(limit) from None
    except DECODE_ERRORS as error:
        raise unreadable(data, error) from None
    return image


def is_animation(image: Image.Image) -> bool:
    """Return whether an image is the first of several frames, of which the others may be damaged."""
    try:
        return image.format in _ANIMATED and bool(getattr(image, "is_animated", False))
    except DECODE_ERRORS:  # Pillow looks for the second frame of a GIF
        return True


def too_large(limit: int) -> ImageTooLargeError:
    """Return the error of an image with more pixels than the limit."""
    expected = tr("an image of at most {limit:,} pixels", limit=limit)
    return ImageTooLargeError((expected, tr("a larger one (cut it into tiles)")))


def unreadable(data: bytes, error: Exception) -> InvalidFileError:
    """Return the error of bytes that the decoder refused."""
    if is_lfs_pointer(data):
        return InvalidFileError((tr("a complete image"), tr("a Git LFS pointer: run git lfs pull")))
    # Pillow prints the address of the buffer, which does not help the user.
    reason = " ".join(str(error).split("<_io.")[0].split())
    if current_language() == "en":
        found = trn(
            "unreadable, {count:,} byte: {reason}", "unreadable, {count:,} bytes: {reason}", len(data), reason=reason
        )
    else:  # the decoders' reasons are English only
        found = trn("unreadable, {count:,} byte", "unreadable, {count:,} bytes", len(data))
    return InvalidFileError((tr("a complete image"), found))


def read_bytes(source: Path | bytes) -> bytes:
    """Return the bytes of a file, or these bytes."""
    return source if isinstance(source, bytes) else source.read_bytes()


def error_with_name(source: Path | bytes, error: Exception) -> UsageError:
    """Return an error that names the file."""
    name = tr("image data") if isinstance(source, bytes) else source
    return UsageError(escape_line(f"{name}: {error}"))
