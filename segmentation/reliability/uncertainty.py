"""How certain a prediction is: the entropy of each pixel, the confidence of an image, and whether both point at errors."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dataset.classes import IGNORE_INDEX, UInt8

LEVELS = 1 << 16  # of a stored entropy: 0 is certain, LEVELS - 1 a guess between all classes
GRID_PIXELS = 4096  # of an image, at most, that its confidence is the mean of
UInt16 = npt.NDArray[np.uint16]


def entropies(logits: Tensor, temperature: float) -> Tensor:
    """Return the entropy of the probabilities of each pixel (H,W), divided by that of equal ones: 0 to 1."""
    if len(logits) == 1:
        return torch.zeros_like(logits[0])
    logarithms = scaled(logits, temperature).log_softmax(0)
    return (-(logarithms.exp() * logarithms).sum(0) / math.log(len(logits))).clamp_(0, 1)


def scaled(logits: Tensor, temperature: float) -> Tensor:
    """Return the logits whose softmax gives calibrated probabilities."""
    return logits if temperature == 1 else logits / temperature


def to_levels(entropy: Tensor) -> UInt16:
    """Return entropies (H,W) as the numbers that are stored, uint16."""
    return (entropy * (LEVELS - 1)).round().to(torch.int32).cpu().numpy().astype(np.uint16)


def image_confidence(logits: Tensor, temperature: float, known: Tensor | None = None) -> float:
    """Return the mean of the largest class probability over a regular grid of at most GRID_PIXELS pixels.

    A grid, because the probabilities of all pixels would take a fifth of the time of a prediction. `known` (H,W) bool:
    pixels of the grid that are not are left out; NaN if none is left.
    """
    height, width = logits.shape[-2:]
    step = max(1, math.ceil(math.sqrt(height * width / GRID_PIXELS)))
    rows, columns = slice(min(step // 2, height - 1), None, step), slice(min(step // 2, width - 1), None, step)
    grid = logits[:, rows, columns]
    largest = 1 / scaled(grid - grid.max(0, keepdim=True).values, temperature).exp().sum(0)
    return float((largest if known is None else largest[known[rows, columns]]).mean(dtype=torch.float64))


class ErrorRanking:
    """How well entropy tells wrong pixels from correct ones: `counts` (2,LEVELS) int64 of correct and of wrong pixels."""

    def __init__(self) -> None:
        self.counts: npt.NDArray[np.int64] = np.zeros((2, LEVELS), np.int64)

    def update(self, levels: UInt16, predicted: UInt8, labels: UInt8) -> None:
        """Add pixels: three arrays of one shape; labels of IGNORE_INDEX are left out."""
        known = labels != IGNORE_INDEX
        wrong = (predicted != labels)[known]
        flat = levels[known].astype(np.int64) + LEVELS * wrong
        self.counts += np.bincount(flat, minlength=2 * LEVELS).reshape(2, LEVELS)

    @property
    def auroc(self) -> float | None:
        """Area under the ROC curve: how often a wrong pixel has a higher entropy than a correct one, ties counted half.

        None where all pixels are correct, or all wrong.
        """
        correct, wrong = self.counts
        pairs = int(correct.sum()) * int(wrong.sum())
        if not pairs:
            return None
        below = np.cumsum(correct) - correct / 2
        return float((wrong * below).sum() / pairs)
