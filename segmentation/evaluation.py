"""Measure a model on images with masks: confusion matrix, per-image figures and speed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from core.errors import UsageError
from core.i18n import tr
from core.reporting import progress
from dataset.classes import IGNORE_INDEX, ClassMap, UInt8
from dataset.decoding.image import read_image
from dataset.decoding.mask import read_mask
from dataset.decoding.options import ReadOptions
from dataset.decoding.orientation import reorient
from dataset.samples import Item
from segmentation.means import Coverage, format_mean
from segmentation.metrics import ConfusionMatrix
from segmentation.model import Model
from segmentation.object_sizes import SIZES, object_sizes
from segmentation.predictor import segment
from segmentation.preprocess import EVAL_BATCH

Figures = npt.NDArray[np.float64]


@dataclass(frozen=True)
class EvaluationResult:
    """The confusion matrices of one model on the images of a split.

    `counts` is (images, classes + 1, classes + 1) int64, rows labels, columns predictions; the last class stands for
    predictions of a class that the data does not have, and never occurs as a label. `by_size` are the same counts divided
    by the size of the labelled object, (images, len(SIZES), classes + 1, classes + 1), if they were asked for.
    """

    images: tuple[str, ...]
    groups: tuple[str, ...]  # of each image: frames of one film are one observation, not many
    classes: ClassMap
    counts: npt.NDArray[np.int64]
    milliseconds: float  # per image, in batches, median; on the machine that measured
    by_size: npt.NDArray[np.int64] | None = None

    @property
    def total(self) -> ConfusionMatrix:
        """The confusion matrix of the full split."""
        confusion = ConfusionMatrix(self.classes.num_classes + 1)
        confusion.counts += self.counts.sum(0)
        return confusion

    def iou(self) -> dict[str, float | None]:
        """Return the IoU of each class over the split; None where the class is absent."""
        return dict(zip(self.classes.names, self.total.iou(), strict=False))

    def metric(self, name: str) -> float:
        """Return `miou` or `accuracy` over the split."""
        return self.total.accuracy if name == "accuracy" else self.total.miou

    def format(self, name: str) -> str:
        """Return `miou`, with the number of its classes, or `accuracy` as text."""
        return format_mean(self.metric(name), self.coverage if name == "miou" else None)

    @property
    def coverage(self) -> Coverage:
        """How many classes of the data occur in these images."""
        return Coverage.of(self.iou().values())

    def only(self, keep: Sequence[int]) -> EvaluationResult:
        """Return the result for the images of these indices."""
        return replace(
            self,
            images=tuple(self.images[i] for i in keep),
            groups=tuple(self.groups[i] for i in keep),
            counts=self.counts[list(keep)],
            by_size=None if self.by_size is None else self.by_size[list(keep)],
        )

    def of_size(self, size: int) -> EvaluationResult:
        """Return the result for the pixels of objects of this index in SIZES. Raises ValueError without `by_size`."""
        if self.by_size is None:
            raise ValueError("measured without sizes")
        return replace(self, counts=self.by_size[:, size], by_size=None)

    def group_counts(self) -> npt.NDArray[np.int64]:
        """Return the summed counts of each group, (groups, classes + 1, classes + 1) int64, by the group's name."""
        names, index = np.unique(self.groups, return_inverse=True)
        summed = np.zeros((len(names), *self.counts.shape[1:]), np.int64)
        np.add.at(summed, index, self.counts)
        return summed


def metric_of_counts(name: str, counts: npt.NDArray[np.int64]) -> Figures:
    """Return `miou` or `accuracy` of each confusion matrix in (..., classes + 1, classes + 1), as (...) float64."""
    hit = np.diagonal(counts, axis1=-2, axis2=-1)
    labelled, predicted = counts.sum(-1), counts.sum(-2)
    if name == "accuracy":
        return np.asarray(hit.sum(-1) / np.maximum(labelled.sum(-1), 1), np.float64)
    present = labelled > 0
    iou = np.where(present, hit / np.maximum(labelled + predicted - hit, 1), 0.0)
    return np.asarray(iou.sum(-1) / np.maximum(present.sum(-1), 1), np.float64)


