"""A few numbers of an image as the network sees it, by which images unlike those of the training are recognized."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from dataset.classes import UInt8

Figures = npt.NDArray[np.float64]
GRID_PIXELS = 1 << 14  # of an image, about, that are looked at
DARK, SATURATED = 8, 247  # levels of a pixel up to which, and from which, nothing can be seen in it
# Name of a statistic without its band -> what is reported of it, and the smallest distance that means anything.
KINDS = {
    "mean": ("brightness", 8.0),
    "median": ("brightness", 12.0),
    "std": ("contrast", 6.0),
    "low": ("contrast", 12.0),
    "high": ("contrast", 12.0),
    "dark": ("dark", 0.05),
    "saturated": ("saturated", 0.05),
    "colour": ("colour", 3.0),
    "detail": ("detail", 0.3),
    "size": ("size", 1.0),
    "aspect": ("aspect", 0.25),
}
FEATURES = "features"  # reported of the encoder's features
REASONS = (*dict.fromkeys(reason for reason, _ in KINDS.values()), FEATURES)


def statistic_names(bands: int) -> tuple[str, ...]:
    """Return the names of what `image_statistics` returns."""
    each = [f"{kind}/{band}" for kind in ("mean", "std", "low", "median", "high") for band in range(bands)]
    colours = [f"colour/{band}" for band in range(bands - 1)]
    return (*each, *colours, "dark", "saturated", "detail", "size", "aspect")


def kind_of(name: str) -> tuple[str, float]:
    """Return what is reported of a statistic, and the smallest distance that means anything."""
    return KINDS[name.partition("/")[0]]


def image_statistics(resized: UInt8, size: tuple[int, int]) -> Figures:
    """Return the statistics of an image (H,W,C) uint8 at the network's size; `size` is that of the file (height, width).

    Of each band: mean, standard deviation, 1st, 50th and 99th percentile; the mean distance of neighbouring bands; the
    fractions of dark and saturated values; log2 of the mean step between neighbouring pixels, of the side, of the aspect.
    """
    height, width, bands = resized.shape
    step = max(1, math.isqrt(height * width // GRID_PIXELS))
    grid = resized[::step, ::step]
    levels, count = np.arange(256), grid.shape[0] * grid.shape[1]
    counts = np.stack([np.bincount(grid[..., band].ravel(), minlength=256) for band in range(bands)])
    means = counts @ levels / count
    stds = np.sqrt(np.maximum(counts @ (levels**2) / count - means**2, 0))
    cumulated = np.cumsum(counts, 1) / count
    low, median, high = ((cumulated < fraction).sum(1) for fraction in (0.01, 0.5, 0.99))
    values = grid.astype(np.int16)
    colours = np.abs(np.diff(values, axis=2)).mean((0, 1))
    beside = resized[::step, 1::step].astype(np.int16)
    steps = np.abs(beside - values[:, : beside.shape[1]]).mean() if width > 1 else 0.0
    total = counts.sum(0) / counts.sum()
    sides = math.log2(size[0] * size[1]) / 2, math.log2(size[1] / size[0])
    detail = math.log2(float(steps) + 0.25)
    single = (total[: DARK + 1].sum(), total[SATURATED:].sum(), detail, *sides)
    return np.concatenate([means, stds, low, median, high, colours, single]).astype(np.float64)
