"""Every page of the project with a little content, written by the code that users run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

import config
from core.git import GitFacts
from core.i18n import current_language
from dataset.classes import ClassMap, build_classes
from dataset.decoding.image import read_image
from dataset.decoding.mask import read_mask
from dataset.decoding.options import DEFAULT_READING
from dataset.faults import DataWarning
from dataset.samples import Item
from inference import batch_job
from registry.comparison import page as comparison
from segmentation import evaluation
from segmentation.metrics import ConfusionMatrix
from segmentation.predictor import Predictor
from tests.support.data_directories import make_flat, write_classes
from tests.support.images import draw
from tests.support.models import CPU, lineage, make_model
from train import data_check
from train.audit import report as audit
from train.audit.ranking import Suspicion
from train.base_train import EpochResult, Validation
from train.reports.html import write_report
from train.reports.samples import sample_gallery
from train.tracking.result import Result, RunSummary
from train.tracking.used_settings import UsedSetting
from utils.lakefs_utils import LakePath
from versioning.provenance.verdict import SliceGain

NAMES = ("sky", "road", "building", "pedestrian", "bicyclist", "pavement", "vegetation", "vehicle")
PAGES = ("report", "gallery", "compare", "check", "audit")


def write_pages(folder: Path) -> dict[str, Path]:
    """Write all pages below `folder` in the current language; return their paths by name."""
    items = labelled_items(folder / "data", 4)
    return {
        "report": _report(folder / "report.html", items),
        "gallery": _gallery(folder / "predictions", items),
        "compare": _comparison(folder / "compare.html", items),
        "check": _check(folder / "check"),
        "audit": _audit(folder / "audit.html", items),
    }


def labelled_items(folder: Path, count: int) -> list[Item]:
    """Write images with masks of sky, road and ignored pixels; the last mask has no road."""
    random, items = np.random.default_rng(1), []
    (folder / "masks").mkdir(parents=True)
    for number, item in enumerate(draw(folder / "images", count)):
        with Image.open(item.image) as image:
            shape = image.height, image.width
        values = random.choice(np.array([0, 7, 9] if number < count - 1 else [0, 9], np.uint8), shape)
        Image.fromarray(values).save(folder / "masks" / f"{item.name}.png")
        items.append(Item(item.name, item.image, folder / "masks" / f"{item.name}.png"))
    return items


def _arrays(item: Item, classes: ClassMap) -> tuple[Any, Any, Any]:
    """Return image and label as a training decodes them."""
    assert item.mask is not None
    mask = read_mask(item.mask, classes, DEFAULT_READING)
    return read_image(item.image, DEFAULT_READING), mask, mask


def _images(items: list[Item], classes: ClassMap) -> Any:
    pairs = [SimpleNamespace(name=item.name, split="val", mask=item.mask) for item in items]
    return SimpleNamespace(
        arrays=lambda index: _arrays(items[index], classes),
        pairs=pairs,
        split=SimpleNamespace(classes=classes),
    )


def run_summary() -> RunSummary:
    """Return the summary of a run with eight classes, one of them absent."""
    classes = build_classes([(value, name, None, False) for value, name in enumerate(NAMES)])
    confusion = ConfusionMatrix(len(NAMES))
    confusion.counts += np.random.default_rng(2).integers(0, 900, confusion.counts.shape)
    confusion.counts[-1] = 0
    iou = dict(zip(NAMES, confusion.iou(), strict=True))
    history = []
    for epoch in range(12):
        measured = Validation(1.5 / (epoch + 1), 0.4 + epoch / 30, 0.2 + epoch / 40, iou)
        history.append(EpochResult(epoch, 2.0 / (epoch + 1), measured, 1.0, 1.0, 0.1, True))
    best = history[-1].val
    data = LakePath("repo", "a" * 64, "data/")
    return RunSummary(
        result=Result("f" * 32, data, "m", LakePath("repo", "b" * 64, "models/model.pth"), "c" * 64, best, best),
        settings=(
            UsedSetting("model", "compact_fpn", True),
            *(UsedSetting(f"setting_{n}", "None", n < 2) for n in range(8)),
        ),
        git=GitFacts("d" * 40, "", "main", "false", ""),
        run_page=None,
        lakefs_page="",
        history=tuple(history),
        best=history[-1],
        classes=classes,
        pixel_counts={split: tuple(range(1, 9)) for split in ("train", "val", "test")},
        image_counts={"train": 8, "val": 4, "test": 4},
        confusion=confusion,
        warnings=(DataWarning("small-split", "!"),),
    )


def _report(path: Path, items: list[Item]) -> Path:
    model = make_model()
    write_report(path, run_summary(), sample_gallery(model, _images(items, model.classes), range(len(items))))
    return path


def _gallery(folder: Path, items: list[Item]) -> Path:
    batch_job.predict(Predictor(make_model(), CPU), items, folder, lineage(), "val")
    return folder / "index.html"


def _comparison(path: Path, items: list[Item]) -> Path:
    sides = []
    for name, seed in (("unet v1", 0), ("unet v2", 1)):
        model = make_model(seed=seed)
        measured = evaluation.measure(model, items, model.classes, CPU)
        sides.append(comparison.Side(name, model, measured, [("MLflow", "f" * 32)]))
    slices = [
        SliceGain("brightness", "0-40", 6, 6, 0.5, -0.1, (-0.2, -0.05)),
        SliceGain("directory", "cam1", 2, 2, 0.4, 0.1, None),
    ]
    found = comparison.Comparison(sides[0], sides[1], items, "data", "", 0.95, "miou", slices)
    comparison.write_page(path, found, CPU)
    return path


def _check(folder: Path) -> Path:
    folder.mkdir()
    make_flat(folder)
    write_classes(folder, [{"id": 0, "name": "sky"}, {"id": 1, "name": "road"}])
    settings = config.load_settings(data_dir=folder, app_lang=current_language())
    data_check.check(settings, None, as_json=False)
    return folder / "check.html"


def _audit(path: Path, items: list[Item]) -> Path:
    classes = make_model().classes
    images = _images(items, classes)
    data: Any = SimpleNamespace(pairs=images.pairs, root=path.parent, classes=classes)
    shapes = [images.arrays(index)[1].shape for index in range(len(items))]
    guesses = [np.random.default_rng(3).random((2, *shape)).astype(np.float16) for shape in shapes]
    predicted: Any = SimpleNamespace(images=images, probabilities=guesses)
    audit.write_page(path, data, predicted, [Suspicion(index, 0.5, "", 0.25) for index in range(len(items))])
    return path
