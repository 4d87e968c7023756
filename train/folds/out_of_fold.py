"""Out-of-fold metrics: each image is predicted by the one model that was not trained on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from core.files import write_atomically
from core.safety.spreadsheet import csv_bytes
from segmentation.evaluation import EvaluationResult
from segmentation.intervals import metric_interval
from segmentation.metrics import ConfusionMatrix
from train.base_train import Validation
from train.folds.division import Counts, Division

CONFIDENCE = 0.95  # of the interval
IMAGES_TABLE = "oof_images.csv"  # artifact: a row for each image


@dataclass(frozen=True)
class OutOfFold:
    """The predictions of all held-out images, as confusion matrices of each image, (pairs, num_classes, num_classes).

    The pairs are those of the division; images that a smoke run leaves out have no counts.
    """

    division: Division
    counts: Counts

    @classmethod
    def of(cls, division: Division, parts: Sequence[Counts]) -> OutOfFold:
        """Join the counts of the folds, in their order, each in the order of its held-out pairs."""
        classes = division.data.classes.num_classes
        counts = np.zeros((len(division.pairs), classes, classes), np.int64)
        for fold, part in zip(division.folds, parts, strict=True):
            counts[division.held_out(fold)] = part
        return cls(division, counts)

    @property
    def confusion(self) -> ConfusionMatrix:
        """One confusion matrix of all images."""
        return confusion_of(self.counts.sum(0))

    @property
    def metrics(self) -> Validation:
        """The metrics of that matrix; the loss is not measured (NaN), as its weights differ by fold."""
        return metrics_of(self.confusion, self.division.data.classes.names)

    def interval(self) -> tuple[float, float] | None:
        """Return the interval of the mIoU, with the groups of the data as observations; None for too few of them."""
        classes = self.division.data.classes
        padded = np.pad(
            self.counts, ((0, 0), (0, 1), (0, 1))
        )  # no prediction is of a class that the data does not have
        pairs = self.division.pairs
        groups = tuple(f"{pair.split}/{pair.name}" if pair.group is None else pair.group for pair in pairs)
        names = tuple(pair.name for pair in pairs)
        return metric_interval(EvaluationResult(names, groups, classes, padded, 0.0), "miou", CONFIDENCE)

    def scores(self) -> torch.Tensor:
        """Return the mIoU of each image, (pairs,) float64; NaN: not measured."""
        return torch.tensor([confusion_of(own).miou if own.any() else math.nan for own in self.counts])

    def write_images(self, path: Path) -> None:
        """Write name, group, fold and scores of each image, in the order of the folds."""
        rows: list[list[object]] = [["split", "name", "group", "fold", "miou", "accuracy", "labelled_pixels"]]
        order = sorted(range(len(self.counts)), key=lambda index: self.division.fold_of[index])
        for index in order:
            pair, confusion = self.division.pairs[index], confusion_of(self.counts[index])
            measured = [confusion.miou, confusion.accuracy] if confusion.counts.any() else [None, None]
            fold = self.division.fold_of[index]
            rows.append([pair.split, pair.name, pair.group, fold, *measured, int(confusion.counts.sum())])
        write_atomically(path, csv_bytes(rows))


def confusion_of(counts: Counts) -> ConfusionMatrix:
    """Return a confusion matrix with these counts."""
    confusion = ConfusionMatrix(len(counts))
    confusion.counts += counts
    return confusion


def metrics_of(confusion: ConfusionMatrix, names: Sequence[str]) -> Validation:
    """Return the metrics of a confusion matrix over the classes `names`, without a loss (NaN)."""
    return Validation(math.nan, confusion.accuracy, confusion.miou, dict(zip(names, confusion.iou(), strict=True)))
