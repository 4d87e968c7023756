"""Measure how far predictions can be trusted: calibration, uncertainty, and images unlike those of the training.

    python benchmarks/calibration.py FOLDER [--seconds 150] [--sample-seconds 40] [--seed 0]   # CamVid: train, val

For CamVid at 180x240, with all images divided into train, val and test by films, and for the sample data: a model is
trained, its temperature is fitted on val, and the test split is measured. Both then predict the images of the other one,
and their own after changes. At most 8 minutes on two cores.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
from PIL import Image

from core.console import format_table
from core.hashing import file_sha256
from core.i18n import set_language

BATCH = 8
Change = Callable[[Any], Any]


def camvid(folder: Path, target: Path) -> Path:
    """Copy all images of CamVid into one directory, so that the project divides them by films."""
    for kind in ("images", "masks"):
        (target / kind).mkdir(parents=True)
        for split in ("train", "val"):
            for path in sorted((folder / split / kind).iterdir()):
                shutil.copyfile(path, target / kind / path.name)
    shutil.copyfile(folder / "classes.json", target / "classes.json")
    return target


def changes(random: np.random.Generator) -> dict[str, Change]:
    """Return changes of an image (H,W,3) uint8 that a user would want to hear of."""

    def blurred(image: Any) -> Any:
        small = Image.fromarray(image).resize((image.shape[1] // 12, image.shape[0] // 12))
        return np.asarray(small.resize((image.shape[1], image.shape[0]), Image.Resampling.BILINEAR))

    return {
        "unchanged": lambda image: image,
        "inverted": lambda image: 255 - image,
        "uniform noise": lambda image: random.integers(0, 256, image.shape, dtype=np.uint8),
        "noise, sigma 25": lambda image: np.clip(image + random.normal(0, 25, image.shape), 0, 255).astype(np.uint8),
        "grey": lambda image: np.repeat(np.asarray(Image.fromarray(image).convert("L"))[..., None], 3, 2),
        "red and blue exchanged": lambda image: np.ascontiguousarray(image[..., ::-1]),
        "a quarter as bright": lambda image: image // 4,
        "blurred": blurred,
        "upside down": lambda image: np.ascontiguousarray(image[::-1]),
    }


def train(root: Path, folder: Path, size: tuple[int, int], seconds: float, seed: int) -> Any:
    """Return a finished training."""
    import config
    from dataset.validation import check_data
    from train.model_train import ModelTrain
    from train.setup import prepare_training

    settings = config.load_settings(
        model_path=folder / "model.pth",
        lakefs_local_dir=folder / "lakefs",
        max_seconds=seconds,
        image_size=size,
        seed=seed,
        device="cpu",
    )
    training = ModelTrain(prepare_training(settings, check_data(root, seed)), folder / "run")
    training.fit()
    return training


def predict(model: Any, images: list[Any], method: Any) -> list[Any]:
    """Return the predictions of images (H,W,3) uint8."""
    import torch

    from segmentation.predictor import Predictor

    predictor = Predictor(model, torch.device("cpu"), method)
    prepared = [predictor.prepare(image, "") for image in images]
    return [found for at in range(0, len(prepared), BATCH) for found in predictor.predict(prepared[at : at + BATCH])]


def auroc(model: Any, pairs: Any, images: list[Any]) -> float:
    """Return how well the entropy ranks the wrong pixels of labelled images."""
    from dataset.decoding.mask import read_mask
    from segmentation.predictor import Method
    from segmentation.reliability.uncertainty import ErrorRanking

    ranking = ErrorRanking()
    for pair, found in zip(pairs, predict(model, images, Method(uncertainty_map=True)), strict=True):
        ranking.update(found.levels, found.indices, read_mask(pair.mask, model.classes, model.reading))
    return float(ranking.auroc or "nan")


def cost(model: Any, images: list[Any]) -> list[Any]:
    """Return CPU milliseconds per image without and with confidence and comparison, and the median of their ratios."""
    from unittest import mock

    from segmentation import predictor
    from segmentation.predictor import Method

    def cpu(compare: bool) -> float:
        start = time.process_time()
        predict(model, images, Method(compare=compare))
        return (time.process_time() - start) / len(images) * 1000

    rounds = []
    for _ in range(7):
        with mock.patch.object(predictor, "image_confidence", lambda *_: 1.0):
            plain = cpu(False)
        rounds.append((plain, cpu(True)))
    before, after = (statistics.median(column) for column in zip(*rounds, strict=True))
    return [f"{before:.2f}", f"{after:.2f}", f"{statistics.median(b / a for a, b in rounds):.3f}"]


def main() -> None:
    """Train both models, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--sample-seconds", type=float, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    set_language("en")
    from dataset.decoding.image import read_image
    from dataset.sources.synthetic import generate_sample
    from segmentation.model_file import load_model
    from segmentation.predictor import Method

    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        roots = {"CamVid": camvid(options.folder, temporary / "camvid"), "sample data": temporary / "sample"}
        generate_sample(roots["sample data"], seed=options.seed, count=400)
        plans = {"CamVid": ((180, 240), options.seconds), "sample data": ((128, 128), options.sample_seconds)}
        reliability, detected, times = [], [], []
        images: dict[str, list[Any]] = {}
        models: dict[str, Any] = {}
        for kind, root in roots.items():
            size, seconds = plans[kind]
            training = train(root, temporary / f"{kind} run", size, seconds, options.seed)
            file = training.best_file
            models[kind] = model = load_model(file, file_sha256(file), training.device)
            pairs = training.setup.data.split("test")
            images[kind] = [read_image(pair.image, model.reading) for pair in pairs]
            metrics, test = training.calibration.metrics(), training.test
            figures = [metrics[f"{split}_ece{end}"] for split in ("val", "test") for end in ("_uncalibrated", "")]
            area = auroc(model, pairs, images[kind])
            row = [kind, len(training.history), f"{test.miou:.4f}", f"{test.accuracy:.4f}", metrics["temperature"]]
            reliability.append([*row, *(f"{value:.4f}" for value in figures), f"{area:.4f}"])
            times.append([kind, *cost(model, images[kind][:40])])
            assert model.inputs is not None  # there are enough images
            threshold = f"threshold {model.inputs.threshold:.2f}"
            detected.append([kind, "val, unchanged", f"{training.calibration.val_drift:.3f}", threshold])
        for kind, model in models.items():
            other = next(name for name in models if name != kind)
            chosen = images[kind][:40]
            random = np.random.default_rng(options.seed)
            tried = {**{what: list(map(change, chosen)) for what, change in changes(random).items()}}
            for what, seen in {**tried, f"images of the {other}": images[other][:40]}.items():
                found = [one.drift for one in predict(model, seen, Method(compare=True))]
                rate = sum(drift.flagged for drift in found) / len(found)
                reasons = sorted({reason for drift in found for reason in drift.reasons})
                detected.append([kind, f"test, {what}", f"{rate:.3f}", ", ".join(reasons)])
    head = ["data", "epochs", "test mIoU", "test accuracy", "temperature", "val ECE before", "after"]
    print(format_table([*head, "test ECE before", "after", "AUROC of wrong test pixels"], reliability))
    print(format_table(["data", "images", "flagged", "reasons"], detected))
    print(format_table(["data", "CPU ms/image without", "with confidence and comparison", "ratio"], times))


if __name__ == "__main__":
    main()
