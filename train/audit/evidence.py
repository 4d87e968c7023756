"""Explanations for a mask that the out-of-fold model contradicts, each with what it would gain; higher is more suspicious.

A model's everyday errors (blurred boundaries, rare classes, large regions of similar classes) contradict nearly every
mask, so the plain probability of the given labels ranks hard images, not wrong masks. An explanation is evidence only
where another mask, made from the given one by a typical mistake, fits the predictions clearly better.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt

from dataset.classes import IGNORE_INDEX, UInt8

Plane = npt.NDArray[np.float32]
Stack = npt.NDArray[np.float32]  # (num_classes, H, W)
FLOOR = 1e-3  # of a probability: one confident pixel must not outweigh a thousand
RING = 3  # pixels: width of the surroundings of a region
MIN_REGION = 0.0005  # of the image: smallest region
CHANCE = 0.3  # mean probability of a region below which the model does not know its class
SHIFT_WIDTH = 256  # pixels: a wider mask is searched for shifts at every second, third, ... pixel
SHIFT_SHARE = 0.025  # of the image's width: how far a mask may have moved
TILES, TILES_OUT = (4, 5), 0.05  # rows and columns of tiles; share of them, those that gain most, that does not count


def log_probabilities(probabilities: npt.NDArray[np.float16]) -> Stack:
    """Return logarithms of (num_classes,H,W) probabilities, none below that of FLOOR."""
    return np.log(np.maximum(probabilities.astype(np.float32), FLOOR))


def swap_gain(labels: UInt8, logs: Stack) -> tuple[float, tuple[int, int] | None]:
    """Return what exchanging two classes of the mask gains, in nats per labelled pixel, and the classes.

    Both must fit better after the exchange: a class that the model merely confuses with another gains on one side only.
    """
    classes = len(logs)
    flat, known = labels.ravel(), max(1, int((labels != IGNORE_INDEX).sum()))
    # sums[a, b]: log-probability of class b over the pixels that are labelled a
    sums = np.stack([logs[:, labels == a].sum(1) if (flat == a).any() else np.zeros(classes) for a in range(classes)])
    change = sums - np.diagonal(sums)[:, None]
    best, pair = 0.0, None
    for a, b in combinations(np.unique(flat[flat != IGNORE_INDEX]).tolist(), 2):
        if min(change[a, b], change[b, a]) > 0 and (gain := float(change[a, b] + change[b, a]) / known) > best:
            best, pair = gain, (a, b)
    return best, pair


def shift_gain(labels: UInt8, logs: Stack) -> tuple[float, tuple[int, int]]:
    """Return what moving the mask gains, in nats per labelled pixel, and how far its content seems to have moved.

    The second value is (down, right) in pixels. The border, as wide as the largest shift, is left out, and so are the
    tiles that gain most: a moved mask is wrong everywhere, whereas one boundary that the model misplaces is not.
    """
    stride = -(-labels.shape[1] // SHIFT_WIDTH)
    labels, logs = labels[::stride, ::stride], logs[:, ::stride, ::stride]
    height, width = labels.shape
    reach = max(2, min(round(SHIFT_SHARE * width), min(height, width) // 4))
    inner = logs[:, reach : height - reach, reach : width - reach]
    rows, columns = np.indices(inner.shape[1:])
    tile = rows * TILES[0] // inner.shape[1] * TILES[1] + columns * TILES[1] // inner.shape[2]

    def fit(down: int, right: int) -> tuple[Plane, npt.NDArray[np.bool_]]:
        moved = labels[reach + down : height - reach + down, reach + right : width - reach + right]
        known = moved != IGNORE_INDEX
        return inner[np.where(known, moved, 0), rows, columns], known

    stay, known_here = fit(0, 0)
    best, place = 0.0, (0, 0)
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            there, known = fit(down, right)
            both = known & known_here
            gains = np.bincount(tile[both], (there - stay)[both], TILES[0] * TILES[1])
            counted = np.count_nonzero(gains) - round(TILES_OUT * np.count_nonzero(gains))  # 0: without a boundary
            gain = float(np.sort(gains[gains != 0])[:counted].sum()) / max(1, int(both.sum()))
            if gain > best:
                best, place = gain, (down * stride, right * stride)
    return best, place


def region_gain(labels: UInt8, logs: Stack, confusion: npt.NDArray[np.float64]) -> tuple[float, tuple[int, int] | None]:
    """Return how clearly one region was given a wrong class, such as an erased object, and (given, predicted class).

    A candidate is a connected region of one predicted class that the mask does not have there. What speaks for a mistake
    of the mask: pixels that gain much on average, a confident model, no label of that class beside the region (else
    only a boundary differs), and two classes that the model seldom confuses: `confusion[given, predicted]` is that share
    of the pixels of all masks, 0 to 1. The area hardly counts: the pixels of a region are not independent, and the
    largest regions are those of similar classes, such as walls and fences.
    """
    from scipy import ndimage

    predicted, known = logs.argmax(0), labels != IGNORE_INDEX
    given = np.take_along_axis(logs, np.where(known, labels, 0)[None].astype(np.int64), 0)[0]
    gain, differs = logs.max(0) - given, known & (predicted != labels)
    square, best, change = np.ones((3, 3), bool), 0.0, None
    for value in np.unique(predicted[differs]).tolist():
        regions, _ = ndimage.label(ndimage.binary_opening(differs & (predicted == value), square))
        for number, box in enumerate(ndimage.find_objects(regions), 1):
            near = tuple(slice(max(0, side.start - RING), side.stop + RING) for side in box)
            region = regions[near] == number
            area = int(region.sum())
            if area < MIN_REGION * labels.size:
                continue
            ring = ndimage.binary_dilation(region, square, iterations=RING) & ~region & known[near]
            beside = float((labels[near][ring] == value).mean()) if ring.any() else 1.0
            instead = int(np.bincount(labels[near][region]).argmax())
            confidence = max(0.0, float(np.exp(logs[value][near][region]).mean()) - CHANCE)
            clear = area**0.1 * float(gain[near][region].mean()) * confidence**2 * (1 - beside) ** 3
            score = float(clear / (confusion[instead, value] + FLOOR) ** 0.25)
            if score > best:
                best, change = score, (instead, int(value))
    return best, change
