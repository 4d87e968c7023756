"""A few numbers of an image as the network sees it, by which images unlike those of the training are recognized."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from dataset.classes import UInt8

Figures = npt.NDArray[np.float64]
GRID_PIXELS = 1 << 12  # of an image, about, that are looked at: all would take a tenth of the time of a prediction
CELLS = 3  # rows and columns of the layout
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
    "colour": ("colour", 0.7),
    "detail": ("detail", 0.3),
    "layout": ("layout", 8.0),
    "size": ("size", 1.0),
    "aspect": ("aspect", 0.25),
}
COMBINATION = "combination"  # reported of statistics that do not occur together in the training
FEATURES = "features"  # reported of the encoder's features
REASONS = (*dict.fromkeys(reason for reason, _ in KINDS.values()), COMBINATION, FEATURES)


def statistic_names(bands: int) -> tuple[str, ...]:
    """Return the names of what `image_statistics` returns."""
    each = [f"{kind}/{band}" for kind in ("mean", "std", "low", "median", "high") for band in range(bands)]
    colours = [f"colour/{band}" for band in range(bands - 1)]
    cells = [f"layout/{cell}" for cell in range(CELLS**2)]
    return (*each, *colours, *cells, "dark", "saturated", "detail", "size", "aspect")


def kind_of(name: str) -> tuple[str, float]:
    """Return what is reported of a statistic, and the smallest distance that means anything."""
    return KINDS[name.partition("/")[0]]


def image_statistics(resized: UInt8, size: tuple[int, int]) -> Figures:
    """Return the statistics of an image (H,W,C) uint8 at the network's size; `size` is that of the file (height, width).

    Of each band: mean, standard deviation, 1st, 50th and 99th percentile; log2 of the mean distance of neighbouring bands; the
    brightness of nine parts of the image, compared with all of it; the fractions of dark and saturated values; log2 of the
    mean step between neighbouring pixels, of the side, of the aspect.
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
    colours = np.log2(np.abs(np.diff(values, axis=2)).mean((0, 1)) + 0.5)  # a grey image has no colour at all
    layout = _cell_means(values.mean(2)) - means.mean()
    beside = resized[::step, 1::step].astype(np.int16)
    steps = np.abs(beside - values[:, : beside.shape[1]]).mean() if width > 1 else 0.0
    total = counts.sum(0) / counts.sum()
    sides = math.log2(size[0] * size[1]) / 2, math.log2(size[1] / size[0])
    detail = math.log2(float(steps) + 0.25)
    single = (total[: DARK + 1].sum(), total[SATURATED:].sum(), detail, *sides)
    return np.concatenate([means, stds, low, median, high, colours, layout, single]).astype(np.float64)


def _cell_means(grid: Figures) -> Figures:
    """Return the means of CELLS x CELLS parts of (H,W), row by row."""
    rows, columns = (np.arange(CELLS) * length // CELLS for length in grid.shape)
    edges = [(*(int(i) for i in starts), length) for starts, length in zip((rows, columns), grid.shape, strict=True)]
    (tops, lefts) = edges
    parts = (
        grid[tops[i] : max(tops[i + 1], tops[i] + 1), lefts[j] : max(lefts[j + 1], lefts[j] + 1)]
        for i in range(CELLS)
        for j in range(CELLS)
    )
    return np.array([part.mean() for part in parts])
