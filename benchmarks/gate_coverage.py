"""How often the promotion gate's interval covers the true gain, in simulated studies whose frames depend on each other.

    python benchmarks/gate_coverage.py                      # 1,000 studies of each kind
    python benchmarks/gate_coverage.py --studies 4000 --groups 5 10 30 --confidence 0.9

A study draws groups (films) from a population. A film has its own mix of five classes (the rarest 2 % on average, and
absent from many films) and its own difficulty for each class, which both models feel, and each model in its own way;
frames vary around their film. The interval is `segmentation.intervals.gain_interval` over the counts of all frames. The
true gain is that of the population: of 100,000 films.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from core.console import format_table
from dataset.classes import build_classes
from segmentation.evaluation import EvaluationResult, metric_of_counts
from segmentation.intervals import gain_interval

CLASSES = build_classes((i, name, None, False) for i, name in enumerate(("road", "building", "tree", "car", "cyclist")))
SHARES = np.array([0.45, 0.30, 0.15, 0.08, 0.02])  # of the pixels
SKILL = np.array([2.5, 2.0, 1.5, 0.8, 0.3])  # logit of the fraction of a class that the first model finds
GAIN = 0.15  # of the second model, in logits
FILM, OWN, FRAME, NOISE = 0.6, 0.35, 0.3, 0.2  # standard deviations in logits: of a film, of a model on it, of frames
PIXELS = 10_000  # of a frame
FRAMES = 12  # of a film; of unequal films the median
SIZES, METRICS = ("equal", "unequal"), ("miou", "accuracy")
POPULATION = 100_000  # films


def film_sizes(random: np.random.Generator, groups: int, kind: str) -> NDArray[np.int64]:
    """Return the number of frames of each film; unequal ones differ by a factor of 10 and more."""
    if kind == "equal":
        return np.full(groups, FRAMES)
    return np.maximum(2, np.round(random.lognormal(np.log(FRAMES), 0.8, groups))).astype(np.int64)


def study(random: np.random.Generator, sizes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the counts of both models, (2, frames, K + 1, K + 1), and the film of each frame, (frames,)."""
    classes, film = len(SHARES), np.repeat(np.arange(len(sizes)), sizes)
    mix = random.gamma(SHARES * 8, size=(len(sizes), classes))[film]
    area = random.gamma(np.maximum(mix * 6, 1e-3))
    labelled = np.round(PIXELS * area / area.sum(1, keepdims=True)).astype(np.int64)
    difficulty = random.normal(0, FILM, (len(sizes), classes))[film] + random.normal(0, FRAME, (len(film), classes))
    others = np.tile(SHARES, (classes, 1)) * (1 - np.eye(classes))
    others /= others.sum(1, keepdims=True)
    counts = np.zeros((2, len(film), classes + 1, classes + 1), np.int64)
    for model in range(2):
        own = random.normal(0, OWN, (len(sizes), classes))[film] + random.normal(0, NOISE, (len(film), classes))
        found = np.round(labelled / (1 + np.exp(-(SKILL + GAIN * model + difficulty + own)))).astype(np.int64)
        wrong = np.floor((labelled - found)[..., None] * others).astype(np.int64)
        counts[model, :, :classes, :classes] = wrong
        rest = labelled - wrong.sum(2)  # what rounding left over is correct too
        counts[model, :, range(classes), range(classes)] = rest.T
    return counts, film


def true_gain(random: np.random.Generator, kind: str, films: int = POPULATION) -> dict[str, float]:
    total = np.zeros((2, len(SHARES) + 1, len(SHARES) + 1), np.int64)
    for _ in range(max(1, films // 1000)):
        total += study(random, film_sizes(random, 1000, kind))[0].sum(1)
    return {name: float(np.diff(metric_of_counts(name, total))[0]) for name in METRICS}


def coverage(
    random: np.random.Generator, kind: str, groups: int, studies: int, confidence: float, truth: dict[str, float]
) -> dict[str, float]:
    """Return metric -> fraction of the studies whose interval covers the true gain."""
    hits = dict.fromkeys(METRICS, 0)
    for _ in range(studies):
        counts, film = study(random, film_sizes(random, groups, kind))
        names = tuple(map(str, film))
        before, after = (EvaluationResult(names, names, CLASSES, one, 0.0) for one in counts)
        for metric in METRICS:
            interval = gain_interval(before, after, metric, confidence)
            hits[metric] += interval is not None and interval[0] <= truth[metric] <= interval[1]
    return {metric: count / studies for metric, count in hits.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--groups", type=int, nargs="+", default=[5, 10, 30])
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    random, rows = np.random.default_rng(options.seed), []
    for kind in SIZES:
        truth = true_gain(random, kind)
        for groups in options.groups:
            found = coverage(random, kind, groups, options.studies, options.confidence, truth)
            rows.append([groups, kind, *(f"{found[metric]:.1%}" for metric in METRICS)])
    print(f"{options.studies} studies each, {options.confidence:.0%} interval; true gain covered:")
    print(format_table(["groups", "sizes", "mIoU", "accuracy"], rows))


if __name__ == "__main__":
    main()
