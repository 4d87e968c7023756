"""JPEGs whose end is missing, which browsers show: named with the option, accepted by it, and recorded."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

import infer
from core.errors import UsageError
from dataset.classes import InvalidFileError, UInt8
from dataset.decoding.image import decode_image, read_image
from dataset.decoding.mask import decode_mask
from dataset.decoding.options import DEFAULT_READING, ReadOptions
from dataset.validation import check_data
from inference import batch_job, inputs
from segmentation.predictor import Predictor
from segmentation.pyfunc import Segmenter
from tests.support.data_directories import only_fault, put_mask
from tests.support.models import CPU, lineage, make_model

ACCEPTED = ReadOptions(allow_truncated=True)
PIXELS = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)


def jpeg(pixels: UInt8 = PIXELS, lost: int = 20, **options: bool) -> bytes:
    """Return a JPEG without its last `lost` bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()[: len(buffer.getvalue()) - lost]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(12):
        path = tmp_path / f"images/p{number:02}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(jpeg(np.roll(PIXELS, number * 7, 1), 20 if number == 3 else 0))
        put_mask(tmp_path / f"masks/p{number:02}.png", size=(64, 80))
    return tmp_path


def test_truncated_jpeg_is_a_fault_that_names_the_option(root: Path) -> None:
    file, expected, found = only_fault(root)
    assert (file, expected) == ("images/p03.jpg", "a complete JPEG")
    assert found.startswith("a truncated one") and "--allow-truncated" in found


def test_accepted_images_are_named_and_the_model_stores_it(root: Path) -> None:
    data = check_data(root, 0, reading=ACCEPTED)
    assert data.reading == ACCEPTED
    (warning,) = (warning for warning in data.warnings if warning.kind == "truncated-images")
    assert "1 truncated" in warning.text and "images/p03.jpg" in warning.text
    (root / "images/p03.jpg").write_bytes(jpeg(np.roll(PIXELS, 21, 1), 0))
    assert check_data(root, 0, reading=ACCEPTED).reading == DEFAULT_READING, "where none is, models refuse them"


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("lost", [1, 20, 4000])
def test_pixels_before_the_end_are_those_of_the_complete_file(progressive: bool, lost: int) -> None:
    image = decode_image(jpeg(lost=lost, progressive=progressive), ACCEPTED)
    assert image.shape == PIXELS.shape
    if not progressive:
        assert np.array_equal(image[:16], decode_image(jpeg(lost=0), DEFAULT_READING)[:16])


def test_the_option_changes_nothing_else() -> None:
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    decode_image(jpeg(), ACCEPTED)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    for data in (jpeg()[:30], b"\xff\xd8 no image", b"\xff\xd8"):
        with pytest.raises(InvalidFileError, match="expected a complete image, found unreadable"):
            decode_image(data, ACCEPTED)
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG")
    with pytest.raises(InvalidFileError, match="expected a complete image"):
        decode_image(buffer.getvalue()[:-500], ACCEPTED)
    with pytest.raises(InvalidFileError, match="found unreadable"):  # grey would be a class
        decode_mask(jpeg(), None, ACCEPTED)


def test_prediction_refuses_or_reports_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "in/a.jpg"
    path.parent.mkdir()
    path.write_bytes(jpeg())
    items, model = inputs.collect_items([path]), make_model()
    outcome = batch_job.predict(Predictor(model, CPU), items, tmp_path / "refused", lineage(), None)
    assert outcome.written == 0 and "--allow-truncated" in outcome.failed[0] and "a.jpg" in outcome.failed[0]
    accepting = dataclasses.replace(model, reading=ACCEPTED)
    outcome = batch_job.predict(Predictor(accepting, CPU), items, tmp_path / "accepted", lineage(), None)
    assert outcome.written == 1
    listing = json.loads((tmp_path / "accepted/predictions.json").read_text(encoding="utf-8"))
    assert listing["images"][0]["truncated"] is True


def test_infer_has_the_option_where_images_are_read() -> None:
    assert infer.parse(["--allow-truncated"]).allow_truncated is True
    for mode in (["--export", "onnx"], ["--camera", "0"]):
        with pytest.raises(UsageError, match="--allow-truncated cannot be used with"):
            infer.parse([*mode, "--allow-truncated"])


def test_errors_of_single_images_name_file_and_option(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    with pytest.raises(UsageError, match=r"a\.jpg: expected a complete JPEG, found a truncated one.*--allow-truncated"):
        read_image(tmp_path / "a.jpg", DEFAULT_READING)


@pytest.mark.parametrize("reading", [DEFAULT_READING, ACCEPTED])
def test_the_pyfunc_model_refuses_a_truncated_image_and_names_its_row(reading: ReadOptions) -> None:
    """Its answer has no place that could say that a part of the image is missing."""
    model = Segmenter(dataclasses.replace(make_model(), reading=reading), CPU)
    images = [base64.b64encode(data).decode() for data in (jpeg(lost=0), jpeg())]
    assert len(model.predict({"image": images[:1]})) == 1
    with pytest.raises(
        UsageError, match=r"^row 1 of the column 'image': expected a complete JPEG, found a truncated one"
    ) as caught:
        model.predict({"image": images})
    assert "--allow-truncated" not in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=r"^row 1 of the column 'image': expected an image in base64"):
        model.predict({"image": [images[0], "photo.jpg"]})
