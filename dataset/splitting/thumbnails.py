"""Small grey copies of images, by which neighbours in a film and near-duplicates are recognized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from PIL import Image

from dataset.classes import UInt8
from dataset.splitting.names import Frame

SIDE = 32  # pixels
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # as Pillow converts RGB to grey
MIN_PAIRS = 4  # neighbours in a sequence, fewer tell nothing
ALIKE = 0.75  # chance that neighbours are more alike than two images at random (0.5: no difference)
RANDOM_PAIRS = 2000
Vectors = npt.NDArray[np.float32]


def make_thumbnail(image: npt.NDArray[np.generic]) -> UInt8:
    """Return an image (H,W) or (H,W,C) of any number type as (32,32) uint8 grey, of its first three bands."""
    height, width = image.shape[:2]
    factor = max(1, min(height, width) // (8 * SIDE))
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        grey = Image.fromarray(image).convert("L")
    else:
        plane = np.asarray(image[::factor, ::factor], np.float32)
        if plane.ndim == 3:
            plane = plane[..., :3] @ LUMINANCE if plane.shape[2] >= 3 else plane[..., 0]
        plane = np.nan_to_num(plane, nan=0.0, posinf=0.0, neginf=0.0)
        low, high = np.quantile(plane, (0.01, 0.99))
        scaled = (plane - low) * (255 / (high - low)) if high > low else np.zeros_like(plane)
        grey, factor = Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8)), 1
    if factor > 1:
        grey = grey.reduce(factor)
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX))


def find_films(frames: Mapping[str, Frame], thumbnails: Mapping[str, UInt8]) -> dict[str, bool]:
    """Return sequence -> whether it is a film: neighbours are clearly more alike than two images at random.

    Sequences too short to tell are judged together. Deterministic, whatever the order of the names.
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
    pairs = {
        sequence: np.array([(row[a], row[b]) for a, b in pairwise(members)], np.int64).reshape(-1, 2)
        for sequence, members in sequences.items()
    }
    short = [sequence for sequence, found in pairs.items() if len(found) < MIN_PAIRS]
    together = np.concatenate([pairs[sequence] for sequence in short]) if short else np.empty((0, 2), np.int64)
    verdicts = {sequence: _is_film(centred, found, baseline) for sequence, found in pairs.items()}
    return verdicts | dict.fromkeys(short, _is_film(centred, together, baseline))


def _is_film(centred: Vectors, pairs: npt.NDArray[np.int64], baseline: Vectors) -> bool:
    """Return whether these pairs of neighbours (N,2) are frames of a film."""
    if len(pairs) < MIN_PAIRS:
        return False
    before, after = pairs.T
    similarity = (centred[before] * centred[after]).sum(axis=1)
    ranks = np.searchsorted(baseline, similarity, "left") + np.searchsorted(baseline, similarity, "right")
    above = ranks.mean() / (2 * len(baseline))
    # With few neighbours, chance alone gives values beside 0.5: three standard errors of the rank statistic.
    error = np.sqrt((len(similarity) + len(baseline) + 1) / (12 * len(similarity) * len(baseline)))
    return bool(above >= max(ALIKE, 0.5 + 3 * error))


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
