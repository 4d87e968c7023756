"""Read the samples of TIFF pages that Pillow would reduce to 8 bits, blend with an "alpha" band, or refuse.

Pillow reads 8-bit grey and colour pages, whatever their compression. tifffile (one module of Python over numpy) reads
the others: any number of bands, 16 and 32 bits, floats.
"""

from __future__ import annotations

import functools
import io
import logging
import sys
import warnings
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from core.i18n import tr, trn
from dataset.classes import InvalidFileError

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic and BigTIFF, little and big endian
COLOUR_SPACES = (3, 5, 6, 8)  # palette, CMYK, YCbCr, CIELAB: the samples are no bands, Pillow converts them to RGB
WHITE_IS_ZERO = 0
BAND_SPACES = (WHITE_IS_ZERO, 1, 2)  # grey and RGB: any bands, where samples are read as they are stored
ALPHA_KINDS = (1, 2)  # values of ExtraSamples that mark the last sample as alpha, as GDAL does for a fourth band
REDUCED, TRANSPARENCY_MASK = 1, 4  # bits of NewSubfileType: pages that belong to another page
ORIENTATION, GDAL_NODATA = 274, 42113  # tags
UNDONE_BY = {**{value: value for value in range(1, 9)}, 6: 8, 8: 6}  # orientation -> the one that turns its pixels back
DEFLATE = (8, 32946)
BOUNDED_WITHOUT_IMAGECODECS = (1, 32773, *DEFLATE)  # none, PackBits and (checked below) deflate
MAX_EXPANSION = 1032  # of deflate
CHECKED_BYTES = 1 << 24  # a segment that may decompress to more is checked before it is decompressed
Samples = npt.NDArray[Any]


@dataclass(frozen=True)
class TiffSamples:
    """One page as it is stored: `pixels` (H,W,C) of any number type."""

    pixels: Samples
    alpha: bool  # whether the file calls the last band alpha
    nodata: float | None  # the value of pixels without data
    orientation: int  # as EXIF's tag: 1 is upright


def is_tiff(data: bytes) -> bool:
    """Return whether the bytes start like a TIFF file."""
    return data[:4] in MAGIC


@functools.cache
def _tifffile() -> Any:
    """Import tifffile, silenced: what it logs about damaged files is raised as an error here."""
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    return tifffile


