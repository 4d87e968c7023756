"""Nothing is reduced, converted or inverted in silence: samples of any depth are read as stored, or refused."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dataset.classes import InvalidFileError
from dataset.decoding.mask import decode_mask
from dataset.decoding.options import DEFAULT_READING
from dataset.decoding.samples import decode_raw
from tests.support.rasters import Pixels, deep_png, tiff

RANDOM = np.random.default_rng(0)
RGBA: dict[str, Any] = {"photometric": "rgb", "extrasamples": ["unassalpha"]}


def samples(*shape: int, high: int = 60_000) -> Pixels:
    return RANDOM.integers(0, high, shape, np.uint16)


def pnm(pixels: Pixels, highest: int, kind: bytes = b"P6") -> bytes:
    """Return a colour PPM with a comment in its header; P3 is text."""
    height, width, _ = pixels.shape
    header = kind + b"\n# made by a test\n%d %d\n%d\n" % (width, height, highest)
    if kind == b"P3":
        return header + b" ".join(b"%d" % value for value in pixels.ravel().tolist())
    return header + pixels.astype(">u2" if highest > 255 else "u1").tobytes()


@pytest.mark.parametrize("kind", [b"P3", b"P6"])
@pytest.mark.parametrize("highest", [255, 1023, 65535])
def test_colour_ppm_is_read_in_its_full_depth(kind: bytes, highest: int) -> None:
    pixels = samples(5, 7, 3, high=highest + 1)
    found = decode_raw(pnm(pixels, highest, kind), DEFAULT_READING)
    assert found.bands == 3 and found.pixels.dtype == (np.uint8 if highest == 255 else np.uint16)
    largest = 255 if highest == 255 else 65535
    assert np.array_equal(found.pixels, np.rint(pixels * (largest / highest)))


def test_damaged_deep_ppm_is_an_error() -> None:
    whole = pnm(samples(5, 7, 3), 65535)
    for broken in (whole[:-3], pnm(samples(5, 7, 3), 1023), pnm(samples(5, 7, 3), 65535, b"P3")[:-60]):
        with pytest.raises(InvalidFileError):
            decode_raw(broken, DEFAULT_READING)


@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_value_of_a_deep_png_is_an_error(channels: int) -> None:
    """Pillow applies it to 8 bits only."""
    chunk = b"tRNS" + bytes(2 * channels)
    key = struct.pack(">I", 2 * channels) + chunk + struct.pack(">I", zlib.crc32(chunk))
    if channels == 3:
        whole = deep_png(samples(4, 5, 3))
    else:
        buffer = io.BytesIO()
        Image.fromarray(samples(4, 5)).save(buffer, "PNG")
        whole = buffer.getvalue()
    decode_raw(whole, DEFAULT_READING)
    with pytest.raises(InvalidFileError, match="16 bits without a transparent value"):
        decode_raw(whole[:33] + key + whole[33:], DEFAULT_READING)


@pytest.mark.parametrize(("space", "bands"), [("separated", 4), ("cielab", 3), ("ycbcr", 3), ("cfa", 1)])
def test_colour_spaces_of_more_than_eight_bits_are_no_bands(space: str, bands: int) -> None:
    pixels = samples(16, 16, bands) if bands > 1 else samples(16, 16)
    data = tiff(pixels, photometric=space)
    with pytest.raises(InvalidFileError, match=r"expected grey, RGB or bands, found colour space .* of 16 bits"):
        decode_raw(data, DEFAULT_READING)


def test_sixteen_bits_whose_zero_is_white_are_inverted_as_eight_bits_are() -> None:
    deep, small = samples(6, 7), RANDOM.integers(0, 255, (6, 7), np.uint8)
    assert np.array_equal(
        decode_raw(tiff(deep, photometric="miniswhite"), DEFAULT_READING).pixels[..., 0], 65535 - deep
    )
    assert np.array_equal(
        decode_raw(tiff(small, photometric="miniswhite"), DEFAULT_READING).pixels[..., 0], 255 - small
    )
    with pytest.raises(InvalidFileError, match="0 is black"):
        decode_raw(tiff(deep.astype(np.float32), photometric="miniswhite"), DEFAULT_READING)


@pytest.mark.parametrize(
    "file_format", ["JPEG2000", "AVIF", "ICO", "SGI", "TGA", "PCX", "DDS", "ICNS", "QOI", "MSP", "XBM"]
)
def test_formats_of_other_depths_are_refused_by_their_content(file_format: str) -> None:
    """Whatever the suffix: a JPEG 2000 of 16 bits named .png is not read with 8."""
    Image.init()
    if file_format not in Image.SAVE:
        pytest.skip("this Pillow cannot write it")
    buffer = io.BytesIO()
    image = Image.new("1" if file_format in ("MSP", "XBM") else "RGB", (64, 64))
    image.save(buffer, file_format)
    with pytest.raises(InvalidFileError, match="unreadable"):
        decode_raw(buffer.getvalue(), DEFAULT_READING)


def eight_bit_forms() -> list[tuple[str, str, Pixels]]:
    """Return (format, mode, samples (8,8) or (8,8,C) uint8) of what Pillow can write and no decoder may change."""
    grey, colour = (RANDOM.integers(0, 256, (8, 8, *bands), np.uint8) for bands in ((), (3,)))
    bits = (grey > 127) * np.uint8(255)
    forms = [(kind, "1", bits) for kind in ("PNG", "BMP", "TIFF", "PPM")]
    forms += [(kind, "L", grey) for kind in ("PNG", "BMP", "TIFF", "PPM", "GIF")]
    return forms + [(kind, "RGB", colour) for kind in ("PNG", "BMP", "TIFF", "PPM", "WEBP")]


@pytest.mark.parametrize(("file_format", "mode", "pixels"), eight_bit_forms())
def test_eight_bits_are_delivered_as_stored(file_format: str, mode: str, pixels: Pixels) -> None:
    buffer = io.BytesIO()
    options = {"lossless": True} if file_format == "WEBP" else {}
    Image.fromarray(pixels).convert(mode).save(buffer, file_format, **options)
    found = decode_raw(buffer.getvalue(), DEFAULT_READING).pixels
    wanted = pixels if pixels.ndim == 3 else pixels[..., None]
    assert found.dtype == np.uint8 and np.array_equal(found, np.broadcast_to(wanted, found.shape))


def test_deep_colour_masks_are_refused() -> None:
    with pytest.raises(InvalidFileError, match="several channels of 16 bits"):
        decode_mask(pnm(samples(4, 4, 3), 65535), None, DEFAULT_READING)
