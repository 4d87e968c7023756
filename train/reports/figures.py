"""Figures of a run: curves, confusion matrix, overlays of labels and predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from core.pages.cards import Gallery
from dataset.classes import ClassMap, UInt8
from dataset.overlay import KOREAN_FONTS, as_rgb, overlay, reduced
from segmentation.means import Coverage, english_mean
from segmentation.metrics import ConfusionMatrix
from segmentation.preprocess import class_indices, native_logits
from train.base_train import EpochResult
from train.reports.history import CLASSES_TABLE, HISTORY_FILE, write_classes, write_history
from train.reports.samples import sample_gallery

SAMPLES = 6  # validation images that the report shows, of each kind
SHEET_WIDTH, SHEET_SIDE = 900, 16_384  # pixels: narrower sheets are enlarged, longer ones reduced

if TYPE_CHECKING:
    from segmentation.model import Model
    from train.loading.loader import SegmentationDataset
    from train.model_train import ModelTrain


def draw_all(folder: Path, training: ModelTrain) -> Gallery:
    """Write curves, confusion matrix, sample overlays, worst predictions (PNG) and tables (CSV) of a finished training.

    Return the samples and the worst predictions as the report shows them.
    """
    from core.hashing import file_sha256
    from segmentation.model_file import load_model

    classes, images = training.setup.data.classes, training.setup.val_images
    save_curves(folder / "curves.png", training.history)
    write_history(folder / HISTORY_FILE, training.history)
    if training.best_confusion is not None:
        save_confusion(folder / "confusion.png", training.best_confusion, classes)
        write_classes(folder / CLASSES_TABLE, training.best_confusion, classes)
    model = load_model(training.best_file, file_sha256(training.best_file), training.device)
    worst = [index for index, _ in worst_indices(training.best_scores)]
    spread = sample_indices(images)
    for name, indices in (("overlays.png", spread), ("worst.png", worst)):
        save_samples(folder / name, images, indices, predictions(model, images, indices))
    return sample_gallery(model, images, sorted({*spread, *worst}))


def worst_indices(scores: torch.Tensor | None) -> list[tuple[int, float]]:
    """Return (index, mIoU) of the images that the best model predicts worst, worst first; NaN scores were not measured."""
    if scores is None:
        return []
    measured = int(scores.isfinite().sum())
    values, indices = scores.nan_to_num(2.0).sort(stable=True)
    return list(zip(indices.tolist(), values.tolist(), strict=True))[: min(SAMPLES, measured)]


def sample_indices(images: SegmentationDataset) -> list[int]:
    """Return the indices of a few images, spread evenly over the split; the same at each epoch."""
    return spread_indices(len(images))


def spread_indices(count: int) -> list[int]:
    """Return a few of so many indices, spread evenly."""
    indices: list[int] = np.linspace(0, count - 1, min(SAMPLES, count)).round().astype(int).tolist()
    return indices


def _pyplot() -> Any:
    """Return matplotlib.pyplot without a display, with a Korean font if one is installed; imported only when needed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import font_manager, pyplot

    installed = {font.name for font in font_manager.fontManager.ttflist}
    matplotlib.rcParams["font.family"] = ["DejaVu Sans", *(name for name in KOREAN_FONTS if name in installed)]
    return pyplot


