"""What a mask contains: the values with their pixels, and how they lie beside each other."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dataset.classes import UInt8
from dataset.decoding.mask import MaskPixels
from dataset.decoding.mask_colors import Color

RADIUS = 2  # pixels of a neighbourhood: blends at half the size of the mask are two pixels wide
STEEP = 3  # classes in layers, such as those of tissue, rise by one from layer to layer


@dataclass(frozen=True)
class MaskFacts:
    """The facts of one mask that checks need; counts are pixels by raw value."""

    values: dict[int, int]
    between: dict[int, int]  # pixels with a lower and a higher value among their neighbours
    inside: dict[int, int]  # pixels whose neighbours all have the same value
    steep: dict[int, int]  # of `between`: pixels at which the values rise by at least STEEP within three pixels
    bilevel: bool = False
    palette: tuple[tuple[int, Color], ...] = ()
    by_index: bool = True
    lossy: bool = False
    white_is_zero: bool = False


def describe_mask(mask: MaskPixels, ignored: Collection[int] = ()) -> MaskFacts:
    """Return the facts of a decoded mask; `ignored` values are neither lower nor higher than their neighbours."""
    values = _counts(mask.values)
    between: dict[int, int] = {}
    inside: dict[int, int] = {}
    steep: dict[int, int] = {}
    if len(values) > 2:
        (near_low, low), (near_high, high) = _lowest(mask.values, ignored), _highest(mask.values, ignored)
        mixed = (low < mask.values) & (mask.values < high)
        between = _counts(mask.values[mixed])
        inside = _counts(mask.values[low == high])
        steep = _counts(mask.values[mixed & (near_high.astype(np.int16) - near_low >= STEEP)])
    return MaskFacts(
        values, between, inside, steep, mask.bilevel, mask.palette, mask.by_index, mask.lossy, mask.white_is_zero
    )


def _counts(values: npt.NDArray[np.uint8]) -> dict[int, int]:
    counts = np.bincount(values.ravel(), minlength=256)
    return {int(value): int(counts[value]) for value in counts.nonzero()[0]}


def _lowest(values: UInt8, ignored: Collection[int]) -> tuple[UInt8, UInt8]:
    """Return the lowest value within 1 pixel, and within `RADIUS` pixels, of each pixel."""
    near = _neighbourhood(_replace(values, ignored, 255), np.minimum, 1)
    return near, _neighbourhood(near, np.minimum, RADIUS - 1)


def _highest(values: UInt8, ignored: Collection[int]) -> tuple[UInt8, UInt8]:
    """Return the highest value within 1 pixel, and within `RADIUS` pixels, of each pixel."""
    near = _neighbourhood(_replace(values, ignored, 0), np.maximum, 1)
    return near, _neighbourhood(near, np.maximum, RADIUS - 1)


def _replace(values: UInt8, replaced: Collection[int], value: int) -> UInt8:
    table = np.arange(256, dtype=np.uint8)
    table[list(replaced)] = value
    return table[values] if replaced else values


def _neighbourhood(values: UInt8, extreme: np.ufunc, radius: int) -> UInt8:
    """Return the minimum or maximum of the pixels within `radius` of each pixel, (H,W) uint8; fewer at the edges."""
    for axis in (0, 1):
        found = np.moveaxis(values.copy(), axis, 0)
        lines = np.moveaxis(values, axis, 0)
        for step in range(1, radius + 1):
            extreme(found[step:], lines[:-step], out=found[step:])
            extreme(found[:-step], lines[step:], out=found[:-step])
        values = np.moveaxis(found, 0, axis)
    return values
