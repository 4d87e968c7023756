"""Fill polygons: a pixel belongs to a polygon if its centre is inside.

Coordinates are continuous: the image covers (0, 0) to (width, height), and the centre of the top left pixel is at
(0.5, 0.5). This is the convention of COCO, labelme, YOLO and CVAT. A centre exactly on an edge belongs to the polygon
on its right or below, so that polygons with a common edge neither overlap nor leave a gap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.i18n import tr, trn
from dataset.classes import InvalidFileError

Bool = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]

MAX_COORDINATE = 1e7  # pixels; larger values come from damaged files, and would lose the precision of a pixel
MAX_CROSSINGS = 1 << 23  # of edges with rows of pixels, of which each takes about 100 bytes; an outline has far fewer
ELLIPSE_TOLERANCE = 0.05  # pixels between an ellipse and the polygon that replaces it


@dataclass(frozen=True)
class Region:
    """Pixels of one shape: a rectangle (h,w) bool of the image whose top left pixel is (top, left)."""

    top: int
    left: int
    pixels: Bool

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the rectangle in the image."""
        height, width = self.pixels.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    def draw(self, height: int, width: int) -> Bool:
        """Return the shape as (height,width) bool."""
        canvas = np.zeros((height, width), np.bool_)
        canvas[self.window] = self.pixels
        return canvas


def as_points(values: object) -> Points:
    """Return the corners (N,2) float64 as x, y of a list of pairs or of a flat list x1, y1, x2, y2, ...

    Raises InvalidFileError for anything but at least three corners of finite numbers.
    """
    try:
        points = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InvalidFileError((tr("corners as numbers x, y"), tr("other values"))) from None
    if points.ndim == 1 and points.size % 2 == 0:
        points = points.reshape(-1, 2)
    if points.ndim != 2 or points.shape[1] != 2:
        expected = tr("corners as numbers x, y")
        raise InvalidFileError((expected, trn("{count} number", "{count} numbers", points.size)))
    if len(points) < 3:
        raise InvalidFileError((tr("a polygon of at least 3 corners"), str(len(points))))
    if not np.isfinite(points).all() or np.abs(points).max() > MAX_COORDINATE:
        worst = points[~(np.abs(points) <= MAX_COORDINATE)][0]
        raise InvalidFileError((tr("coordinates of an image"), f"{worst:g}"))
    return points


def fill(rings: Sequence[Points], height: int, width: int) -> Region:
    """Return the pixels of an image of this size that are inside the rings (N,2): in an odd number of them.

    A ring inside another one is therefore a hole, also if both are one ring that a bridge connects. What lies outside
    the image is cut off. Raises InvalidFileError for so many long edges that they would fill the memory.
    """
    starts = np.concatenate(rings)
    ends = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    downwards = starts[:, 1:] <= ends[:, 1:]  # one direction, so that a bridge and its way back cancel exactly
    (x0, y0), (x1, y1) = np.where(downwards, starts, ends).T, np.where(downwards, ends, starts).T
    first = np.clip(np.ceil(y0 - 0.5), 0, height).astype(np.int64)
    rows_of_edge = np.clip(np.ceil(y1 - 0.5), 0, height).astype(np.int64) - first
    if (crossed := int(rows_of_edge.sum())) > MAX_CROSSINGS:
        expected = tr("an outline that crosses at most {limit:,} rows of pixels", limit=MAX_CROSSINGS)
        raise InvalidFileError((expected, f"{crossed:,}"))
    edge = np.repeat(np.arange(len(first)), rows_of_edge)
    if not edge.size:
        return Region(0, 0, np.zeros((0, 0), np.bool_))
    # A row for each edge and each line of pixel centres that it crosses.
    row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(rows_of_edge) - rows_of_edge, rows_of_edge)
    crossing = x0[edge] + (row + 0.5 - y0[edge]) * ((x1 - x0)[edge] / (y1 - y0)[edge])
    column = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)
    top, left = int(row.min()), int(column.min())
    shape = int(row.max()) - top + 1, int(column.max()) - left + 1
    places, crossings = np.unique((row - top) * shape[1] + column - left, return_counts=True)
    inside = np.zeros(shape, np.bool_)
    inside.ravel()[places[crossings % 2 == 1]] = True
    np.logical_xor.accumulate(inside, axis=1, out=inside)
    return Region(top, left, inside[:, : width - left])


def unite(regions: Sequence[Region]) -> Region:
    """Return the pixels that are in any of the regions."""
    regions = [region for region in regions if region.pixels.size]
    if not regions:
        return Region(0, 0, np.zeros((0, 0), np.bool_))
    top, left = min(region.top for region in regions), min(region.left for region in regions)
    bottom = max(region.window[0].stop for region in regions)
    right = max(region.window[1].stop for region in regions)
    united = np.zeros((bottom - top, right - left), np.bool_)
    for region in regions:
        height, width = region.pixels.shape
        united[region.top - top :, region.left - left :][:height, :width] |= region.pixels
    return Region(top, left, united)


def crop(pixels: Bool, top: int, left: int, height: int, width: int) -> Region:
    """Return pixels (h,w) bool placed at (top, left) of an image, without what lies outside of it."""
    rows = slice(max(0, -top), max(0, min(pixels.shape[0], height - top)))
    columns = slice(max(0, -left), max(0, min(pixels.shape[1], width - left)))
    return Region(max(0, top), max(0, left), pixels[rows, columns])


def count_outside(points: Points, height: int, width: int) -> int:
    """Return how many corners lie outside the image by more than a pixel, which is more than rounding."""
    low, high = np.array([-1.0, -1.0]), np.array([width + 1.0, height + 1.0])
    return int(((points < low) | (points > high)).any(axis=1).sum())


def rectangle(x0: float, y0: float, x1: float, y1: float) -> Points:
    """Return the corners (4,2) of an upright rectangle."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float64)


def ellipse(x: float, y: float, radius_x: float, radius_y: float) -> Points:
    """Return a polygon (N,2) that differs from an upright ellipse by at most `ELLIPSE_TOLERANCE`.

    Raises InvalidFileError for a radius that no image has: its number of corners would be endless.
    """
    wrong = next((radius for radius in (radius_x, radius_y) if not abs(radius) <= MAX_COORDINATE), None)
    if wrong is not None:
        raise InvalidFileError((tr("coordinates of an image"), f"{wrong:g}"))
    longest = max(radius_x, radius_y, 1.0)
    count = max(8, math.ceil(math.pi / math.acos(1 - ELLIPSE_TOLERANCE / longest)))
    angles = np.arange(count) * (2 * math.pi / count)
    return np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], axis=1)


def rotate(points: Points, degrees: float, x: float, y: float) -> Points:
    """Return the points turned clockwise, as seen in the image, around (x, y)."""
    angle = math.radians(degrees)
    turn = np.array([(math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))])
    turned: Points = (points - (x, y)) @ turn + (x, y)
    return turned
