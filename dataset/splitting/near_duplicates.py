"""Find images that show the same in two splits: resized, compressed again, mirrored, or with the edges cut off.

Small thumbnails give candidates; a candidate counts if, once aligned, also the fine structure of the thumbnails agrees.
Different images of one kind are alike in their coarse structure only: the fine one correlates below 0.5, and above 0.8
for copies (benchmarks/near_duplicates.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from core.i18n import tr
from core.reporting import progress
from dataset.classes import UInt8
from dataset.splitting.thumbnails import SIDE

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
MIN_COARSE = 0.7  # correlation of candidates
MIN_FINE = 0.7  # correlation of the fine structure of aligned thumbnails
CANDIDATES, MORE_CANDIDATES = 10, 80  # per image and turn; more only where most of the first ones are copies
COARSE_SIDE, FINE_SIDE = 8, 24  # pixels
CENTRES = (0.92,)  # parts of the other image that candidates are also compared with
# Parts of a side, from 90 % on, that the edges leave when they are cut off: (size, start).
WINDOWS = ((1.0, 0.0), (0.95, 0.0), (0.95, 0.025), (0.95, 0.05), (0.9, 0.0), (0.9, 0.05), (0.9, 0.1))
LEAST_LENGTH = 1.0  # of a vector of grey values about their mean; a shorter one has no structure
ROWS, PAIRS = 512, 64  # worked on at a time, so that memory does not grow with the number of images


@dataclass(frozen=True, order=True)
class NearDuplicate:
    """An image of val or test, and the image of another split that shows the same; similarity of at most 1."""

    name: str
    other: str
    similarity: float


def find_near_duplicates(thumbnails: Mapping[str, UInt8], splits: Mapping[str, str]) -> list[NearDuplicate]:
    """Return the images of val and test with images of another split that show the same, most similar ones first.

    `thumbnails` are (32,32) uint8 by name, `splits` the split of
    each. Images without any structure match nothing.
    """
    names = sorted(thumbnails)
    split = np.array([splits[name] for name in names])
    if not names or (split == split[0]).all():
        return []
    pixels = np.stack([thumbnails[name] for name in names])
    found: dict[tuple[int, int], float] = {}
    for rows, columns, similarity, turn in progress(
        _similarities(pixels, split), None, tr("looking for near duplicates"), tr("blocks")
    ):
        for (one, other), score in _verify(pixels, rows, columns, similarity, turn).items():
            found[one, other] = max(found.get((one, other), 0.0), score)
    ordered = sorted(found.items(), key=lambda item: (item[0][0], -item[1], item[0][1]))
    return [NearDuplicate(names[one], names[other], round(score, 3)) for (one, other), score in ordered]


# --- candidates --------------------------------------------------------------------------------------------


def _similarities(pixels: UInt8, split: npt.NDArray[np.str_]) -> Iterator[tuple[Indices, Indices, Floats, int]]:
    """Yield (images of val or test, images of other splits, their coarse similarity, turn of the latter)."""
    whole = _coarse(pixels, 1.0)
    centres = [_coarse(pixels, size) for size in CENTRES]
    turned = [[_coarse(_turn(pixels, turn), size) for size in (1.0, *CENTRES)] for turn in range(4)]
    # Each pair of val and test is looked at once: from test.
    for own, others in (("val", ("train",)), ("test", ("train", "val"))):
        rows, columns = np.flatnonzero(split == own), np.flatnonzero(np.isin(split, others))
        for start in range(0, len(rows) if len(columns) else 0, ROWS):
            part = rows[start : start + ROWS]
            for turn, (full, *cut) in enumerate(turned):
                similarity = whole[part] @ full[columns].T
                for centre, other in zip(centres, cut, strict=True):
                    similarity = np.maximum(similarity, whole[part] @ other[columns].T)
                    similarity = np.maximum(similarity, centre[part] @ full[columns].T)
                yield part, columns, similarity, turn


def _verify(
    pixels: UInt8, rows: Indices, columns: Indices, similarity: Floats, turn: int
) -> dict[tuple[int, int], float]:
    """Return (row, column) -> score of the pairs that show the same, among the most similar columns of each row.

    Where most of the first ones do, as in a film, further ones are looked at, so that they do not hide a copy.
    """
    count = min(MORE_CANDIDATES, similarity.shape[1])
    best = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
    best = np.take_along_axis(best, np.argsort(-np.take_along_axis(similarity, best, axis=1), axis=1), axis=1)
    near = np.take_along_axis(similarity, best, axis=1) >= MIN_COARSE
    found: dict[tuple[int, int], float] = {}
    crowded = np.ones(len(rows), bool)
    for places in (slice(0, CANDIDATES), slice(CANDIDATES, count)):
        row, place = np.nonzero(near[:, places] & crowded[:, None])
        column = best[:, places][row, place]
        confirmed = np.zeros(len(rows), np.int64)
        for start in range(0, len(row), PAIRS):
            part = slice(start, start + PAIRS)
            first, second = rows[row[part]], columns[column[part]]
            scores = _compare(pixels[first].astype(np.float32), _turn(pixels[second], turn).astype(np.float32))
            same = scores >= MIN_FINE
            np.add.at(confirmed, row[part], same)
            kept = zip(first[same].tolist(), second[same].tolist(), scores[same].tolist(), strict=True)
            found |= {(one, other): score for one, other, score in kept}
        crowded = confirmed >= CANDIDATES / 2
    return found


def _coarse(pixels: UInt8, size: float) -> Floats:
    """Return (N,64) of mean 0 and length 1: the central part of this size at 8x8."""
    window = _window(size, (1 - size) / 2, COARSE_SIDE)
    parts = (pixels[start : start + ROWS].astype(np.float32) for start in range(0, len(pixels), ROWS))
    small = (np.asarray(window @ part @ window.T, np.float32) for part in parts)
    return np.concatenate([_normalized(part.reshape(len(part), -1)) for part in small])


def _turn(pixels: UInt8, turn: int) -> UInt8:
    """Return images (N,H,W) as they are (0), mirrored (1), upside down (2) or both (3)."""
    return pixels[:, :: -1 if turn & 2 else 1, :: -1 if turn & 1 else 1]


# --- alignment ---------------------------------------------------------------------------------------------


def _compare(first: Floats, second: Floats) -> Floats:
    """Return how alike the fine structure of pairs (N,32,32) is, (N,), in the best alignment of one within the other."""
    return np.maximum(_align(first, second), _align(second, first))


def _align(larger: Floats, smaller: Floats) -> Floats:
    """Return the best correlation of the fine structure of `smaller` with that of a part of `larger`."""
    parts = _fine_parts(larger, WINDOWS)
    whole = _normalized(_fine_parts(smaller, WINDOWS[:1])[:, 0])
    products = (parts @ whole[:, :, None])[:, :, 0]
    variance = np.einsum("npv,npv->np", parts, parts) - parts.shape[2] * parts.mean(axis=2) ** 2
    length = np.sqrt(np.maximum(variance, 0))
    correlation = np.where(length > LEAST_LENGTH, products / np.maximum(length, LEAST_LENGTH), 0)
    return np.asarray(correlation.max(axis=1), np.float32)


def _fine_parts(images: Floats, windows: Sequence[tuple[float, float]]) -> Floats:
    """Return parts of images (N,32,32) at 24x24 less their blur, (N,P,576): of every window along each axis."""
    sharp = np.concatenate([_window(size, start, FINE_SIDE) for size, start in windows])  # (W*24,32)
    blurred = np.concatenate([_blur() @ _window(size, start, FINE_SIDE) for size, start in windows])
    # S I S' - B I B' as one product of (S I, B I) and (S, -B)': many small ones are several times slower.
    rows = np.concatenate([sharp @ images, blurred @ images], axis=2).reshape(-1, 2 * SIDE)
    fine = rows @ np.concatenate([sharp, -blurred], axis=1).T
    count = len(windows)
    fine = fine.reshape(len(images), count, FINE_SIDE, count, FINE_SIDE).transpose(0, 1, 3, 2, 4)
    return np.asarray(fine.reshape(len(images), count**2, FINE_SIDE**2), np.float32)


def _normalized(vectors: Floats) -> Floats:
    """Return vectors (N,M) of mean 0 and length 1; 0 for images without structure."""
    vectors = vectors - vectors.mean(axis=1, keepdims=True)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(np.where(length > LEAST_LENGTH, vectors / np.maximum(length, LEAST_LENGTH), 0), np.float32)


@cache
def _window(size: float, start: float, count: int) -> Floats:
    """Return the matrix (count,32) that averages a part of 32 pixels to `count` pixels."""
    edges = (start + np.linspace(0, size, count + 1)) * SIDE
    covered = [np.clip(np.minimum(edges[1:], j + 1) - np.maximum(edges[:-1], j), 0, None) for j in range(SIDE)]
    return np.asarray(np.stack(covered, axis=1) * count / (size * SIDE), np.float32)


@cache
def _blur() -> Floats:
    """Return the matrix (24,24) that averages five neighbours; edge pixels are repeated."""
    matrix = np.zeros((FINE_SIDE, FINE_SIDE), np.float32)
    for row in range(FINE_SIDE):
        for shift in range(-2, 3):
            matrix[row, min(max(row + shift, 0), FINE_SIDE - 1)] += 0.2
    return matrix
