"""Temperature scaling (Guo et al., 2017, arXiv:1706.04599): divide logits by one number, so that confidence meets accuracy.

The class of a pixel never changes. Everything is measured on samples of pixels, which are evenly spaced among the labelled
ones of each image, so that an image needs little memory and every repetition gives the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dataset.classes import IGNORE_INDEX

BINS = 15  # of confidence, of equal width
PIXELS_PER_IMAGE = 4096
MAX_VALUES = 1 << 24  # logits of all samples: 64 MiB
FIT_PIXELS = 1 << 18  # of them, that a temperature is fitted on
LOWEST, HIGHEST = 0.05, 20.0  # temperatures; a model without an error on its samples would have none
GOLDEN = (math.sqrt(5) - 1) / 2
TOLERANCE = 1e-5  # of the logarithm of the temperature
DIGITS = 4  # decimals of a stored temperature


class LogitSamples:
    """Logits and labels of evenly spaced labelled pixels of a split; images that were not added have none."""

    def __init__(self, images: int, num_classes: int) -> None:
        count = max(1, min(PIXELS_PER_IMAGE, MAX_VALUES // max(1, images * num_classes)))
        self.logits = torch.zeros(images, count, num_classes)
        self.marks = torch.zeros(images, count, dtype=torch.int64)  # label + 1; 0: no pixel

    def add(self, image: int, logits: Tensor, labels: Tensor) -> None:
        """Take pixels of an image: logits (num_classes,H,W) float32, labels (H,W) uint8."""
        labelled = (labels.flatten() != IGNORE_INDEX).nonzero().squeeze(1)
        count = min(len(labelled), self.marks.shape[1])
        if not count:
            return
        spaced = torch.linspace(0, len(labelled) - 1, count, dtype=torch.float64, device=labelled.device)
        chosen = labelled[spaced.round().long()]
        self.logits[image, :count] = logits.flatten(1)[:, chosen].T.cpu()
        self.marks[image, :count] = labels.flatten()[chosen].cpu().long() + 1

    def pixels(self) -> tuple[Tensor, Tensor]:
        """Return logits (N,num_classes) float32 and labels (N,) int64 of all pixels."""
        taken = self.marks > 0
        return self.logits[taken], self.marks[taken] - 1


@dataclass(frozen=True)
class Reliability:
    """Pixels by confidence, the largest class probability: number, summed confidence, and number of correct ones, (BINS,)."""

    pixels: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]
    correct: npt.NDArray[np.int64]

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor, temperature: float) -> Reliability:
        """Measure logits (N,num_classes) float32 with labels (N,) int64."""
        confidence, predicted = (logits / temperature).softmax(1).max(1)
        found = confidence.double().numpy()
        bins = np.minimum((found * BINS).astype(np.int64), BINS - 1)
        right = (predicted == labels).numpy()
        return cls(
            np.bincount(bins, minlength=BINS),
            np.asarray(np.bincount(bins, weights=found, minlength=BINS), np.float64),
            np.bincount(bins[right], minlength=BINS),
        )

    def __add__(self, other: Reliability) -> Reliability:
        """Return the reliability on the pixels of both."""
        return Reliability(self.pixels + other.pixels, self.confidence + other.confidence, self.correct + other.correct)

    @property
    def error(self) -> float:
        """Expected calibration error: the mean distance of confidence and accuracy of the bins, weighted by their pixels."""
        return float(np.abs(self.confidence - self.correct).sum() / max(1, self.pixels.sum()))

    def curve(self) -> list[tuple[float, float]]:
        """Return mean confidence and accuracy of each bin that has at least a thousandth of the pixels."""
        shown = np.flatnonzero(self.pixels * 1000 >= max(1, self.pixels.sum()))
        return [
            (float(self.confidence[i] / self.pixels[i]), float(self.correct[i] / self.pixels[i]))
            for i in shown.tolist()
        ]


@dataclass(frozen=True)
class Calibrated:
    """The reliability of a model on a split without and with its temperature."""

    before: Reliability
    after: Reliability

    @classmethod
    def of(cls, samples: LogitSamples, temperature: float) -> Calibrated | None:
        """Measure both; None for a split without labelled pixels."""
        logits, labels = samples.pixels()
        if not len(labels):
            return None
        return cls(Reliability.of(logits, labels, 1.0), Reliability.of(logits, labels, temperature))


def fit_temperature(samples: LogitSamples) -> float:
    """Return the temperature with the lowest negative log-likelihood of the samples; 1 if there are none."""
    logits, labels = samples.pixels()
    if not len(labels):
        return 1.0
    step = -(-len(labels) // FIT_PIXELS)
    logits, labels = logits[::step], labels[::step, None]

    def loss(log_temperature: float) -> float:
        likelihood = (logits / math.exp(log_temperature)).log_softmax(1).gather(1, labels)
        return -float(likelihood.mean(dtype=torch.float64))

    return round(math.exp(_lowest(loss, math.log(LOWEST), math.log(HIGHEST))), DIGITS)


def _lowest(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where a function of one minimum is lowest between two numbers, by golden-section search."""
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > TOLERANCE:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = function(right)
    return (low + high) / 2
