"""Training on images of several bands and more than 8 bits, and prediction by its model file, which stores how to read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import config
from core.errors import UsageError
from core.hashing import file_sha256
from dataset.decoding.image import read_image
from dataset.validation import check_data
from inference import export
from inference.streams import video
from segmentation.model_file import load_model
from segmentation.predictor import InputImage, Method, Predictor, segment
from segmentation.pyfunc import Segmenter
from tests.support.models import CPU
from tests.support.rasters import Pixels, make_raster_data
from train.model_train import ModelTrain
from train.reports import figures
from train.setup import prepare_training

BANDS = 4


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return ten pairs of Sentinel-2-like reflectance: four bands, 0 to about 10000."""
    random = np.random.default_rng(0)

    def draw(number: int) -> Pixels:
        return random.integers(0, 10_000, (32, 40, BANDS), np.uint16)

    return make_raster_data(tmp_path_factory.mktemp("bands"), draw, photometric="rgb", extrasamples=["unassalpha"])


@pytest.fixture(scope="module")
def training(root: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelTrain:
    folder = tmp_path_factory.mktemp("trained")
    settings = config.load_settings(
        epochs=1, device="cpu", model_path=folder / "m.pth", lakefs_local_dir=folder / "lakefs", augmentation="strong"
    )
    trained = ModelTrain(prepare_training(settings, check_data(root, 0)), folder)
    trained.fit()
    return trained


def test_every_band_reaches_the_network_and_the_model_file_reads_alike(training: ModelTrain, root: Path) -> None:
    model = load_model(training.best_file, file_sha256(training.best_file), CPU)
    assert model.reading == training.setup.data.reading and model.reading.channels == BANDS
    assert len(model.normalisation.mean) == BANDS
    low, high = model.reading.value_range
    assert low == pytest.approx(0, abs=10) and high == pytest.approx(10_000, abs=10)
    pair = training.setup.data.split("val")[0]
    image = read_image(pair.image, model.reading)
    assert np.array_equal(training.setup.val_images.arrays(0)[0], image)  # decoded at its own size
    for band in range(BANDS):
        changed = image.copy()
        changed[..., band] = 255 - changed[..., band]
        assert not np.array_equal(logits(training, changed), logits(training, image))
    assert segment(model, [image], CPU)[0].shape == (32, 40)


@torch.inference_mode()
def logits(training: ModelTrain, image: np.ndarray) -> np.ndarray:
    training.network.eval()
    return np.asarray(training.network(torch.from_numpy(image).permute(2, 0, 1)[None].float()))


def test_tiles_export_and_figures_take_the_bands(training: ModelTrain, tmp_path: Path) -> None:
    model = load_model(training.best_file, file_sha256(training.best_file), CPU)
    image = np.random.default_rng(0).integers(0, 256, (300, 280, BANDS), np.uint8)
    whole, tiled = (
        Predictor(model, CPU, Method(tile)).predict([InputImage(image, image, "")])[0].indices for tile in (0, 128)
    )
    assert whole.shape == tiled.shape == (300, 280)
    exported = export._write_and_load(model, "torchscript", tmp_path / "model.pt")
    assert export.largest_difference(model, exported) <= export.MAX_DIFFERENCE
    images = training.setup.val_images
    figures.save_samples(tmp_path / "sheet.png", images, [0], figures.predictions(model, images, [0]))
    assert (tmp_path / "sheet.png").stat().st_size
    with pytest.raises(UsageError, match="expects images of 4 bands: a video has red, green, blue"):
        video.require_rgb_model(Predictor(model, CPU))


def test_mlflow_takes_the_bands_and_names_them(training: ModelTrain, root: Path) -> None:
    model = load_model(training.best_file, file_sha256(training.best_file), CPU)
    segmenter, pair = Segmenter(model, CPU), training.setup.data.split("val")[0]
    image = read_image(pair.image, model.reading)
    found = segmenter.predict({"image": [pair.image.read_bytes()]})
    assert (found["height"][0], found["width"][0]) == (32, 40)
    assert segmenter.predict(image).shape == (32, 40)
    with pytest.raises(UsageError, match=r"expected \(N,H,W,4\) of whole numbers 0 to 255, found \(32, 40, 3\) uint8"):
        segmenter.predict(image[..., :3])
