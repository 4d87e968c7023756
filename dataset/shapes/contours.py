"""Trace the outlines of a mask as polygons that `polygon.fill` turns into exactly the same pixels.

Contour lines come from contourpy, which matplotlib already installs: exact between pixel centres, with holes, in
compiled code. OpenCV (60 MB) traces through the centres of the border pixels instead, which loses half a pixel on each
side and draws objects of one pixel as a point.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
import numpy.typing as npt

from dataset.shapes.polygon import Bool, Points


def trace(mask: Bool) -> Iterator[list[Points]]:
    """Yield each connected part of a mask (H,W) bool as rings (N,2) of x, y: its outline, then its holes."""
    import contourpy

    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return
    top, left = int(rows[0]), int(columns[0])
    part = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1).astype(np.float64)
    height, width = part.shape
    # Lines lie halfway between a pixel centre inside and its neighbour outside: the pixel at `left` starts at x = left.
    generator = contourpy.contour_generator(
        np.arange(width) + (left - 0.5), np.arange(height) + (top - 0.5), part, fill_type=contourpy.FillType.OuterOffset
    )
    # One array of corners, and one of the bounds of its rings, for each part: what OuterOffset means.
    points, offsets = cast(tuple[list[Points], list[npt.NDArray[np.uint32]]], generator.filled(0.5, 2.0))
    for corners, bounds in zip(points, offsets, strict=True):
        yield [
            drop_straight(corners[start : end - 1])  # the last corner repeats the first one
            for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
        ]


def drop_straight(ring: Points) -> Points:
    """Return a ring (N,2) without the corners that lie on the line between their neighbours."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    corners: Points = ring[turns]
    return corners


def bridge(rings: list[Points]) -> Points:
    """Return one ring (N,2) for an outline and its holes: each hole is reached by a line that is walked twice.

    Formats without holes (COCO, labelme) need this; the line has no area, so that the pixels stay the same.
    """
    joined = rings[0]
    for hole in rings[1:]:
        start = int(hole[:, 0].argmin())
        near = int(((joined - hole[start]) ** 2).sum(axis=1).argmin())
        way = np.concatenate([hole[start:], hole[: start + 1]])
        joined = np.concatenate([joined[: near + 1], way, joined[near:]])
    return joined
