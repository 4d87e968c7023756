"""Images of more than 8 bits or three bands: read in full, by the range of the training split, or refused with the cure."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.errors import UsageError
from dataset.classes import InvalidFileError
from dataset.decoding import tiff as decoding
from dataset.decoding.files import ImageTooLargeError
from dataset.decoding.image import decode_image, read_image
from dataset.decoding.options import DEFAULT_READING, ReadOptions
from dataset.decoding.samples import decode_raw
from dataset.summary import summary
from dataset.validation import check_data
from tests.support.data_directories import faults_of, warnings_of
from tests.support.rasters import Pixels, deep_png, make_raster_data, tiff

RANDOM = np.random.default_rng(0)
RGBA: dict[str, Any] = {"photometric": "rgb", "extrasamples": ["unassalpha"]}


def samples(*shape: int, high: int = 60_000) -> Pixels:
    return RANDOM.integers(0, high, shape, np.uint16)


# --- the range of values -----------------------------------------------------------------------------------


def twelve_bits(number: int) -> Pixels:
    """Return grey samples 320 to 3504 in 16 bits, as microscopes and X-ray exports have; a ramp, and a shift per image."""
    return (320 + np.arange(24 * 32).reshape(24, 32) * 3184 // 767 - number).clip(320).astype(np.uint16)


@pytest.mark.parametrize("split", [True, False], ids=["own split", "new split"])
def test_twelve_bits_in_sixteen_use_all_grey_levels(tmp_path: Path, split: bool) -> None:
    data = check_data(make_raster_data(tmp_path, lambda n: twelve_bits(0) + np.uint16(n), split=split), 0)
    assert data.bands == 1 and data.reading.channels == 3
    assert data.reading.value_range == pytest.approx((322, 3511), abs=3)
    image = read_image(data.pairs[0].image, data.reading)
    assert image.shape == (24, 32, 3) and len(np.unique(image)) > 250
    assert image.min() <= 1 and image.max() >= 254 and np.array_equal(image[..., 0], image[..., 2])
    assert "bands: 1 (values 32" in summary(data)


def test_range_is_that_of_the_training_split(tmp_path: Path) -> None:
    data = check_data(make_raster_data(tmp_path, lambda n: twelve_bits(n) * (1 if n < 8 else 10)), 0)
    assert data.reading.value_range == (320, 3504)
    assert (read_image(data.pairs[-1].image, data.reading)[1:] == 255).all()


def test_a_few_hot_pixels_do_not_take_the_levels(tmp_path: Path) -> None:
    def draw(number: int) -> Pixels:
        pixels = samples(200, 200, high=4096)
        pixels[0, 0] = 65535
        return pixels

    low, high = check_data(make_raster_data(tmp_path, draw), 0).reading.value_range
    assert low == pytest.approx(0, abs=2) and high == pytest.approx(4095, abs=2)


def few_levels(root: Path) -> str:
    return "".join(warning.text for warning in check_data(root, 0).warnings if warning.kind == "few-levels")


@pytest.mark.parametrize("percent", [1, 10, 30, 60])
@pytest.mark.parametrize(("mark", "dtype"), [(-9999, np.float32), (3e38, np.float32), (-32768, np.int16)])
def test_marks_of_missing_data_that_take_the_levels_are_a_warning(
    tmp_path: Path, percent: int, mark: float, dtype: type[np.generic]
) -> None:
    def draw(number: int) -> Pixels:
        pixels = RANDOM.uniform(0, 100 if dtype == np.int16 else 1, (50, 40)).astype(dtype)
        pixels.ravel()[: 20 * percent] = mark if number % 2 else pixels.ravel()[: 20 * percent]
        return pixels

    text = few_levels(make_raster_data(tmp_path, draw))
    assert f"the values reach {np.float32(mark):g}" in text
    assert f"-a_nodata {np.float32(mark):g} FILE" in text


def test_outliers_of_many_values_that_take_the_levels_are_a_warning(tmp_path: Path) -> None:
    """Missing data that was resampled has all values between the mark and the data."""

    def draw(number: int) -> Pixels:
        pixels = RANDOM.uniform(0, 1, (40, 50, 2)).astype(np.float32)
        pixels[0, :, 1] = np.linspace(-9999, 0, 50)
        return pixels

    assert "the values reach -9999 in band 2:" in few_levels(make_raster_data(tmp_path, draw))


def test_uniform_backgrounds_and_two_values_have_enough_levels(tmp_path: Path) -> None:
    def spots(number: int) -> Pixels:
        pixels = np.zeros((40, 50), np.uint16)
        pixels[:6, :40] = samples(6, 40, high=4096)
        return pixels

    def two(number: int) -> Pixels:
        return (samples(40, 50) > 30_000).astype(np.uint16) * np.uint16(65535)

    def zero_beside_data(number: int) -> Pixels:
        pixels = samples(40, 50, high=5000) + np.uint16(7000)
        pixels[:10] = 0
        return pixels

    for draw in (spots, two, zero_beside_data):
        assert few_levels(make_raster_data(tmp_path / draw.__name__, draw)) == ""


def test_images_of_eight_bits_are_unchanged(tmp_path: Path) -> None:
    pixels = RANDOM.integers(90, 120, (24, 32, 3), np.uint8)
    data = check_data(make_raster_data(tmp_path, lambda n: pixels + np.uint8(n), photometric="rgb"), 0)
    assert data.reading == DEFAULT_READING and data.reading.value_range == (0, 255) and data.bands == 3
    assert np.array_equal(read_image(data.pairs[0].image, data.reading), pixels)


def test_signed_and_float_rasters_use_their_own_range(tmp_path: Path) -> None:
    height = make_raster_data(tmp_path / "height", lambda n: (samples(20, 30, high=3000) - 1000.0).astype(np.int16))
    assert check_data(height, 0).reading.value_range == pytest.approx((-1000, 1999), abs=15)
    index = make_raster_data(tmp_path / "index", lambda n: RANDOM.uniform(-1, 1, (20, 30)).astype(np.float32))
    data = check_data(index, 0)
    assert data.reading.value_range == pytest.approx((-1, 1), abs=0.01)
    assert len(np.unique(read_image(data.pairs[0].image, data.reading))) > 150


def test_bands_that_are_quantities_of_their_own_have_a_range_each(tmp_path: Path) -> None:
    def draw(number: int) -> Pixels:
        return np.stack([RANDOM.uniform(0, 1, (20, 30)), RANDOM.uniform(0, 3000, (20, 30))], 2).astype(np.float32)

    data = check_data(make_raster_data(tmp_path, draw), 0)
    assert data.reading.channels == data.bands == 2
    assert data.reading.value_ranges[0][1] == pytest.approx(1, abs=0.01)
    assert data.reading.value_ranges[1][1] == pytest.approx(3000, abs=10)
    assert read_image(data.pairs[0].image, data.reading).max((0, 1)).min() > 250


def test_missing_values_are_outside_the_range_and_read_as_its_low_end(tmp_path: Path) -> None:
    def draw(number: int) -> Pixels:
        pixels = RANDOM.uniform(5, 6, (20, 30)).astype(np.float32)
        pixels[0], pixels[1], pixels[2] = np.nan, np.inf, -9999
        return pixels

    root = make_raster_data(tmp_path, draw, extratags=[(42113, "s", 0, "-9999", True)])
    data = check_data(root, 0)
    assert data.reading.value_range == pytest.approx((5, 6), abs=0.01)
    assert not read_image(data.pairs[0].image, data.reading)[:3].any()
    (warning,) = warnings_of(data)
    assert warning.kind == "missing-values" and "10 images" in warning.text and "images/r0.tif" in warning.text
    (root / "images/r0.tif").write_bytes(tiff(np.full((20, 30), np.nan, np.float32)))
    assert [(f.file, f.found) for f in faults_of(root)] == [("images/r0.tif", "NaN or the value of no data everywhere")]


def test_mixed_depths_are_reported(tmp_path: Path) -> None:
    def draw(number: int) -> Pixels:
        return twelve_bits(number) if number % 2 else twelve_bits(number).astype(np.uint8)

    warnings = warnings_of(check_data(make_raster_data(tmp_path / "mixed", draw), 0))
    (warning,) = (warning for warning in warnings if warning.kind == "mixed-depth")
    assert "images/r0.tif" in warning.text
    only_val = make_raster_data(tmp_path / "val", lambda n: draw(1 if n == 9 else 0) + np.uint8(n))
    assert [(f.file, f.expected) for f in faults_of(only_val)] == [
        ("images/r9.tif", "samples of 8 bits, as all training images have")
    ]
    floats = make_raster_data(tmp_path / "floats", lambda n: twelve_bits(n).astype(np.float32 if n == 3 else np.uint16))
    assert [(f.file, f.found) for f in faults_of(floats)] == [("images/r3.tif", "floats, unlike the others")]


def test_a_model_of_eight_bits_refuses_values_that_would_be_black() -> None:
    full = tiff(np.array([[0, 257 * 100, 65535]], np.uint16))
    assert decode_image(full, DEFAULT_READING)[0, :, 0].tolist() == [0, 100, 255]
    with pytest.raises(UsageError, match=r"expected 8 bits, or values over all of 16 bits.*found values 320 to 3504"):
        read_image(tiff(twelve_bits(0)), DEFAULT_READING)


# --- bands -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", ["unassalpha", "assocalpha", "unspecified"])
def test_a_fourth_band_of_a_tiff_is_never_alpha(tmp_path: Path, extra: str) -> None:
    def draw(number: int) -> Pixels:
        pixels = RANDOM.integers(20, 220, (24, 32, 4), np.uint8)
        pixels[:, :16, 3] = 0  # water: no near infrared
        return pixels

    data = check_data(make_raster_data(tmp_path, draw, photometric="rgb", extrasamples=[extra]), 0)
    assert data.bands == data.reading.channels == 4 and data.reading.value_ranges == ()
    for pair in data.pairs:
        assert np.array_equal(read_image(pair.image, data.reading), tifffile.imread(pair.image))
    assert "bands: 4 (values 0 to 255)" in summary(data)


def test_alpha_that_hides_nothing_is_no_band(tmp_path: Path) -> None:
    def draw(number: int) -> Pixels:
        return np.dstack([RANDOM.integers(0, 256, (24, 32, 3), np.uint8), np.full((24, 32), 255, np.uint8)])

    data = check_data(make_raster_data(tmp_path, draw, **RGBA), 0)
    assert data.reading == DEFAULT_READING
    assert np.array_equal(read_image(data.pairs[0].image, data.reading), tifffile.imread(data.pairs[0].image)[..., :3])


def test_transparent_parts_of_a_png_stay_black_at_sixteen_bits() -> None:
    pixels = samples(20, 30, 4)
    pixels[:, :15, 3], pixels[:, 15:, 3] = 0, 65535
    raw = decode_raw(deep_png(pixels), DEFAULT_READING).pixels
    assert not raw[:, :15].any() and np.array_equal(raw[:, 15:], pixels[:, 15:, :3])


def test_colour_png_of_sixteen_bits_keeps_every_bit(tmp_path: Path) -> None:
    pixels = samples(24, 32, 3, high=4096)
    assert np.array_equal(decode_raw(deep_png(pixels), DEFAULT_READING).pixels, pixels)
    data = check_data(make_raster_data(tmp_path, lambda n: pixels + np.uint16(n), "png"), 0)
    assert data.reading.channels == 3 and len(data.reading.value_ranges) == 1
    image = read_image(data.pairs[0].image, data.reading)
    assert np.abs(image - pixels / data.reading.value_range[1] * 255).max() <= 1.1
    with pytest.raises(InvalidFileError, match="grey with alpha of 16 bits"):
        decode_raw(deep_png(samples(5, 5, 2)), DEFAULT_READING)


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        (samples(20, 30), {}),
        (samples(20, 30, 3), {"photometric": "rgb"}),
        (samples(20, 30, 3), {"photometric": "rgb", "byteorder": ">"}),
        (samples(40, 50, 4), {**RGBA, "tile": (16, 16)}),
        (samples(20, 30, 5), {}),
        (samples(20, 30, 8), {"compression": "zlib", "predictor": True}),
        (samples(20, 30, 8), {"compression": "zlib", "predictor": True, "byteorder": ">", "bigtiff": True}),
        (samples(20, 30, 13), {}),
        (RANDOM.random((20, 30, 2)), {}),
        (RANDOM.random((20, 30)).astype(np.float16), {}),
    ],
)
def test_samples_are_read_as_stored(pixels: Pixels, options: dict[str, Any]) -> None:
    found = decode_raw(tiff(pixels, **options), DEFAULT_READING).pixels
    assert found.dtype == pixels.dtype and np.array_equal(found, pixels.reshape(found.shape))


def test_bands_may_be_stored_one_after_the_other() -> None:
    pixels = samples(5, 20, 30)
    found = decode_raw(tiff(pixels, planarconfig="separate"), DEFAULT_READING)
    assert found.bands == 5 and np.array_equal(found.pixels, pixels.transpose(1, 2, 0))


@pytest.mark.parametrize("mode", ["RGBA", "I;16", "F"])
def test_lzw_needs_no_other_package(mode: str) -> None:
    pixels = {"RGBA": samples(20, 30, 4).astype(np.uint8), "I;16": samples(20, 30), "F": RANDOM.random((20, 30))}[mode]
    pixels = pixels.astype(np.float32) if mode == "F" else pixels
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "TIFF", compression="tiff_lzw")
    found = decode_raw(buffer.getvalue(), DEFAULT_READING).pixels
    assert np.array_equal(found, pixels.reshape(found.shape))


def test_other_compressions_name_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_has_package", lambda name: False)
    buffer = io.BytesIO()
    Image.fromarray(samples(20, 30, 2).astype(np.uint8), "LA").save(buffer, "TIFF", compression="tiff_lzw")
    with pytest.raises(InvalidFileError, match=r"pip install imagecodecs\), found LZW compression, 2 bands of uint8"):
        decode_raw(buffer.getvalue(), DEFAULT_READING)


@pytest.mark.parametrize(("compress", "predictor"), [("lzw", 2), ("lzw", 1), ("zstd", 2), ("deflate", 3)])
def test_rasterio_reads_the_compressions_of_gdal(compress: str, predictor: int) -> None:
    memory = pytest.importorskip("rasterio.io")
    pixels = RANDOM.random((20, 30, 5)).astype(np.float32) if predictor == 3 else samples(20, 30, 5)
    shape = {"height": 20, "width": 30, "count": 5, "dtype": pixels.dtype}
    with memory.MemoryFile() as file:
        with file.open(driver="GTiff", compress=compress, predictor=predictor, **shape) as target:
            target.write(pixels.transpose(2, 0, 1))
        data = bytes(file.getbuffer())
    assert np.array_equal(decode_raw(data, DEFAULT_READING).pixels, pixels)


@pytest.mark.parametrize("bands", [1, 2])
@pytest.mark.parametrize("kind", [np.complex64, np.complex128])
@pytest.mark.filterwarnings("error")
def test_complex_samples_are_refused(tmp_path: Path, bands: int, kind: type) -> None:
    root = make_raster_data(tmp_path, lambda n: np.full((20, 30, bands)[: bands + 1], n + 1j, kind))
    found = {(fault.file, fault.found) for fault in faults_of(root)}
    cure = "save the magnitude, or real and imaginary part as two bands"
    assert found == {(f"images/r{n}.tif", f"complex numbers ({np.dtype(kind)}) ({cure})") for n in range(10)}


def test_orientation_of_a_tiff_is_applied_unless_raw() -> None:
    pixels = samples(2, 3, 5)
    data = tiff(pixels, extratags=[(274, "H", 1, 6, True)])
    assert np.array_equal(decode_raw(data, DEFAULT_READING).pixels, np.rot90(pixels, -1))
    assert np.array_equal(decode_raw(data, ReadOptions(raw_orientation=True)).pixels, pixels)


def test_images_of_other_bands_are_faults_that_name_the_files(tmp_path: Path) -> None:
    root = make_raster_data(tmp_path, lambda n: samples(20, 30, 3 if n == 4 else 5))
    assert [(f.file, f.expected, f.found) for f in faults_of(root)] == [
        ("images/r4.tif", "5 bands, as most images have", "3 bands")
    ]
    five = ReadOptions(channels=5, value_ranges=((0.0, 60_000.0),) * 5)
    with pytest.raises(UsageError, match=r"r4\.tif: expected an image of 5 bands, as the data .* found 3 bands"):
        read_image(root / "images/r4.tif", five)


# --- damaged and hostile files -----------------------------------------------------------------------------


def test_truncated_tiff_is_named_and_not_filled() -> None:
    data = tiff(samples(64, 50, 5), compression="zlib", rowsperstrip=8)
    with pytest.raises(InvalidFileError, match="expected a complete TIFF image"):
        decode_raw(data[:-3000], DEFAULT_READING)


def test_sizes_are_checked_before_decoding() -> None:
    data = tiff(samples(100, 100, 5))
    with pytest.raises(ImageTooLargeError, match="at most 5,000 pixels"):
        decode_raw(data, DEFAULT_READING, 5000)
    bomb = bytearray(tiff(np.zeros((64, 64, 5), np.uint16), compression="zlib"))
    content = zlib.compress(bytes(100_000_000))  # in the place of 40 KB
    with tifffile.TiffFile(io.BytesIO(bytes(bomb))) as file:
        page = file.pages.first
        tags = {tag: page.tags[tag].valueoffset for tag in (273, 279)}
    for tag, value in ((273, len(bomb)), (279, len(content))):
        bomb[tags[tag] : tags[tag] + 4] = value.to_bytes(4, "little")
    with pytest.raises(InvalidFileError, match="more compressed data than pixels"):
        decode_raw(bytes(bomb) + content, DEFAULT_READING)


@given(cut=st.integers(0, 400), flip=st.integers(0, 600), value=st.integers(0, 255), compressed=st.booleans())
@settings(max_examples=150, deadline=None)
def test_damaged_rasters_raise_nothing_else(cut: int, flip: int, value: int, compressed: bool) -> None:
    data = bytearray(
        tiff(np.arange(320, dtype=np.uint16).reshape(8, 8, 5), **({"compression": 8} if compressed else {}))
    )
    data[flip % len(data)] = value
    try:
        assert decode_raw(bytes(data[: len(data) - cut]), DEFAULT_READING).pixels.ndim == 3
    except InvalidFileError as error:
        assert "expected" in str(error)


# --- the stored options ------------------------------------------------------------------------------------


def test_options_of_a_model_file_are_checked() -> None:
    options = ReadOptions(channels=4, value_ranges=((0.0, 4095.0),) * 4)
    assert ReadOptions.from_dict(options.to_dict()) == options
    for values in (
        {"channels": 1},
        {"channels": "4"},
        {"value_ranges": [[5, 5]]},
        {"value_ranges": [[0, float("nan")]]},
        {"channels": 4, "value_ranges": [[0, 1], [0, 1]]},
    ):
        with pytest.raises(ValueError, match="expected"):
            ReadOptions.from_dict(values)