def measure(
    model: Model,
    items: Sequence[Item],
    classes: ClassMap,
    device: torch.device,
    name: str = "",
    labels: ReadOptions | None = None,
    sizes: bool = False,
) -> EvaluationResult:
    """Predict images that have masks, as inference does, and return their confusion matrices over `classes`.

    Classes of the model are matched by name: two data sets may number them differently. `labels` are the options that
    fit the masks, where those are of another model's data. `sizes`: also count by the sizes of objects.
    """
    index_map, labels = map_class_indices(model, classes), labels or model.reading
    reading = replace(model.reading, allow_truncated=model.reading.allow_truncated or labels.allow_truncated)
    counts: list[npt.NDArray[np.int64]] = []
    by_size: list[npt.NDArray[np.int64]] = []
    seconds: list[float] = []  # seconds per image
    batches = [items[start : start + EVAL_BATCH] for start in range(0, len(items), EVAL_BATCH)]
    for batch in progress(batches, len(batches), tr("measuring {name}", name=name), tr("batches")):
        images = [read_image(item.image, reading, item.page) for item in batch]
        if not seconds:
            segment(model, images, device)  # warm-up, not timed
        started = time.perf_counter()
        predicted = segment(model, images, device)
        seconds.append((time.perf_counter() - started) / len(batch))
        for item, indices in zip(batch, predicted, strict=True):
            found = reorient(index_map[indices], item.image.read_bytes(), model.reading, labels, item.page)
            mask = read_labels(item, classes, labels, found.shape)
            counts.append(_count(found, mask, classes))
            if sizes:
                objects = object_sizes(mask)
                parts = [np.where(objects == size, mask, np.uint8(IGNORE_INDEX)) for size in range(len(SIZES))]
                by_size.append(np.stack([_count(found, part, classes) for part in parts]))
    return EvaluationResult(
        images=tuple(item.name for item in items),
        groups=tuple(item.name if item.group is None else item.group for item in items),
        classes=classes,
        counts=np.stack(counts),
        milliseconds=float(np.median(seconds)) * 1000,
        by_size=np.stack(by_size) if sizes else None,
    )


def _count(found: UInt8, mask: UInt8, classes: ClassMap) -> npt.NDArray[np.int64]:
    confusion = ConfusionMatrix(classes.num_classes + 1)
    confusion.update(torch.from_numpy(found), torch.from_numpy(mask))
    return confusion.counts


def map_class_indices(model: Model, wanted: ClassMap) -> UInt8:
    """Return (256,) uint8: class index of the model -> index of the same name in `wanted`, else wanted.num_classes."""
    index_map = np.full(256, wanted.num_classes, np.uint8)
    for index, name in enumerate(model.classes.names):
        if name in wanted.names:
            index_map[index] = wanted.names.index(name)
    return index_map


def read_labels(item: Item, classes: ClassMap, options: ReadOptions, shape: tuple[int, ...]) -> UInt8:
    """Return the mask of an image as class indices (H,W) uint8. Raises UsageError if it has none of this shape."""
    mask = require_mask(item)
    labels = read_mask(mask, classes, options, item.page)
    if labels.shape != shape:
        (height, width), (found_height, found_width) = shape, labels.shape
        sizes = f"{width}x{height}, {found_width}x{found_height}"
        raise UsageError(
            tr("{mask}: the sizes of image and mask differ: {sizes} (RAW_ORIENTATION?)", mask=mask, sizes=sizes)
        )
    return labels


def require_mask(item: Item) -> Path:
    """Return the mask of an image. Raises UsageError if it has none."""
    if item.mask is None:
        raise UsageError(tr("{image}: no mask to compare with", image=item.image))
    return item.mask
