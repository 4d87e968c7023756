"""What a mask contains: the values with their pixels, and how they lie beside each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dataset.classes import UInt8
from dataset.decoding.mask import MaskPixels
from dataset.decoding.mask_colors import Color

RADIUS = 2  # pixels of a neighbourhood: blends at half the size of the mask are two pixels wide


@dataclass(frozen=True)
class MaskFacts:
    """The facts of one mask that checks need; counts are pixels by raw value."""

    values: dict[int, int]
    between: dict[int, int]  # pixels with a lower and a higher value among their neighbours
    inside: dict[int, int]  # pixels whose neighbours all have the same value
    bilevel: bool = False
    palette: tuple[tuple[int, Color], ...] = ()
    by_index: bool = True
    lossy: bool = False


def describe_mask(mask: MaskPixels) -> MaskFacts:
    """Return the facts of a decoded mask."""
    values = _counts(mask.values)
    between: dict[int, int] = {}
    inside: dict[int, int] = {}
    if len(values) > 2:
        low, high = _neighbourhood(mask.values, np.minimum), _neighbourhood(mask.values, np.maximum)
        between = _counts(mask.values[(low < mask.values) & (mask.values < high)])
        inside = _counts(mask.values[low == high])
    return MaskFacts(values, between, inside, mask.bilevel, mask.palette, mask.by_index, mask.lossy)


def _counts(values: npt.NDArray[np.uint8]) -> dict[int, int]:
    counts = np.bincount(values.ravel(), minlength=256)
    return {int(value): int(counts[value]) for value in counts.nonzero()[0]}


def _neighbourhood(values: UInt8, extreme: np.ufunc) -> UInt8:
    """Return the minimum or maximum of the pixels within `RADIUS` of each pixel, (H,W) uint8; fewer at the edges."""
    for axis in (0, 1):
        found = np.moveaxis(values.copy(), axis, 0)
        lines = np.moveaxis(values, axis, 0)
        for step in range(1, RADIUS + 1):
            extreme(found[step:], lines[:-step], out=found[step:])
            extreme(found[:-step], lines[step:], out=found[:-step])
        values = np.moveaxis(found, 0, axis)
    return values
