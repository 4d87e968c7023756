"""Measure a model on images with masks: confusion matrix, per-image figures and speed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from core.errors import UsageError
from core.i18n import tr
from core.reporting import progress
from dataset.classes import ClassMap, UInt8
from dataset.images import read_image, read_mask
from dataset.samples import Item
from segmentation.metrics import ConfusionMatrix
from segmentation.model_file import Model
from segmentation.predictor import segment
from segmentation.preprocess import EVAL_BATCH

Figures = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """One model on the pictures of a split.

    `counts` is (pictures, classes + 1, classes + 1) int64, rows labels, columns predictions; the last class stands for
    what the model predicts and the data do not know, and never occurs as a label.
    """

    pictures: tuple[str, ...]
    classes: ClassMap
    counts: npt.NDArray[np.int64]
    milliseconds: float  # a picture, in batches, median; on the machine that measured

    @property
    def total(self) -> ConfusionMatrix:
        """The whole split in one matrix."""
        confusion = ConfusionMatrix(self.classes.num_classes + 1)
        confusion.counts += self.counts.sum(0)
        return confusion

    def iou(self) -> dict[str, float | None]:
        """IoU of each class over the split; None where the class is absent."""
        return dict(zip(self.classes.names, self.total.iou(), strict=False))

    def figure(self, name: str) -> float:
        """`miou` or `accuracy` over the split."""
        return self.total.accuracy if name == "accuracy" else self.total.miou

    def only(self, keep: Sequence[int]) -> Measured:
        """The same for some of the pictures."""
        return dataclasses.replace(self, pictures=tuple(self.pictures[i] for i in keep), counts=self.counts[list(keep)])

    def resampled(self, name: str, weights: npt.NDArray[np.int64]) -> Figures:
        """`miou` or `accuracy`, (samples,) float64, where row i of `weights` says how often sample i has each picture."""
        hit = weights @ np.diagonal(self.counts, axis1=1, axis2=2)
        labelled, predicted = weights @ self.counts.sum(2), weights @ self.counts.sum(1)
        if name == "accuracy":
            return np.asarray(hit.sum(1) / np.maximum(labelled.sum(1), 1), np.float64)
        present = labelled > 0
        iou = np.where(present, hit / np.maximum(labelled + predicted - hit, 1), 0.0)
        return np.asarray(iou.sum(1) / np.maximum(present.sum(1), 1), np.float64)


def measure(model: Model, items: Sequence[Item], classes: ClassMap, device: torch.device, name: str = "") -> Measured:
    """Predict pictures that have masks, as inference does, and count their pixels in the classes of `classes`.

    Classes of the model are found by name: two data sets may number them differently.
    """
    place = in_classes(model, classes)
    counts: list[npt.NDArray[np.int64]] = []
    spent: list[float] = []  # seconds a picture
    batches = [items[start : start + EVAL_BATCH] for start in range(0, len(items), EVAL_BATCH)]
    for batch in progress(batches, len(batches), tr("measuring {name}", name=name), tr("batches")):
        pictures = [read_image(item.image) for item in batch]
        if not spent:
            segment(model, pictures, device)  # pays for what is set up once, and is not counted
        started = time.perf_counter()
        predicted = segment(model, pictures, device)
        spent.append((time.perf_counter() - started) / len(batch))
        for item, indices in zip(batch, predicted, strict=True):
            own = ConfusionMatrix(classes.num_classes + 1)
            labels = read_mask(mask_of(item), classes)
            own.update(torch.from_numpy(place[indices]), torch.from_numpy(labels))
            counts.append(own.counts)
    return Measured(tuple(item.name for item in items), classes, np.stack(counts), float(np.median(spent)) * 1000)


def in_classes(model: Model, wanted: ClassMap) -> UInt8:
    """(256,) uint8: class index of a model -> index of the same name in `wanted`, or the index past its last."""
    place = np.full(256, wanted.num_classes, np.uint8)
    for index, name in enumerate(model.classes.names):
        if name in wanted.names:
            place[index] = wanted.names.index(name)
    return place


def mask_of(item: Item) -> Path:
    """The label of a picture. Raises UsageError where it has none."""
    if item.mask is None:
        raise UsageError(tr("{image}: no mask to compare with", image=item.image))
    return item.mask
