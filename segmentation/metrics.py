"""Segmentation metrics from one integer confusion matrix over a whole split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dataset.classes import IGNORE_INDEX


class ConfusionMatrix:
    """Pixel counts, (num_classes, num_classes) int64: rows are the labels, columns the predictions.

    A class without a labelled pixel in the split is absent: it is left out of mIoU and named, never counted as 0 or 1.
    """

    def __init__(self, num_classes: int) -> None:
        self.counts: npt.NDArray[np.int64] = np.zeros((num_classes, num_classes), np.int64)

    def update(self, predicted: Tensor, labels: Tensor) -> None:
        """Add pixels: two integer tensors of one shape; labels of IGNORE_INDEX are left out."""
        n, label_values = len(self.counts), IGNORE_INDEX + 1
        # One row for each value that a label can have: counting them all is faster than picking out the known ones.
        counts = torch.bincount((labels.long() * n + predicted).flatten(), minlength=label_values * n)
        table = counts.view(label_values, n).cpu().numpy()
        unknown = np.flatnonzero(table[n:IGNORE_INDEX].any(1)) + n
        if unknown.size:
            raise ValueError(f"labels of no class: {unknown.tolist()}")
        self.counts += table[:n]

    @property
    def accuracy(self) -> float:
        """Fraction of labelled pixels that are correct; 0.0 where nothing is labelled."""
        total = int(self.counts.sum())
        return float(np.trace(self.counts)) / total if total else 0.0

    def iou(self) -> list[float | None]:
        """Return the intersection over union of each class; None where the class is absent."""
        hit, labelled = np.diagonal(self.counts), self.counts.sum(1)
        union = labelled + self.counts.sum(0) - hit
        return [float(h / u) if n else None for h, u, n in zip(hit, union, labelled, strict=True)]

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that are present; 0.0 where none is."""
        present = [value for value in self.iou() if value is not None]
        return float(np.mean(present)) if present else 0.0

    def absent(self, names: Sequence[str]) -> list[str]:
        """Return the names of the classes without a labelled pixel."""
        return [name for name, value in zip(names, self.iou(), strict=True) if value is None]
