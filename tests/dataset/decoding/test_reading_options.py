"""The options of reading: EXIF orientation, in the data check, in the model file and in every consumer of a model."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from config import Settings
from core.errors import AppError, UsageError
from core.git import GitFacts
from core.hashing import file_sha256
from dataset.classes import UInt8
from dataset.decoding.header import image_sizes
from dataset.decoding.image import read_image
from dataset.decoding.mask import decode_mask, read_mask
from dataset.decoding.options import DEFAULT_READING, ReadOptions, options_of
from dataset.decoding.orientation import compare_orientations, exif_orientation, reorient, to_stored, to_upright
from dataset.decoding.samples import decode_raw
from dataset.samples import Item
from dataset.validation import check_data
from inference import batch_job
from inference.origin import describe_origin
from inference.server import Service
from segmentation.evaluation import measure
from segmentation.model_file import load_model, save_model
from segmentation.predictor import Predictor, segment
from segmentation.pyfunc import Segmenter
from tests.support.models import CLASSES, CPU, lineage, make_model
from tests.support.rasters import tiff
from train.resume import RunRecord, settings_of
from utils.lakefs_utils import LakePath

RAW = ReadOptions(raw_orientation=True)
ORIENTATION = 0x0112


def encoded(pixels: UInt8, orientation: int, kind: str = "PNG") -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, exif=exif)
    return buffer.getvalue()


def noise(height: int, width: int) -> UInt8:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_turned_as_viewers_turn_them_unless_raw(orientation: int) -> None:
    stored = noise(3, 4)
    data = encoded(stored, orientation)
    with Image.open(io.BytesIO(data)) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(read_image(data, DEFAULT_READING), upright)
    assert np.array_equal(read_image(data, RAW), stored)
    assert exif_orientation(data) == orientation
    assert np.array_equal(to_upright(stored, orientation), upright)
    assert np.array_equal(to_stored(upright, orientation), stored)


TIFF_KINDS = [
    *(("L", compression) for compression in ("raw", "tiff_lzw", "packbits")),
    *(("RGB", compression) for compression in ("raw", "jpeg")),
    *(("RGBA", compression) for compression in ("raw", "tiff_lzw")),  # the latter is decoded by Pillow's libtiff
    *(("I;16", compression) for compression in ("raw", "tiff_lzw")),
    *(("1", "group4"), ("P", "raw"), ("CMYK", "raw"), ("F", "tiff_lzw")),
]


@pytest.mark.parametrize(("mode", "compression"), TIFF_KINDS)
def test_pixels_of_a_tiff_are_turned_once_unless_raw(mode: str, compression: str) -> None:
    smooth = np.arange(0, 240, 5, dtype=np.uint8).reshape(6, 8)
    stored = smooth[..., None].repeat(3, 2)
    image = Image.fromarray(smooth.astype(np.uint16)) if mode == "I;16" else Image.fromarray(stored)
    image = image if image.mode == mode else image.convert(mode)

    def encoded_tiff(orientation: int) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, "TIFF", compression=compression, tiffinfo={ORIENTATION: orientation})
        return buffer.getvalue()

    expected = decode_raw(encoded_tiff(1), DEFAULT_READING).pixels
    for orientation in range(1, 9):
        data = encoded_tiff(orientation)
        upright = to_upright(expected, orientation)
        assert np.array_equal(decode_raw(data, RAW).pixels, expected), orientation
        assert np.array_equal(decode_raw(data, DEFAULT_READING).pixels, upright), orientation
        assert image_sizes(data) == (upright.shape[:2], (6, 8))
        if mode in ("L", "P"):
            mask, whole = (decode_mask(encoded_tiff(tag), None, RAW).values for tag in (orientation, 1))
            assert np.array_equal(mask, whole)


def test_each_page_of_a_tiff_has_its_own_orientation() -> None:
    stored, buffer = noise(6, 8), io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        for orientation in (1, 6):
            file.write(stored, photometric="rgb", extratags=[(ORIENTATION, "H", 1, orientation, True)])
    data, mask = buffer.getvalue(), np.zeros((6, 8), np.uint8)
    for page, orientation in enumerate((1, 6)):
        upright = to_upright(stored, orientation)
        assert exif_orientation(data, page) == orientation
        assert np.array_equal(read_image(data, DEFAULT_READING, page), upright)
        assert np.array_equal(read_image(data, RAW, page), stored)
        assert np.array_equal(reorient(upright, data, DEFAULT_READING, RAW, page), stored)
    facts = compare_orientations(data, to_upright(stored, 6), mask, DEFAULT_READING, 1)
    assert facts is not None and facts.swapped and facts.tag == 6


def test_size_of_a_turned_tiff_that_pillow_does_not_read() -> None:
    bands = np.zeros((6, 8, 5), np.uint16)
    assert image_sizes(tiff(bands, extratags=[(ORIENTATION, "H", 1, 6, True)])) == ((8, 6), (6, 8))


def tag_behind_pixels(data: bytes) -> bytes:
    """Return a PNG whose eXIf chunk, which Pillow writes before the pixels, comes after them."""
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    return data[:start] + data[end:-12] + data[start:end] + data[-12:]


@pytest.mark.parametrize("key", ["Raw profile type exif", "XML:com.adobe.xmp", "eXIf"])
def test_orientation_of_a_png_is_found_wherever_it_is(key: str) -> None:
    stored, buffer, texts = noise(3, 4), io.BytesIO(), PngInfo()
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    if key == "eXIf":
        data = tag_behind_pixels(encoded(stored, 6))
    else:
        raw = f"\nexif\n{len(exif.tobytes())}\n{exif.tobytes().hex()}\n"
        texts.add_text(key, raw if key.startswith("Raw") else '<x tiff:Orientation="6"/>', zip=key.startswith("Raw"))
        Image.fromarray(stored).save(buffer, "PNG", pnginfo=texts)
        data = buffer.getvalue()
    assert exif_orientation(data) == 6
    assert image_sizes(data) == ((4, 3), (3, 4))
    assert read_image(data, DEFAULT_READING).shape == (4, 3, 3)


def test_orientation_of_a_png_without_tags_is_found_without_its_pixels() -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise(300, 400)).save(buffer, "PNG")
    half = buffer.getvalue()[: len(buffer.getvalue()) // 2]
    assert exif_orientation(half) == 1, "decoding it would raise an error"
    assert image_sizes(half) == ((300, 400), (300, 400))


def test_setting_decides_how_a_data_directory_is_read(tmp_path: Path) -> None:
    for name in "abc":
        for part in ("images", "masks"):
            (tmp_path / part).mkdir(exist_ok=True)
        (tmp_path / f"images/{name}.jpg").write_bytes(encoded(noise(8, 12) + np.uint8(ord(name)), 6, "JPEG"))
        Image.fromarray(np.tile(np.array([0, 1], np.uint8), (8, 6))).save(tmp_path / f"masks/{name}.png")
    options = options_of(Settings(raw_orientation=True))
    data = check_data(tmp_path, 0, reading=options)
    assert (data.reading, data.pairs[0].height, data.pairs[0].width) == (RAW, 8, 12)


def test_model_file_keeps_how_its_images_were_read(tmp_path: Path) -> None:
    save_model(tmp_path / "model.pth", dataclasses.replace(make_model(), reading=RAW))
    content = torch.load(tmp_path / "model.pth", weights_only=True)
    assert content["format"] == 2, "code that does not know the options must refuse the file"
    assert load_model(tmp_path / "model.pth", file_sha256(tmp_path / "model.pth"), CPU).reading == RAW


def test_model_files_without_reading_options_get_the_defaults(tmp_path: Path) -> None:
    save_model(tmp_path / "model.pth", make_model())
    content = torch.load(tmp_path / "model.pth", weights_only=True)
    assert content["format"] == 1
    del content["reading"]
    torch.save(content, tmp_path / "old.pth")
    assert load_model(tmp_path / "old.pth", file_sha256(tmp_path / "old.pth"), CPU).reading == DEFAULT_READING


@pytest.mark.parametrize("reading", [{"gamma": 2.2}, {"raw_orientation": "yes"}])
def test_unknown_reading_options_of_a_model_file_are_refused(tmp_path: Path, reading: dict[str, object]) -> None:
    save_model(tmp_path / "model.pth", make_model())
    content = torch.load(tmp_path / "model.pth", weights_only=True) | {"reading": reading}
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(AppError, match="not a model file"):
        load_model(tmp_path / "model.pth", file_sha256(tmp_path / "model.pth"), CPU)


def test_served_model_reads_images_as_it_was_trained() -> None:
    stored = noise(48, 80)
    model = dataclasses.replace(make_model(), reading=RAW)
    table = Segmenter(model, CPU).predict({"image": [encoded(stored, 6)]})
    assert (table["height"][0], table["width"][0]) == (48, 80)


@pytest.mark.parametrize("own, labels", [(DEFAULT_READING, RAW), (RAW, DEFAULT_READING)])
def test_model_is_measured_on_masks_that_lie_the_other_way(
    tmp_path: Path, own: ReadOptions, labels: ReadOptions
) -> None:
    """A champion that reads upright images is compared on data whose masks lie as the pixels are stored."""
    model = dataclasses.replace(make_model(), reading=own)
    data = encoded(noise(48, 80), 6)
    (tmp_path / "a.png").write_bytes(data)
    (prediction,) = segment(model, [read_image(data, own)], CPU)
    turned = to_stored(prediction, 6) if labels.raw_orientation else to_upright(prediction, 6)
    Image.fromarray(CLASSES.decode(turned)).save(tmp_path / "mask.png")
    item = Item("a", tmp_path / "a.png", tmp_path / "mask.png")
    assert measure(model, [item], CLASSES, CPU, labels=labels).metric("accuracy") == 1.0
    assert read_mask(tmp_path / "mask.png", CLASSES, labels).shape == turned.shape


def test_resumed_run_of_older_code_keeps_reading_as_it_did() -> None:
    """Its record does not have the setting: what the environment says now must not change the run."""
    now = Settings(raw_orientation=True)
    recorded = {k: v for k, v in now.reproducible_settings().items() if k != "raw_orientation"}
    data = LakePath(now.lakefs_repo, "1" * 64, "data/")
    code = GitFacts("1" * 40, "main", "", "false")
    record = RunRecord("run", recorded, False, data, now.lakefs_repo, "main", None, code, {}, 1)
    assert settings_of(record, now, {}).raw_orientation is False
    with pytest.raises(UsageError, match="RAW_ORIENTATION: run False, now True"):
        settings_of(record, now, {"raw_orientation": True})


def test_mask_of_another_size_than_its_image_is_named(tmp_path: Path) -> None:
    """As masks of stored pixels are to a model that was trained on upright images."""
    (tmp_path / "a.png").write_bytes(encoded(noise(48, 80), 6))
    Image.fromarray(np.zeros((48, 80), np.uint8)).save(tmp_path / "mask.png")
    item = Item("a", tmp_path / "a.png", tmp_path / "mask.png")
    with pytest.raises(UsageError, match=r"mask\.png: .* 48x80, 80x48 \(RAW_ORIENTATION\?\)"):
        measure(make_model(), [item], CLASSES, CPU)


def test_inference_reads_images_as_the_model_was_trained(tmp_path: Path) -> None:
    """Masks of infer.py and of the server have the size of the stored pixels."""
    stored = encoded(noise(48, 80), 6)
    (tmp_path / "a.png").write_bytes(stored)
    for reading, size in ((RAW, (80, 48)), (DEFAULT_READING, (48, 80))):
        predictor = Predictor(dataclasses.replace(make_model(), reading=reading), CPU)
        out = tmp_path / f"out-{reading.raw_orientation}"
        batch_job.predict(predictor, [Item("a", tmp_path / "a.png")], out, lineage(), None)
        service = Service(predictor, describe_origin(predictor, lineage()), Settings())
        for mask in ((out / "a.png").read_bytes(), service._predict(stored)[0]):
            with Image.open(io.BytesIO(mask)) as image:
                assert image.size == size
