"""Small grey copies of images, by which neighbours in a film and near-duplicates are recognized."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from dataset.classes import UInt8
from dataset.splitting.names import Frame

SIDE = 32  # pixels
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # as Pillow converts RGB to grey
MIN_PAIRS = 4  # neighbours in a sequence, fewer tell nothing
ALIKE, NEARER = 0.7, 0.58  # chances of _Evidence in a film; 0.5: numbers say nothing
SURE = 5.0  # standard errors of both together
CORRELATED = 0.3  # median correlation of neighbours in a film; that of unrelated images is about 0
RANDOM_PAIRS = 2000
Vectors = npt.NDArray[np.float32]


def make_thumbnail(image: npt.NDArray[np.generic]) -> UInt8:
    """Return an image (H,W) or (H,W,C) of any number type as (32,32) uint8 grey, of its first three bands."""
    side, is_rgb = min(image.shape[:2]), image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    step = max(1, side // (SIDE * (32 if is_rgb else 8)))  # of large images not every pixel is needed
    image = image[::step, ::step]
    if is_rgb:
        grey = Image.fromarray(np.ascontiguousarray(image)).convert("L")
    else:
        plane = np.asarray(image, np.float32)
        if plane.ndim == 3:
            plane = plane[..., :3] @ LUMINANCE if plane.shape[2] >= 3 else plane[..., 0]
        plane = np.nan_to_num(plane, nan=0.0, posinf=0.0, neginf=0.0)
        low, high = np.quantile(plane, (0.01, 0.99))
        scaled = (plane - low) * (255 / (high - low)) if high > low else np.zeros_like(plane)
        grey = Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))
    factor = max(1, side // step // (8 * SIDE))
    if factor > 1:
        grey = grey.reduce(factor)
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX))


def find_films(frames: Mapping[str, Frame], thumbnails: Mapping[str, UInt8]) -> dict[str, bool]:
    """Return sequence -> whether it is a film: neighbours are clearly more alike than two images at random.

    They must also be more alike than the next but one, else the images are merely sorted by what they show. Sequences
    that leave it open are judged by all together. Deterministic, whatever the order of the names.
    """
    sequences: dict[str, list[str]] = {}
    for name in sorted((name for name in frames if name in thumbnails), key=lambda name: (frames[name], name)):
        sequences.setdefault(frames[name].sequence, []).append(name)
    everything = sorted(thumbnails)
    if len(everything) <= MIN_PAIRS:
        return dict.fromkeys(sequences, False)
    raw = _vectors([thumbnails[name] for name in everything])
    centred = _normalized(raw - raw.mean(axis=0))  # what all have in common says nothing
    baseline = _random_similarities(centred)
    row = {name: index for index, name in enumerate(everything)}
    triples = {sequence: _triples([row[name] for name in members]) for sequence, members in sequences.items()}
    together = _measure(centred, np.concatenate([_triples([]), *triples.values()]), baseline)
    found = {sequence: _measure(centred, own, baseline) for sequence, own in triples.items()}
    return {
        sequence: evidence.is_film or (together.is_film and not evidence.speaks_against)
        for sequence, evidence in found.items()
    }


@dataclass(frozen=True)
class _Evidence:
    """How alike neighbours are, from 0 to 1, where 0.5 is what chance gives."""

    count: int  # neighbours
    above: float  # chance that neighbours are more alike than two images at random
    above_error: float
    nearer: float  # chance that a neighbour is more alike than the next one but one
    correlation: float  # median of the neighbours

    @property
    def is_film(self) -> bool:
        """Whether both are clearly more than chance, alone for long sequences, together for short ones."""
        if self.count < MIN_PAIRS or self.above < ALIKE or self.nearer < NEARER or self.correlation < CORRELATED:
            return False
        above = (self.above - 0.5) / self.above_error
        nearer = (self.nearer - 0.5) * 2 * math.sqrt(self.count)
        return above >= 2 and above + nearer >= SURE

    @property
    def speaks_against(self) -> bool:
        """Whether a sequence is so unlike a film that other sequences cannot make it one."""
        return self.count >= MIN_PAIRS and (self.above < (ALIKE + 0.5) / 2 or self.nearer < 0.5)


def _triples(order: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return (N,3): each image with its neighbour and the next one but one."""
    return np.array(list(zip(order, order[1:], order[2:], strict=False)), np.int64).reshape(-1, 3)


def _measure(centred: Vectors, triples: npt.NDArray[np.int64], baseline: Vectors) -> _Evidence:
    """Return how alike neighbours are in triples (N,3) of images that follow each other."""
    if not len(triples):
        return _Evidence(0, 0.5, 1.0, 0.5, 0.0)
    frame, neighbour, further = (centred[column] for column in triples.T)
    near, far = (frame * neighbour).sum(axis=1), (frame * further).sum(axis=1)
    ranks = np.searchsorted(baseline, near, "left") + np.searchsorted(baseline, near, "right")
    above = float(ranks.mean()) / (2 * len(baseline))
    error = math.sqrt((len(near) + len(baseline) + 1) / (12 * len(near) * len(baseline)))  # of the rank statistic
    nearer = float(((near > far) + 0.5 * (near == far)).mean())
    return _Evidence(len(near), above, error, nearer, float(np.median(near)))


def _vectors(thumbnails: Sequence[UInt8]) -> Vectors:
    """Return (N,64) float32: thumbnails at 8x8, which small movements of the camera hardly change."""
    stack = np.stack(thumbnails).astype(np.float32)
    return np.asarray(stack.reshape(len(stack), 8, SIDE // 8, 8, SIDE // 8).mean(axis=(2, 4)).reshape(len(stack), -1))


def _normalized(vectors: Vectors) -> Vectors:
    """Return vectors of mean 0 and length 1, whose products are correlations; 0 for images without contrast."""
    centred = vectors - vectors.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(np.where(length > 1e-3, centred / np.maximum(length, 1e-3), 0), np.float32)


def _random_similarities(vectors: Vectors) -> Vectors:
    """Return the sorted similarities of random pairs, always the same ones."""
    rng = np.random.default_rng(0)
    first = rng.integers(0, len(vectors), RANDOM_PAIRS)
    second = (first + rng.integers(1, len(vectors), RANDOM_PAIRS)) % len(vectors)
    return np.sort((vectors[first] * vectors[second]).sum(axis=1))
