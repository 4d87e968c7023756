"""Class maps, how images and masks of every kind are read, and the generated sample set."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.errors import UsageError
from dataset.classes import IGNORE_INDEX, ClassMap, UInt8, build_classes, classes_from_values
from dataset.decoding import image as image_reading
from dataset.decoding import mask as mask_reading
from dataset.decoding.options import DEFAULT_READING
from dataset.directory import SAMPLE_STAGING, data_files, is_empty
from dataset.sources import synthetic
from dataset.sources.synthetic import draw_pair, generate_sample
from dataset.validation import check_data

ROOT = Path(__file__).resolve().parents[3]
ROAD = build_classes([(0, "sky", (10, 20, 30), False), (7, "road", (200, 0, 0), False), (9, "off", (0, 0, 0), True)])


def read_image(source: Path | bytes) -> UInt8:
    return image_reading.read_image(source, DEFAULT_READING)


def read_mask(source: Path | bytes, classes: ClassMap) -> UInt8:
    return mask_reading.read_mask(source, classes, DEFAULT_READING)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def grey(values: list[list[int]], dtype: npt.DTypeLike = np.uint8) -> Image.Image:
    return Image.fromarray(np.array(values, dtype))


# --- class maps --------------------------------------------------------------------------------------------


@st.composite
def class_maps(draw: st.DrawFn) -> ClassMap:
    ids = draw(st.lists(st.integers(0, 255), min_size=1, max_size=30, unique=True))
    ignored = draw(st.integers(0, len(ids) - 1))
    return build_classes((value, f"c{value}", None, place < ignored) for place, value in enumerate(ids))


@given(classes=class_maps(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_encode_and_decode_are_a_round_trip(classes: ClassMap, data: st.DataObject) -> None:
    learnt = data.draw(st.lists(st.sampled_from(classes.ids), min_size=6, max_size=6))
    values = np.array(learnt, np.uint8).reshape(2, 3)
    indices = classes.encode(values)
    assert indices.dtype == np.uint8 and indices.max() < classes.num_classes
    assert np.array_equal(classes.decode(indices), values)
    for value in classes.ignore_ids:
        assert classes.encode(np.array([[value]], np.uint8)) == IGNORE_INDEX
    assert ClassMap.from_dict(json.loads(json.dumps(classes.to_dict()))) == classes
    assert len(set(classes.colors + classes.ignore_colors)) == len(classes.known)


def test_unknown_values_are_listed() -> None:
    with pytest.raises(ValueError, match="unknown values 3, 255"):
        ROAD.encode(np.array([[0, 3, 255, 7]], np.uint8))
    with pytest.raises(ValueError, match="from 0 to 1"):
        ROAD.decode(np.array([[2]], np.uint8))


def test_ignored_pixels_decode_to_the_ignored_id() -> None:
    ignored = np.array([[IGNORE_INDEX]], np.uint8)
    assert ROAD.decode(ignored) == 9
    assert build_classes([(0, "a", None, False)]).decode(ignored) == 255


def test_palette_is_indexed_by_mask_value() -> None:
    palette = ROAD.palette()
    assert len(palette) == 768
    assert tuple(palette[21:24]) == (200, 0, 0) and tuple(palette[0:3]) == (10, 20, 30)


def test_all_default_colours_differ_and_none_is_grey() -> None:
    classes = build_classes((value, str(value), None, False) for value in range(255))
    assert len(set(classes.colors)) == 255 and classes.colors[0] == (0, 0, 0)
    assert all(len(set(color)) > 1 for color in classes.colors[1:])


def test_class_map_of_a_model_file_is_checked() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        ClassMap.from_dict({**ROAD.to_dict(), "names": ["sky"]})


# --- images ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_image_modes(mode: str) -> None:
    kind = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    image = read_image(saved(Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode), kind))
    assert image.shape == (4, 5, 3) and image.dtype == np.uint8
    assert image.min() >= 254


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "MPO", "BMP", "TIFF", "WEBP", "GIF", "PPM"])
def test_image_formats(kind: str) -> None:
    image = read_image(saved(Image.new("RGB", (5, 4), (200, 100, 50)), kind))
    assert np.abs(image.astype(int) - (200, 100, 50)).max() <= 3


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_turned_into_rgb_and_not_into_its_negative(kind: str) -> None:
    inks = [((0, 0, 0, 0), (255, 255, 255)), ((0, 255, 255, 0), (255, 0, 0)), ((0, 0, 0, 255), (0, 0, 0))]
    for ink, color in inks:
        image = read_image(saved(Image.new("CMYK", (16, 16), ink), kind))
        assert np.abs(image.astype(int) - color).max() <= 4, (ink, color)


def test_sixteen_bit_grey_is_scaled() -> None:
    image = read_image(saved(grey([[0, 257 * 100, 65535]], np.uint16)))
    assert image.tolist() == [[[0] * 3, [100] * 3, [255] * 3]]


@pytest.mark.parametrize("value", [70_000, 200_000, -1])
def test_more_than_sixteen_bits_are_not_clipped_in_silence(value: int) -> None:
    assert read_image(saved(grey([[0, 65535]], np.int32), "TIFF"))[0, 1, 0] == 255
    with pytest.raises(UsageError, match=r"expected an image of 8 or 16 bits, found values -?\d+ to \d+"):
        read_image(saved(grey([[0, value]], np.int32), "TIFF"))


def test_transparent_parts_are_black() -> None:
    pixels = np.array([[[200, 100, 50, 0], [200, 100, 50, 255]]], np.uint8)
    assert read_image(saved(Image.fromarray(pixels))).tolist() == [[[0, 0, 0], [200, 100, 50]]]
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([9, 9, 9])
    assert read_image(saved(palette, transparency=0)).tolist() == [[[0, 0, 0]]]


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert np.array_equal(read_image(saved(Image.fromarray(pixels), exif=exif))[:, :, 0], pixels[::-1, ::-1])


def test_errors_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "그림.png"
    with pytest.raises(UsageError, match=r"그림\.png"):
        read_image(path)
    path.write_bytes(saved(Image.new("RGB", (64, 64)))[:60])
    with pytest.raises(UsageError, match=r"그림\.png: expected a complete image, found unreadable"):
        read_image(path)
    with pytest.raises(UsageError, match=r"image data: expected a readable image, found an empty file"):
        read_image(b"")
    with pytest.raises(UsageError, match="found float pixels"):
        read_image(saved(Image.new("F", (2, 2)), "TIFF"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    path.write_bytes(saved(Image.new("RGB", (64, 64))))
    with pytest.raises(UsageError, match=r"at most 2,000 pixels, found a larger one"):
        read_image(path)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow grumbles over damaged TIFF tags
@given(
    cut=st.integers(0, 400),
    flip=st.integers(0, 399),
    value=st.integers(0, 255),
    kind=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF"]),
)
@settings(max_examples=150, deadline=None)
def test_damaged_files_raise_nothing_else(cut: int, flip: int, value: int, kind: str) -> None:
    data = bytearray(saved(grey(np.arange(256).reshape(16, 16).tolist()), kind))
    data[flip % len(data)] = value
    try:
        assert read_image(bytes(data[: len(data) - cut])).ndim == 3
    except UsageError as error:
        assert "expected" in str(error)


# --- masks -------------------------------------------------------------------------------------------------

WANTED = [[0, 1, IGNORE_INDEX]]


@pytest.mark.parametrize(
    "image",
    [
        grey([[0, 7, 9]]),
        grey([[0, 7, 9]], np.uint16),
        grey([[0, 7, 9]], np.int32),
        grey([[0, 7, 9]]).convert("LA"),
        grey([[0, 7, 9]]).convert("RGB"),
    ],
    ids=["L", "I;16", "I", "LA", "grey RGB"],
)
def test_mask_modes(image: Image.Image) -> None:
    kind = "TIFF" if image.mode == "I" else "PNG"
    mask = read_mask(saved(image, kind), ROAD)
    assert mask.dtype == np.uint8 and mask.tolist() == WANTED


def test_palette_masks_are_read_by_index() -> None:
    image = grey([[0, 7, 9]])
    image.putpalette(bytes(range(256)) * 3)
    assert image.mode == "P" and read_mask(saved(image), ROAD).tolist() == WANTED


@pytest.mark.parametrize("channels", [3, 4])
def test_colour_masks(channels: int) -> None:
    pixels = np.array([[[10, 20, 30, 255], [200, 0, 0, 255], [0, 0, 0, 255]]], np.uint8)[..., :channels]
    assert read_mask(saved(Image.fromarray(np.ascontiguousarray(pixels))), ROAD).tolist() == WANTED


def test_colour_masks_that_do_not_fit() -> None:
    pixels = np.array([[[10, 20, 30], [1, 2, 3]]], np.uint8)
    with pytest.raises(UsageError, match=r"colours of classes\.json, found unknown colours #010203"):
        read_mask(saved(Image.fromarray(pixels)), ROAD)
    doubled = build_classes([(0, "a", (1, 2, 3), False), (1, "b", (1, 2, 3), False)])
    with pytest.raises(UsageError, match=r"a different colour for each class in classes\.json"):
        read_mask(saved(Image.new("RGB", (2, 2), (1, 2, 3))), doubled)


def test_masks_that_are_not_eight_bits() -> None:
    with pytest.raises(UsageError, match=r"an 8-bit mask .*, found values 0 to 300"):
        read_mask(saved(grey([[0, 300]], np.uint16)), ROAD)
    with pytest.raises(UsageError, match="found mode 'CMYK'"):
        read_mask(saved(Image.new("CMYK", (2, 2)), "TIFF"), ROAD)
    with pytest.raises(UsageError, match="unknown values 1, 2"):
        read_mask(saved(grey([[1, 2]])), ROAD)


@pytest.mark.parametrize("high", [1, 255])
def test_one_bit_masks(high: int) -> None:
    image = Image.fromarray(np.array([[True, False]]))
    assert read_mask(saved(image), classes_from_values({0, high})).tolist() == [[1, 0]]


# --- the sample set ----------------------------------------------------------------------------------------


def contents(root: Path) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in data_files(root).items()}


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for folder, seed in (("a", 3), ("b", 3), ("c", 4)):
        generate_sample(tmp_path / folder, seed, 12)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")
    assert not list(tmp_path.glob("a/.*"))


def test_sample_is_good_data(tmp_path: Path) -> None:
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
        (tmp_path / part / ".gitkeep").touch()
    generate_sample(tmp_path, 0, 60)
    before = contents(tmp_path)
    data = check_data(tmp_path, 5)
    assert [len(data.split(split)) for split in ("train", "val", "test")] == [48, 6, 6]
    assert data.classes == synthetic.sample_classes() and data.classes.num_classes == 4
    assert contents(tmp_path) == before, "the check leaves the split of the sample as it is"
    shares = np.array(data.pixel_counts["train"]) / sum(data.pixel_counts["train"])
    assert 0.5 < shares[0] < 0.85 and shares[1:].min() > 0.04
    assert {(pair.height, pair.width) for pair in data.pairs} == {(128, 128)}
    assert not is_empty(tmp_path)


def test_colour_does_not_give_the_class_away() -> None:
    means: list[list[npt.NDArray[np.float64]]] = [[], [], [], []]
    for number in range(60):
        image, mask = draw_pair(0, number)
        for value in np.unique(mask):
            means[value].append(image[mask == value].mean(axis=0))
    centres = np.array([np.mean(rows, axis=0) for rows in means])
    spread = np.mean([np.std(rows, axis=0) for rows in means])
    assert np.abs(centres - centres.mean(axis=0)).max() < spread


def test_interrupted_while_drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(seed: int, number: int) -> object:
        if number == 5:
            raise KeyboardInterrupt
        return draw_pair(seed, number)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(synthetic, "draw_pair", stop)
        generate_sample(tmp_path / "a", 0, 12)
    assert data_files(tmp_path / "a") == {} and is_empty(tmp_path / "a")
    generate_sample(tmp_path / "a", 0, 12)
    generate_sample(tmp_path / "b", 0, 12)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("moves", [0, 3, 14, 26])
def test_interrupted_while_moving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: int) -> None:
    real = os.replace
    done: list[Path] = []

    def stop(source: Path, target: Path) -> None:
        if target.is_relative_to(tmp_path / "a") and SAMPLE_STAGING not in target.parts:
            if len(done) == moves:
                raise KeyboardInterrupt
            done.append(target)
        real(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("os.replace", stop)
        generate_sample(tmp_path / "a", 0, 12)
    assert is_empty(tmp_path / "a"), "the next call has to finish it"
    generate_sample(tmp_path / "a", 0, 12)
    generate_sample(tmp_path / "b", 0, 12)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert not (tmp_path / "a" / SAMPLE_STAGING).exists()


def test_sample_never_mixes_with_other_data(tmp_path: Path) -> None:
    generate_sample(tmp_path, 0, 4)
    with pytest.raises(UsageError, match="holds data already"):
        generate_sample(tmp_path, 0, 4)
    staging = tmp_path / SAMPLE_STAGING
    staging.mkdir()
    (staging / "complete").write_text("images/sample_0000.png")
    with pytest.raises(UsageError, match="not part of the interrupted data"):
        generate_sample(tmp_path, 0, 4)


def test_import_is_light() -> None:
    code = "import sys, dataset.validation, dataset.sources.synthetic; print({'torch', 'mlflow', 'tqdm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
