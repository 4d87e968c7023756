"""Scale samples of more than 8 bits to 8 bits, by the range of values that the training images have.

The network sees 256 levels of each band, whatever the depth of the files: augmentation, the decoded cache and the
resizing work on bytes, and the levels are spread over the range that the data uses. Images of 8 bits are never changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from core.i18n import tr
from dataset.classes import InvalidFileError, UInt8

Samples = npt.NDArray[Any]
Range = tuple[float, float]
FULL_DEPTH = (0.0, 65535.0)  # of 16 bits; by it, images were scaled before ranges were measured
SPARSELY_USED = 1 << 14  # values below, read by the full depth, would leave a quarter of the levels at most
TAIL = 1e-4  # fraction of the pixels beyond the range on each side, where the extremes would cost too many levels
ACCEPTED_WASTE = 1.25  # the extremes are the range if they span at most this many times what the bulk of pixels does
# Cumulative fractions at which the distribution of an image's values is kept.
FRACTIONS = np.array([0, TAIL, 1e-3, 1e-2, 0.1, 0.5, 0.9, 0.99, 0.999, 1 - TAIL, 1])
FEW_LEVELS = 8  # of 256, on which most pixels must not fall
MEASURED_PIXELS = 1 << 20  # of a band, evenly taken; the extremes are those of all pixels


@dataclass(frozen=True)
class BandValues:
    """Distribution of the values of one image: `quantiles` (bands, len(FRACTIONS)) float64 over `count` pixels.

    `second` (bands, 2) float64 are the smallest and the largest value but for the extremes.
    """

    quantiles: npt.NDArray[np.float64]
    count: int
    second: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Squeezed:
    """A band, most of whose pixels fall on `levels` of 256 because its values reach `value`; from 0, None for all."""

    band: int | None
    value: float
    levels: float


def measure_values(pixels: Samples, valid: npt.NDArray[np.bool_] | None) -> BandValues:
    """Return the distribution of samples (H,W,C); pixels that are not valid do not count. At least one must be valid."""
    columns = pixels.reshape(-1, pixels.shape[2]) if valid is None else pixels[valid]
    step = -(-len(columns) // MEASURED_PIXELS)
    quantiles = np.quantile(columns[::step].astype(np.float64), FRACTIONS, axis=0).T
    low, high = columns.min(0), columns.max(0)
    quantiles[:, 0], quantiles[:, -1] = low, high
    second = np.where(columns > low, columns, high).min(0), np.where(columns < high, columns, low).max(0)
    return BandValues(quantiles, len(columns), np.stack(second, 1).astype(np.float64))


def pool_ranges(images: Sequence[BandValues], shared: bool) -> tuple[Range, ...]:
    """Return the range of each band over the pixels of all images, or of all bands together if `shared`.

    It goes from the smallest to the largest value; where a few outliers would cost more than a fifth of the levels,
    it leaves out a fraction TAIL of the pixels on each side.
    """
    quantiles = np.stack([image.quantiles for image in images])
    weights = np.array([image.count for image in images], np.float64)
    ranges = [_pool_band(quantiles[:, band], weights) for band in range(quantiles.shape[1])]
    if shared:
        ranges = [(min(low for low, _ in ranges), max(high for _, high in ranges))]
    return tuple(ranges)


def find_squeezed(images: Sequence[BandValues], ranges: Sequence[Range], shared: bool) -> list[Squeezed]:
    """Return the bands that `ranges`, those of `pool_ranges`, leave with fewer than `FEW_LEVELS` for most pixels.

    That is for all values but the extreme one, which may mark missing data, or for the central 80 % of the pixels.
    """
    quantiles = np.stack([image.quantiles for image in images])
    second = np.stack([image.second for image in images])
    weights = np.array([image.count for image in images], np.float64)
    if shared:
        bands = quantiles.shape[1]
        quantiles, second = quantiles.reshape(-1, 1, len(FRACTIONS)), second.reshape(-1, 1, 2)
        weights = np.repeat(weights, bands)
    found = []
    for band, limits in enumerate(ranges):
        squeezed = _squeeze(quantiles[:, band], second[:, band], weights, limits)
        found += [Squeezed(None if shared else band, *squeezed)] if squeezed is not None else []
    return found


def _squeeze(
    quantiles: npt.NDArray[np.float64], second: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], limits: Range
) -> tuple[float, float] | None:
    """Return the extreme value and the levels that it leaves for most pixels; None where they are enough."""
    smallest, largest = quantiles[:, 0], quantiles[:, -1]
    low, high = float(smallest.min()), float(largest.max())
    per_value = 255 / (limits[1] - limits[0])
    above = float(np.where(smallest == low, second[:, 0], smallest).min())
    below = float(np.where(largest == high, second[:, 1], largest).max())
    middle = [_pooled_quantile(quantiles, weights, fraction) for fraction in (0.1, 0.5, 0.9)]
    central = middle[2] - middle[0]
    farther = low if middle[1] - low > high - middle[1] else high
    noise = 1e3 * float(np.spacing(high - low))  # of the bisection
    spans = [(low, high - above, limits[0] == low, 0), (high, below - low, limits[1] == high, 0)]
    for extreme, span, reached, zero in (*spans, (farther, central, True, noise)):
        # A span of 0 has nothing to lose: two values, or a uniform background.
        if reached and zero < span and span * per_value < FEW_LEVELS:
            return extreme, span * per_value
    return None


def _pool_band(quantiles: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> Range:
    """Return the range of one band: `quantiles` (images, len(FRACTIONS))."""
    smallest, largest = float(quantiles.min()), float(quantiles.max())
    low, high = (_pooled_quantile(quantiles, weights, fraction) for fraction in (TAIL, 1 - TAIL))
    if largest - smallest <= ACCEPTED_WASTE * (high - low):
        low, high = smallest, largest
    return (low, high) if high > low else (low, low + 1)  # an image of one value must not cause a division by 0


def _pooled_quantile(quantiles: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], fraction: float) -> float:
    """Return the value below which this fraction of all pixels lies, by bisection of the summed distributions."""
    low, high = float(quantiles.min()), float(quantiles.max())
    starts, widths = quantiles[:, :-1], np.diff(quantiles, axis=1)
    for _ in range(64):
        middle = (low + high) / 2
        passed = np.where(widths > 0, (middle - starts) / np.where(widths > 0, widths, 1), middle >= starts)
        below = np.clip(passed, 0, 1) @ np.diff(FRACTIONS)
        if below @ weights < fraction * weights.sum():
            low = middle
        else:
            high = middle
    return high


def scale_to_bytes(pixels: Samples, valid: npt.NDArray[np.bool_] | None, ranges: Sequence[Range]) -> UInt8:
    """Return samples (H,W,C) as (H,W,C) uint8: the range becomes 0..255, values beyond it its ends, invalid pixels 0.

    `ranges` has an entry for each band, or one for all; without one, integers are scaled by their full 16 bits. Raises
    InvalidFileError for samples that have no range.
    """
    if pixels.dtype == np.uint8:
        return pixels
    ranges = ranges or [_range_by_depth(pixels)]
    bands = pixels.shape[2]
    ranges = list(ranges) * bands if len(ranges) == 1 else ranges
    scaled = np.empty(pixels.shape, np.uint8)
    for band, limits in enumerate(ranges):
        scaled[..., band] = _scale_band(pixels[..., band], limits)
    if valid is not None:
        scaled[~valid] = 0
    return scaled


def _scale_band(values: Samples, limits: Range) -> UInt8:
    if values.dtype in (np.uint16, np.int16):  # a table: a tenth of the time and memory of floats
        table = _to_levels(np.arange(65536, dtype=np.uint16).view(values.dtype), limits)
        return table[values.view(np.uint16)]
    return _to_levels(values, limits)


def _to_levels(values: Samples, limits: Range) -> UInt8:
    low, high = limits
    with np.errstate(invalid="ignore"):  # NaN marks invalid pixels, which the caller sets
        levels = np.clip((values.astype(np.float64) - low) * (255 / (high - low)), 0, 255)
        return np.asarray(np.rint(np.nan_to_num(levels)), np.uint8)


def _range_by_depth(pixels: Samples) -> Range:
    """Return the full range of 16 bits. Raises InvalidFileError for other samples, and where few values are used."""
    if pixels.dtype.kind == "f":
        raise InvalidFileError((tr("an image of 8 or 16 bits"), tr("float pixels")))
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high > FULL_DEPTH[1]:
        raise InvalidFileError((tr("an image of 8 or 16 bits"), tr("values {low} to {high}", low=low, high=high)))
    if 0 < high < SPARSELY_USED:
        expected = tr("8 bits, or values over all of 16 bits, as the data that the model was trained on")
        raise InvalidFileError(
            (
                expected,
                tr("values {low} to {high} (train on such images, and their range is stored)", low=low, high=high),
            )
        )
    return FULL_DEPTH
