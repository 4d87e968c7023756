"""What a predictor returns for an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dataset.classes import UInt8
from segmentation.reliability.drift import Drift
from segmentation.reliability.uncertainty import UInt16


@dataclass(frozen=True)
class Prediction:
    """Class indices (H,W) uint8; if requested, probabilities (num_classes,H,W) float16, and the uncertainty.

    The uncertainty is the mean entropy of the probabilities over the pixels, divided by that of equal ones: 0 to 1;
    `levels` (H,W) uint16 are those of the pixels, 65535 is 1. `confidence`: the mean of the largest probability over a
    grid of pixels. `drift`: how far the image is from those of the training, None if it was not compared.
    """

    indices: UInt8
    probabilities: npt.NDArray[np.float16] | None = None
    uncertainty: float | None = None
    levels: UInt16 | None = None
    confidence: float | None = None
    drift: Drift | None = None


def join_bands(bands: Sequence[Prediction]) -> Prediction:
    """Return the prediction of an image from those of its bands, from top to bottom."""
    probabilities = [band.probabilities for band in bands if band.probabilities is not None]
    levels = [band.levels for band in bands if band.levels is not None]
    pixels = [band.indices.size for band in bands]
    uncertain, confident = (
        [value for value in values if value is not None]
        for values in ([band.uncertainty for band in bands], [band.confidence for band in bands])
    )
    return Prediction(
        np.concatenate([band.indices for band in bands]),
        np.concatenate(probabilities, 1) if probabilities else None,
        float(np.average(uncertain, weights=pixels)) if uncertain else None,
        np.concatenate(levels) if levels else None,
        float(np.average(confident, weights=pixels)) if confident else None,
    )