def save_curves(path: Path, history: list[EpochResult]) -> None:
    """Plot the losses on the left, validation accuracy and mIoU on the right, with the saved epoch marked."""
    plt = _pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    epochs = [result.number for result in history]
    left.plot(epochs, [result.train_loss for result in history], marker="o", markersize=3, label="train loss")
    measured = [result for result in history if result.validation is not None]
    at = [result.number for result in measured]
    left.plot(at, [result.val.loss for result in measured], marker="o", markersize=3, label="val loss")
    left.set(title="Class-weighted loss", xlabel="epoch", ylim=(0, None))
    right.plot(at, [result.val.accuracy for result in measured], marker="o", markersize=3, label="val accuracy")
    right.plot(at, [result.val.miou for result in measured], marker="o", markersize=3, label="val mIoU")
    best = max(measured, key=lambda result: result.val.miou)
    right.axvline(
        best.number,
        color="grey",
        linestyle=":",
        label=f"saved: mIoU {english_mean(best.val.miou, best.val.coverage)}",
    )
    right.set(title="Validation split, native size", xlabel="epoch", ylim=(0, 1))
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def save_confusion(
    path: Path, confusion: ConfusionMatrix, classes: ClassMap, measured_on: str = "Validation split"
) -> None:
    """Plot the confusion matrix; each row is a label and sums to 100 % of its pixels, an absent class has an empty row."""
    plt = _pyplot()
    counts = confusion.counts
    rows = counts.sum(1, keepdims=True)
    fraction = np.divide(counts, rows, out=np.full(counts.shape, np.nan), where=rows > 0)
    side = max(5.0, 0.55 * len(counts) + 2)
    figure, axes = plt.subplots(figsize=(side + 1, side), layout="constrained")
    drawn = axes.imshow(fraction * 100, vmin=0, vmax=100, cmap="Blues")
    for row, column in zip(*np.nonzero(fraction >= 0.005), strict=True):
        shade = "white" if fraction[row, column] > 0.5 else "black"
        axes.text(column, row, f"{fraction[row, column] * 100:.0f}", ha="center", va="center", color=shade, fontsize=8)
    axes.set_xticks(range(len(counts)), classes.names, rotation=60, ha="right")
    axes.set_yticks(range(len(counts)), classes.names)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_parse_math(False)  # a name may contain $
    axes.set(
        xlabel="predicted",
        ylabel="label",
        title=f"{measured_on}: mIoU {english_mean(confusion.miou, Coverage.of(confusion.iou()))}, "
        "% of each label's pixels",
    )
    figure.colorbar(drawn, shrink=0.8, format="%d %%")
    figure.savefig(path, dpi=110)
    plt.close(figure)


@torch.inference_mode()
def predictions(model: Model, images: SegmentationDataset, indices: Sequence[int]) -> list[UInt8]:
    """Return class indices (H,W) uint8 at working size for each of these images."""
    predicted, device = [], next(model.network.parameters()).device
    for index in indices:
        batch = torch.from_numpy(images.arrays(index)[0].copy()).permute(2, 0, 1)[None]
        (logits,) = native_logits(model.network, batch, [model.input_size], model.normalisation, device)
        predicted.append(class_indices(logits).to(torch.uint8).cpu().numpy())
    return predicted


def save_samples(
    path: Path,
    images: SegmentationDataset,
    indices: Sequence[int],
    predicted: Sequence[UInt8],
    image_format: str | None = None,
) -> None:
    """Save a sheet with a row per image: the image, its label, the prediction; by default in the format of the suffix."""
    save_rows(path, [(images, *row) for row in zip(indices, predicted, strict=True)], image_format)


def save_rows(
    path: Path, samples: Sequence[tuple[SegmentationDataset, int, UInt8]], image_format: str | None = None
) -> None:
    """Save a sheet as `save_samples` does, of images of several data sets: (images, index, prediction (H,W)).

    A sheet that would be longer than SHEET_SIDE is reduced: JPEG ends at 65,500 pixels, and viewers before.
    """
    sides = [prediction.shape for _, _, prediction in samples]
    scale = SHEET_SIDE / max(sum(height for height, _ in sides), 3 * max(width for _, width in sides))
    rows = []
    for images, index, prediction in samples:
        image, label, _ = images.arrays(index)
        classes = images.split.classes
        panels = [as_rgb(image), overlay(image, label, classes), overlay(image, prediction, classes)]
        rows.append(reduced(np.concatenate(panels, axis=1), scale))
    sheet = Image.fromarray(np.concatenate(rows))
    times = max(1, min(round(SHEET_WIDTH / sheet.width), int(scale)))  # small images are enlarged without interpolation
    sheet.resize((sheet.width * times, sheet.height * times), Image.Resampling.NEAREST).save(path, image_format)
