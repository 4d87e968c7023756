"""Masks are read as a person sees them: by colour, by index, by the samples that the file has."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.errors import UsageError
from dataset.classes import ClassMap, InvalidFileError, UInt8, build_classes, classes_from_values
from dataset.decoding import mask as mask_reading
from dataset.decoding.mask import decode_mask
from dataset.decoding.options import DEFAULT_READING
from dataset.decoding.samples import decode_raw
from tests.support.mask_files import grey_png, palette_png, saved, scene

COLORS = {0: (0, 0, 0), 1: (230, 75, 60), 2: (60, 180, 75)}
LISTED = build_classes([(value, f"c{value}", color, False) for value, color in COLORS.items()])
UNCOLORED = build_classes([(value, f"c{value}", None, False) for value in COLORS])


def read_mask(data: bytes, classes: ClassMap) -> UInt8:
    return mask_reading.read_mask(data, classes, DEFAULT_READING)


def decoded(data: bytes, classes: ClassMap | None = None) -> UInt8:
    return decode_mask(data, classes, DEFAULT_READING).values


# --- palettes ----------------------------------------------------------------------------------------------


@st.composite
def colored_classes(draw: st.DrawFn) -> ClassMap:
    ids = draw(st.lists(st.integers(0, 255), min_size=2, max_size=12, unique=True))
    channel = st.integers(0, 255)
    colors = draw(st.lists(st.tuples(channel, channel, channel), min_size=len(ids), max_size=len(ids), unique=True))
    return build_classes((value, f"c{value}", color, False) for value, color in zip(ids, colors, strict=True))


@given(classes=colored_classes(), data=st.data())
@settings(max_examples=150, deadline=None)
def test_reading_by_colour_does_not_depend_on_the_palette_order(classes: ClassMap, data: st.DataObject) -> None:
    """Also with entries that no pixel uses, and the same as for the mask in RGB."""
    ids = data.draw(st.lists(st.sampled_from(classes.ids), min_size=12, max_size=12))
    pixels = np.array(ids, np.uint8).reshape(3, 4)
    colors = dict(zip(classes.ids, classes.colors, strict=True))
    order = data.draw(st.permutations(classes.ids))
    rgb = np.array([colors[value] for value in ids], np.uint8).reshape(3, 4, 3)
    expected = classes.encode(pixels)
    assert np.array_equal(read_mask(palette_png(pixels, colors, order), classes), expected)
    assert np.array_equal(read_mask(saved(Image.fromarray(rgb)), classes), expected)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 2, 0]])
def test_quantized_mask_is_read_by_the_colours_of_the_classes(order: list[int]) -> None:
    ids = scene()
    assert np.array_equal(decoded(palette_png(ids, COLORS, order), LISTED), ids)


def test_palette_without_class_colours_is_read_by_index() -> None:
    """Pascal VOC's palette, with classes in colours of the user's choice."""
    voc = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0)}
    ids = scene()
    assert np.array_equal(decoded(palette_png(ids, voc, [0, 1, 2]), LISTED), ids)
    assert np.array_equal(decoded(palette_png(ids, voc, [0, 1, 2]), UNCOLORED), ids)


def test_voc_border_is_ignored_by_index_and_by_colour() -> None:
    entries = [(value, f"c{value}", color, False) for value, color in COLORS.items()]
    classes = build_classes([*entries, (255, "border", None, True)])
    ids = scene()
    ids[0] = 255
    palette = np.zeros((256, 3), np.uint8)
    palette[:3], palette[255] = list(COLORS.values()), (224, 224, 192)
    image = Image.fromarray(ids)
    image.putpalette(palette.tobytes())
    assert np.array_equal(read_mask(saved(image), classes), classes.encode(ids))
    reordered = palette_png(ids, {**COLORS, 255: (224, 224, 192)}, [255, 2, 1, 0])
    assert np.array_equal(read_mask(reordered, classes), classes.encode(ids))


@pytest.mark.parametrize("used", [(0, 1, 255), (1, 255), (255,)])
def test_ignored_index_without_a_colour_of_its_own_is_ignored(used: tuple[int, ...]) -> None:
    """A palette of three colours, filled up with black, which is the colour of class 0."""
    entries = [(value, f"c{value}", color, False) for value, color in COLORS.items()]
    classes = build_classes([*entries, (255, "border", None, True)])
    image = Image.fromarray(np.resize(np.array(used, np.uint8), (4, 6)))
    image.putpalette([channel for color in COLORS.values() for channel in color] + [0] * 759)
    assert np.array_equal(decoded(saved(image), classes), np.resize(np.array(used, np.uint8), (4, 6)))


def test_reordered_palette_that_is_filled_up_is_read_by_colour() -> None:
    ids = scene()
    order = [2, 1, 0]
    image = Image.open(io.BytesIO(palette_png(ids, COLORS, order)))
    image.putpalette([channel for value in order for channel in COLORS[value]] + [0] * 759)
    assert np.array_equal(decoded(saved(image), LISTED), ids)


def test_masks_that_this_project_writes_are_read_back() -> None:
    for classes in (LISTED, UNCOLORED, classes_from_values({0, 3, 200})):
        ids = classes.decode((np.arange(12, dtype=np.uint8) % classes.num_classes).reshape(3, 4))
        image = Image.fromarray(ids)
        image.putpalette(classes.palette())
        assert np.array_equal(decoded(saved(image), classes), ids)


@pytest.mark.parametrize(
    "colors",
    [
        {0: (60, 180, 75), 1: (230, 75, 60), 2: (1, 2, 3)},  # one colour is that of another class, one is unknown
        {0: (58, 182, 77), 1: (232, 73, 58), 2: (2, 2, 2)},  # nearly the class colours, in another order
        {0: (0, 0, 0), 1: (0, 0, 0), 2: (60, 180, 75)},  # two indices with one colour
    ],
)
def test_index_and_colour_that_disagree_are_reported_with_both(colors: dict[int, tuple[int, int, int]]) -> None:
    with pytest.raises(UsageError, match=r"index \d, #[0-9a-f]{6}: 'c\d' by index, 'c\d' by colour"):
        read_mask(palette_png(scene(), colors, [0, 1, 2]), LISTED)


@pytest.mark.parametrize("white_first", [False, True])
def test_gif_of_a_black_and_white_mask_is_read_by_colour(white_first: bool) -> None:
    bits = (scene() > 0).astype(np.uint8)
    image = Image.fromarray(bits ^ np.uint8(white_first))
    image.putpalette([255] * 3 + [0] * 3 if white_first else [0] * 3 + [255] * 3)
    data = saved(image, "GIF", optimize=False)
    with Image.open(io.BytesIO(data)) as stored:
        assert stored.mode == "P"
    for classes in (classes_from_values({0, 255}), classes_from_values({0, 1})):
        assert np.array_equal(read_mask(data, classes), bits)


def test_black_and_white_palette_is_read_by_colour_where_white_comes_first() -> None:
    bits = (scene() > 0).astype(np.uint8)
    colors = {0: (0, 0, 0), 1: (255, 255, 255)}
    mask = decode_mask(palette_png(bits, colors, [1, 0]), None, DEFAULT_READING)
    assert mask.bilevel and np.array_equal(mask.values, bits)
    usual = decode_mask(palette_png(bits, colors, [0, 1]), None, DEFAULT_READING)
    assert not usual.bilevel and np.array_equal(usual.values, bits)


def test_gif_of_grey_values_is_read_by_colour() -> None:
    values = scene() * np.uint8(100)
    assert np.array_equal(decoded(saved(Image.fromarray(values), "GIF")), values)


# --- greys -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 4])
def test_small_samples_are_read_as_they_are_stored(bits: int) -> None:
    ids = scene()
    ids[0] = 2**bits - 1
    data = grey_png(ids, bits)
    with Image.open(io.BytesIO(data)) as image:
        assert np.asarray(image).max() == 255, "Pillow stretches them"
    assert np.array_equal(decoded(data), ids)
    classes = classes_from_values({0, 1, 2, 2**bits - 1})
    assert np.array_equal(read_mask(data, classes), classes.encode(ids))


def test_samples_stretched_by_the_writer_are_read_by_their_significant_bits() -> None:
    ids = scene()
    assert np.array_equal(decoded(grey_png(ids * np.uint8(85), 8, significant=2)), ids)
    assert np.array_equal(decoded(grey_png(ids * np.uint8(100), 8, significant=2)), ids * 100), "not stretched"


def test_classes_with_stretched_values_of_older_versions_keep_their_meaning() -> None:
    classes = build_classes([(value, str(value), None, False) for value in (0, 85, 170)])
    ids = scene()
    assert np.array_equal(read_mask(grey_png(ids, 2), classes), ids)


def test_grey_map_with_a_small_maximum_is_read_as_it_is_stored() -> None:
    ids = scene()
    assert np.array_equal(decoded(b"P5 32 24 3\n" + ids.tobytes()), ids)


def test_grey_masks_are_read_by_grey_class_colours_if_the_grey_is_no_id() -> None:
    classes = build_classes([(0, "sky", (0, 0, 0), False), (1, "road", (255, 255, 255), False)])
    bits = (scene() > 0).astype(np.uint8)
    assert np.array_equal(read_mask(saved(Image.fromarray(bits * np.uint8(255))), classes), bits)
    assert np.array_equal(read_mask(saved(Image.fromarray(bits)), classes), bits)
    flipped = build_classes([(0, "paper", (255, 255, 255), False), (1, "ink", (0, 0, 0), False)])
    assert np.array_equal(read_mask(saved(Image.fromarray(bits > 0)), flipped), 1 - bits), "one bit a pixel"


# --- what is refused ---------------------------------------------------------------------------------------


def refusal(image: Image.Image | bytes, kind: str = "PNG", classes: ClassMap | None = None) -> str:
    data = image if isinstance(image, bytes) else saved(image, kind)
    with pytest.raises(UsageError) as caught:
        read_mask(data, classes or UNCOLORED)
    return str(caught.value)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_mask_in_the_alpha_channel_is_named(mode: str) -> None:
    alpha = (scene() > 0).astype(np.uint8) * np.uint8(255)
    image = Image.merge(mode, [*[Image.new("L", (32, 24))] * (len(mode) - 1), Image.fromarray(alpha)])
    assert "alpha channel: 0, 255 (save that channel" in refusal(image)


def photo(channels: int) -> npt.NDArray[np.uint8]:
    """Return (24,32,channels) that vary from pixel to pixel."""
    rows, columns = np.mgrid[:24, :32]
    return np.stack([rows * 9 + columns, columns * 7, rows * 5 + columns * 3], 2)[..., :channels].astype(np.uint8)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("erased", [False, True])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("listed", [False, True])
def test_photo_that_was_cut_out_has_its_mask_in_the_alpha_channel(
    mode: str, erased: bool, soft: bool, listed: bool
) -> None:
    """Transparent pixels keep the colours of the photo, or become black; outlines may be soft."""
    alpha = (scene() > 0).astype(np.uint8) * np.uint8(255)
    alpha[6:9][alpha[6:9] > 0] = 90 if soft else 255
    pixels = photo(len(mode) - 1)
    pixels[alpha == 0] *= not erased
    text = refusal(Image.fromarray(np.dstack([pixels, alpha])), classes=LISTED if listed else None)
    assert "as in a photo, and the mask in the alpha channel: 0, " in text and "getchannel('A')" in text


def test_interpolated_color_mask_with_a_transparent_background_is_not_taken_for_a_photo() -> None:
    pixels = np.array([COLORS[value] for value in scene(48, 64).ravel().tolist()], np.uint8).reshape(48, 64, 3)
    alpha = (scene(48, 64) > 0).astype(np.uint8) * np.uint8(255)
    image = Image.fromarray(np.dstack([pixels, alpha])).resize((400, 300), Image.Resampling.BICUBIC)
    for classes in (None, LISTED):
        text = refusal(image, classes=classes)
        assert "photo" not in text and "resized with interpolation" in text


def test_many_listed_greys_with_a_transparent_background_are_ids() -> None:
    ids = np.arange(24 * 32).reshape(24, 32) % 100
    classes = build_classes([(value, f"c{value}", None, False) for value in range(100)])
    image = Image.fromarray(np.dstack([ids, (ids > 0) * 255]).astype(np.uint8))
    assert np.array_equal(read_mask(saved(image), classes), ids)


def test_color_that_is_visible_and_transparent_is_named() -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[0, :, 0] = 230
    pixels[:2, :, 3] = 255
    assert "#000000 both visible and transparent" in refusal(Image.fromarray(pixels))


@pytest.mark.parametrize("channel", [0, 2])
def test_ids_in_one_channel_are_named(channel: int) -> None:
    pixels = np.zeros((24, 32, 3), np.uint8)
    pixels[..., channel] = scene()
    assert f"0, 1, 2 in channel {'RGB'[channel]}, 0 in the others" in refusal(Image.fromarray(pixels))


def test_integers_and_floats_that_are_no_ids_are_explained() -> None:
    instances = scene().astype(np.uint16) * 1000
    assert "values 0 to 2000 (number the classes from 0 to 255" in refusal(Image.fromarray(instances))
    stretched = (scene() > 0).astype(np.uint16) * np.uint16(65535)
    assert "divide them by 257" in refusal(Image.fromarray(stretched))
    probabilities = (scene() > 0).astype(np.float32) * np.float32(0.5)
    assert "float pixels from 0 to 0.5 (convert" in refusal(Image.fromarray(probabilities), "TIFF")


def test_color_mask_that_was_interpolated_is_explained() -> None:
    pixels = np.array([COLORS[value] for value in scene(48, 64).ravel().tolist()], np.uint8).reshape(48, 64, 3)
    small = Image.fromarray(pixels).resize((40, 30), Image.Resampling.BILINEAR)
    assert "resized with interpolation, or saved as JPEG" in refusal(small, classes=LISTED)


def test_inverted_tiff_of_ids_is_refused_and_of_black_and_white_read_as_shown() -> None:
    bits = (scene() > 0).astype(np.uint8) * np.uint8(255)
    inverted = {"tiffinfo": {262: 0}}
    ids, shown = (saved(Image.fromarray(values), "TIFF", **inverted) for values in (scene(), bits))
    with Image.open(io.BytesIO(shown)) as image:
        assert image.tag_v2[262] == 0  # type: ignore[attr-defined]
        seen = np.asarray(image)
    assert "stored inverted (the TIFF says that 0 is white" in refusal(ids)
    assert np.array_equal(decoded(shown), seen)


def bits_tiff(bits: npt.NDArray[np.bool_], **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, bits, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("options", [{}, {"metadata": None}, {"compression": "zlib"}])
def test_boolean_arrays_of_tifffile_are_refused_with_both_readings(options: dict[str, Any]) -> None:
    """It stores True as 1 and says that 0 is white, so that every viewer shows the opposite."""
    bits = scene() > 0
    text = refusal(bits_tiff(bits, **options))
    assert "1 in 16.7% of the pixels as stored, in 83.3% as shown" in text and "minisblack" in text
    classes = classes_from_values({0, 1})
    assert np.array_equal(read_mask(bits_tiff(bits, photometric="minisblack", **options), classes), bits), "the cure"
    shown = Image.open(io.BytesIO(bits_tiff(bits, **options)))
    assert np.array_equal(read_mask(saved(shown), classes), ~bits), "the other cure"


def test_boolean_arrays_of_tifffile_are_read_by_listed_colours() -> None:
    bits = scene() > 0
    classes = build_classes([(0, "background", (255, 255, 255), False), (1, "ink", (0, 0, 0), False)])
    assert np.array_equal(read_mask(bits_tiff(bits), classes), bits)


def test_animations_are_refused() -> None:
    frames = [Image.fromarray(scene(seed=n) * np.uint8(90)) for n in range(2)]
    for kind in ("GIF", "PNG", "WEBP"):
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
        assert "expected a mask of one frame, found an animation" in refusal(data)
        with pytest.raises(InvalidFileError, match=r"an animation \(save each frame as an image\)"):
            decode_raw(data, DEFAULT_READING)
        assert decode_raw(saved(frames[0], kind, save_all=True), DEFAULT_READING).pixels.shape == (24, 32, 3)


def test_truncated_animations_are_refused() -> None:
    frames = [Image.fromarray(scene(seed=n) * np.uint8(90)) for n in range(3)]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    for size in range(1, len(data)):
        with contextlib.suppress(InvalidFileError):  # any other error ends the data check
            decode_raw(data[:size], DEFAULT_READING)
        with contextlib.suppress(InvalidFileError):
            decode_mask(data[:size], None, DEFAULT_READING)


@pytest.mark.filterwarnings("error")
def test_complex_masks_are_refused() -> None:
    assert "found complex numbers (complex64) (save class ids as integers)" in refusal(
        tiff(scene().astype(np.complex64))
    )


def tiff(pixels: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack")
    return buffer.getvalue()


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.uint32, np.int64])
def test_label_images_of_any_integers_are_read(dtype: type[np.integer[Any]]) -> None:
    """As scikit-image and Fiji write them; Pillow opens neither 64 bits nor signed 8 bits."""
    assert np.array_equal(decoded(tiff(scene().astype(dtype))), scene())
    assert "values -1 to 2" in refusal(tiff(scene().astype(np.int64) - (np.arange(32) == 0)))


def test_tiff_masks_of_several_bands_are_colours_or_explained() -> None:
    rgb = np.array([COLORS[value] for value in scene().ravel().tolist()], np.uint8).reshape(24, 32, 3)
    opaque = np.full((24, 32, 1), 255, np.uint8)
    assert np.array_equal(decoded(tiff(np.concatenate([rgb, opaque], 2)), LISTED), scene())
    alpha = opaque * (scene()[..., None] > 0)
    assert "alpha channel" in refusal(tiff(np.concatenate([np.zeros_like(rgb), alpha], 2)))
    assert "several channels of 16 bits" in refusal(tiff(rgb.astype(np.uint16)))
    assert "float pixels from 0 to 2" in refusal(tiff(scene().astype(np.float64)))


def test_color_mask_whose_colors_are_not_listed_shows_how_to_list_them() -> None:
    pixels = np.array([COLORS[value] for value in scene().ravel().tolist()], np.uint8).reshape(24, 32, 3)
    text = refusal(Image.fromarray(pixels))
    assert "#3cb44b" in text and '{"id": 1, "name": "...", "color": [' in text


def test_lossy_files_are_recognized_by_their_content() -> None:
    image = Image.fromarray(scene())
    kinds = [("JPEG", {}), ("WEBP", {"lossless": False}), ("WEBP", {"lossless": True}), ("PNG", {})]
    found = [decode_mask(saved(image, kind, **options), None, DEFAULT_READING).lossy for kind, options in kinds]
    assert found == [True, True, False, False]