def count_pages(source: Path | bytes) -> int:
    """Return the number of images in a TIFF file; overviews and transparency masks are not counted. 1 for others.

    Raises OSError.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
        if not is_tiff(stream.read(4)):
            return 1
        stream.seek(0)
        return max(1, len(_page_numbers(stream)))


def has_tag(path: Path, tags: Iterable[int], page: int | None = None) -> bool:
    """Return whether a page of a TIFF file, by default the first, has one of these tags; False for other files.

    Raises OSError.
    """
    with path.open("rb") as stream:
        if not is_tiff(stream.read(4)):
            return False
        stream.seek(0)
        try:
            with _tifffile().TiffFile(stream) as file:
                number = 0 if page is None else full_pages(file)[page][0]
                return any(tag in file.pages[number].aspage().tags for tag in tags)
        except Exception:  # a damaged file: decoding it says what is wrong
            return False


def directory_number(path: Path, page: int) -> int:
    """Return the number of a page among all directories of a TIFF file, overviews included; both from 0.

    Raises OSError and, for a page that the file does not have, IndexError.
    """
    with path.open("rb") as stream:
        return _page_numbers(stream)[page]


def _page_numbers(stream: BinaryIO) -> list[int]:
    try:
        with _tifffile().TiffFile(stream) as file:
            return [number for number, _ in full_pages(file)]
    except Exception:  # a damaged file: decoding it says what is wrong
        return [0]


def read_orientation(data: bytes, page: int | None = None) -> int:
    """Return the orientation tag of a page, None: the only one; 1, upright, without a tag and in a damaged file."""
    try:
        with open_tiff(data) as file:
            pages = full_pages(file)
            found = pages[page or 0][1] if pages else file.pages[0]
            tag = found.aspage().tags.get(ORIENTATION)
            return int(tag.value) if tag else 1
    except Exception:  # decoding it says what is wrong
        return 1


def load_as_stored(image: Image.Image) -> None:
    """Decode an opened image with its pixels as they are stored: Pillow turns a TIFF page upright when it decodes it."""
    if image.format != "TIFF":
        image.load()
        return
    before = image.getexif().get(ORIENTATION, 1)
    image.load()
    exif = image.getexif()
    if before in UNDONE_BY and exif.get(ORIENTATION, 1) != before:  # removed, as the page is upright now
        exif[ORIENTATION] = UNDONE_BY[before]
        ImageOps.exif_transpose(image, in_place=True)


def open_tiff(data: bytes) -> TiffFile:
    """Open the bytes of a TIFF file as tifffile does, which raises errors of many kinds for a damaged one."""
    file: TiffFile = _tifffile().TiffFile(io.BytesIO(data))
    return file


def full_pages(file: TiffFile) -> list[Any]:
    """Return number among all pages, and page, of those that are neither overviews nor transparency masks."""
    pages = [(number, page) for number, page in enumerate(file.pages)]
    return [entry for entry in pages if not int(getattr(entry[1], "subfiletype", 0)) & (REDUCED | TRANSPARENCY_MASK)]


def read_samples(data: bytes, page: int | None, max_pixels: int) -> TiffSamples | int:
    """Return the samples of a page, or the number of the page in the file where Pillow reads it without loss.

    None stands for the only page. Raises InvalidFileError for a damaged page, for a compression that needs another
    package, and for several pages where the only one is asked for.
    """
    try:
        with open_tiff(data) as file:
            pages = full_pages(file)
            if page is None and len(pages) > 1:
                expected = tr("one image (infer.py --input takes files of several pages)")
                raise InvalidFileError((expected, trn("{count} page", "{count} pages", len(pages))))
            number, found = pages[page or 0] if pages else (0, file.pages[0])
            found = found.aspage()
            if _pillow_reads(found):
                return int(number)
            _require_sane(found, data, max_pixels)
            pixels = _decode(found, data, number)
            if int(found.photometric) == WHITE_IS_ZERO:
                pixels = _inverted(pixels, found)
            alpha = bool(found.extrasamples) and int(found.extrasamples[-1]) in ALPHA_KINDS
            orientation = found.tags.get(ORIENTATION)
            return TiffSamples(pixels, alpha, _nodata(found), int(orientation.value) if orientation else 1)
    except InvalidFileError:
        raise
    except Exception as error:  # a parser of untrusted data: besides its own errors, those of numpy, zlib and struct
        raise InvalidFileError((tr("a complete TIFF image"), " ".join(str(error).split())[:200])) from None


def _pillow_reads(page: TiffPage) -> bool:
    """Return whether Pillow reads the page as it is meant: 8-bit grey or colour, one bit, or a colour space."""
    bits = max(page.bitspersample if isinstance(page.bitspersample, tuple) else (page.bitspersample,))
    if int(page.photometric) in COLOUR_SPACES:
        return bits <= 8
    return bits <= 8 and page.samplesperpixel in (1, 3) and page.sampleformat != 2


def _require_sane(page: TiffPage, data: bytes, max_pixels: int) -> None:
    """Raise InvalidFileError for a page that is too large, or whose segments are not all in the file."""
    from dataset.decoding.files import too_large  # that module uses this one

    if page.imagewidth * page.imagelength > max_pixels or page.size > 16 * max_pixels:
        raise too_large(max_pixels)
    if int(page.photometric) not in BAND_SPACES:
        space, bits = getattr(page.photometric, "name", page.photometric), 8 * getattr(page.dtype, "itemsize", 0)
        found = tr("colour space {space} of {bits} bits (convert it to RGB)", space=space, bits=bits)
        raise InvalidFileError((tr("grey, RGB or bands"), found))
    if page.dtype is None or page.imagedepth > 1 or page.axes not in ("YX", "YXS", "SYX"):
        raise InvalidFileError((tr("an image of rows, columns and bands"), f"{page.axes} {page.shape} {page.dtype}"))
    expected = int(np.prod(page.chunked))
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    if len(segments) < expected or any(count and offset + count > len(data) for offset, count in segments):
        raise InvalidFileError(
            (
                tr("a complete TIFF image"),
                trn("a truncated file ({count:,} byte)", "a truncated file ({count:,} bytes)", len(data)),
            )
        )
    if page.compression in DEFLATE:
        most = int(np.prod(page.chunks)) * page.dtype.itemsize
        for offset, count in segments:
            if count * MAX_EXPANSION > max(CHECKED_BYTES, 4 * most):
                _require_bounded(data[offset : offset + count], most)


def _require_bounded(segment: bytes, most: int) -> None:
    """Raise InvalidFileError for a segment that decompresses to more bytes than its part of the image has."""
    stream = zlib.decompressobj()
    if len(stream.decompress(segment, 2 * most + 1)) > 2 * most:
        raise InvalidFileError((tr("a complete TIFF image"), tr("more compressed data than pixels")))


def _decode(page: TiffPage, data: bytes, number: int) -> Samples:
    """Return the pixels (H,W,C)."""
    if int(page.compression) in BOUNDED_WITHOUT_IMAGECODECS or _has_package("imagecodecs"):
        try:
            pixels = np.asarray(page.asarray())
        except (ValueError, KeyError) as error:
            if "imagecodecs" not in str(error):
                raise
        else:
            if page.axes == "SYX":
                pixels = pixels.transpose(1, 2, 0)
            native = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
            return native if native.ndim == 3 else native[:, :, None]
    other = _decode_by_pillow(data, number, page.samplesperpixel, page.dtype)
    if other is None and number == 0 and _has_package("rasterio"):
        other = _decode_by_gdal(data)
    if other is None:
        name = getattr(page.compression, "name", page.compression)
        found = trn(
            "{compression} compression, {count} band of {type}",
            "{compression} compression, {count} bands of {type}",
            page.samplesperpixel,
            compression=name,
            type=page.dtype,
        )
        raise InvalidFileError(
            (tr("no or DEFLATE compression, or the package for others (pip install imagecodecs)"), found)
        )
    return other


def _inverted(pixels: Samples, page: TiffPage) -> Samples:
    """Return samples of which 0 is white so that 0 is black, as Pillow does for 8 bits. Raises InvalidFileError."""
    if pixels.dtype.kind != "u" or page.samplesperpixel > 1:
        found = trn(
            "{count} band of {type} whose value 0 is white",
            "{count} bands of {type} whose value 0 is white",
            page.samplesperpixel,
            type=pixels.dtype,
        )
        raise InvalidFileError((tr("a TIFF whose value 0 is black"), found))
    return np.asarray((1 << page.bitspersample) - 1 - pixels, pixels.dtype)


@functools.cache
def _has_package(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


def _decode_by_gdal(data: bytes) -> Samples | None:
    """Return the pixels (H,W,C) of the first page; None if GDAL cannot read them either."""
    import rasterio
    from rasterio.io import MemoryFile

    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    try:
        with MemoryFile(data) as memory, memory.open(driver="GTiff") as source:
            return np.ascontiguousarray(source.read().transpose(1, 2, 0))
    except rasterio.errors.RasterioError:
        return None


def _decode_by_pillow(data: bytes, number: int, samples: int, dtype: Any) -> Samples | None:
    """Return the pixels (H,W,C) of a page whose compression only Pillow's libtiff reads; None if it has no such mode."""
    try:
        high = _open_page(data, number, "high" if dtype.itemsize == 2 else "")
        if samples == 1 and high.mode[0] in "IF":
            return np.asarray(np.asarray(high).astype(dtype)[:, :, None])
        if samples not in (3, 4) or dtype not in (np.uint8, np.uint16):
            return None
        upper: Samples = np.asarray(high)
        if dtype == np.uint8:
            return upper
        lower: Samples = np.asarray(_open_page(data, number, "low"))
        return np.asarray(upper.astype(np.uint16) << 8 | lower)
    except (OSError, ValueError, KeyError):
        return None


def _open_page(data: bytes, number: int, byte: str) -> Image.Image:
    """Decode a page as stored: Pillow neither divides by alpha nor, for 16 bits, chooses the byte of a sample itself."""
    image = Image.open(io.BytesIO(data), formats=("TIFF",))
    image.seek(number)
    if image.mode in ("RGB", "RGBA", "RGBX"):
        # Pillow keeps the upper byte: here, of the other order.
        swapped = ";16B" if sys.byteorder == "little" else ";16L"
        raw_mode = image.mode + {"": "", "high": ";16N", "low": swapped}[byte]
        image.tile = [tile._replace(args=(raw_mode, *tuple(tile.args or ())[1:])) for tile in image.tile]
    load_as_stored(image)
    return image


def _nodata(page: TiffPage) -> float | None:
    """Return the value that GDAL's tag names as no data."""
    tag = page.tags.get(GDAL_NODATA)
    try:
        return None if tag is None else float(str(tag.value).strip("\0 "))
    except ValueError:
        return None
