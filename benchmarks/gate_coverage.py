"""How often the promotion gate's interval covers the true gain, in simulated studies whose frames depend on each other.

    python benchmarks/gate_coverage.py                      # 1,000 studies of each kind
    python benchmarks/gate_coverage.py --studies 4000 --groups 5 10 30 --confidence 0.9
    python benchmarks/gate_coverage.py --slices 10      # how often slices refuse equal models, and find worse ones

A study draws groups (films) from a population. A film has its own mix of five classes (the rarest 2 % on average, and
absent from many films) and its own difficulty for each class, which both models feel, and each model in its own way;
frames vary around their film. The interval is `segmentation.intervals.gain_interval` over the counts of all frames. The
true gain is that of the population: of 100,000 films.

With --slices, each film belongs to one slice ("films", as of directories), or each of its frames to a random one
("frames", as of brightness). The two models are equal; or the second is better by GAIN, but worse on one of the slices.
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
from registry.judging.slices import Slice, measure_slices
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
LOSSES = (0.25, 0.5, 1.0)  # logits that the second model loses on a slice


def film_sizes(random: np.random.Generator, groups: int, kind: str) -> NDArray[np.int64]:
    """Return the number of frames of each film; unequal ones differ by a factor of 10 and more."""
    if kind == "equal":
        return np.full(groups, FRAMES)
    return np.maximum(2, np.round(random.lognormal(np.log(FRAMES), 0.8, groups))).astype(np.int64)


def study(
    random: np.random.Generator, sizes: NDArray[np.int64], gain: float | NDArray[np.float64] = GAIN
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the counts of both models, (2, frames, K + 1, K + 1), and the film of each frame, (frames,).

    `gain` of the second model in logits: one for all frames, or (frames,).
    """
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
        found = np.round(
            labelled / (1 + np.exp(-(SKILL + np.asarray(gain)[..., None] * model + difficulty + own)))
        ).astype(np.int64)
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


def true_loss(random: np.random.Generator, loss: float, films: int = 10_000) -> float:
    """Return the mIoU that the second model loses on a slice by `loss` logits."""
    total = np.zeros((2, len(SHARES) + 1, len(SHARES) + 1), np.int64)
    for _ in range(max(1, films // 1000)):
        total += study(random, film_sizes(random, 1000, "equal"), -loss)[0].sum(1)
    return float(np.diff(metric_of_counts("miou", total))[0])


def refusals(
    random: np.random.Generator, by: str, slices: int, groups: int, studies: int, confidence: float, loss: float | None
) -> tuple[float, float]:
    """Return the fraction of studies in which a slice is degraded: with this confidence for each, and for all together.

    `groups` of each slice. `loss` in logits of the second model on the first slice; None: the models are equal. With a
    loss, only the first slice counts.
    """
    alone = together = 0
    for _ in range(studies):
        sizes = film_sizes(random, groups * slices if by == "films" else groups, "equal")
        frames = int(sizes.sum())
        film = np.repeat(np.arange(len(sizes)), sizes)
        slice_of = film % slices if by == "films" else random.integers(0, slices, frames)
        gain = np.zeros(frames) if loss is None else np.where(slice_of == 0, -loss, GAIN)
        counts, _ = study(random, sizes, gain)
        names = tuple(map(str, film))
        old, new = (EvaluationResult(names, names, CLASSES, one, 0.0) for one in counts)
        parts = [
            Slice("benchmark", str(part), frozenset(np.flatnonzero(slice_of == part).tolist()))
            for part in range(slices)
        ]
        shown = parts if loss is None else parts[:1]
        found = measure_slices(parts, old, new, range(frames), "miou", confidence)
        together += any(one.degraded for one in found[: len(shown)])
        intervals = [
            gain_interval(p.of(old, range(frames)), p.of(new, range(frames)), "miou", confidence) for p in shown
        ]
        alone += any(interval is not None and interval[1] < 0 for interval in intervals)
    return alone / studies, together / studies


def print_slices(random: np.random.Generator, options: argparse.Namespace) -> None:
    rows = []
    for loss in (None, *LOSSES):
        shown = "equal models" if loss is None else f"mIoU {true_loss(random, loss):+.3f} on one slice"
        for by in ("films", "frames"):
            for groups in options.groups:
                found = refusals(random, by, options.slices, groups, options.studies, options.confidence, loss)
                rows.append([shown, by, groups, *(f"{share:.1%}" for share in found)])
    print(f"{options.studies} studies each, {options.slices} slices, {options.confidence:.0%} intervals; refused:")
    print(format_table(["truth", "slices of", "groups of a slice", "each alone", "all together (the gate)"], rows))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--groups", type=int, nargs="+", default=[5, 10, 30])
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slices", type=int, metavar="N", help="simulate N slices")
    options = parser.parse_args(arguments)
    random, rows = np.random.default_rng(options.seed), []
    if options.slices:
        print_slices(random, options)
        return
    for kind in SIZES:
        truth = true_gain(random, kind)
        for groups in options.groups:
            found = coverage(random, kind, groups, options.studies, options.confidence, truth)
            rows.append([groups, kind, *(f"{found[metric]:.1%}" for metric in METRICS)])
    print(f"{options.studies} studies each, {options.confidence:.0%} interval; true gain covered:")
    print(format_table(["groups", "sizes", "mIoU", "accuracy"], rows))


if __name__ == "__main__":
    main()
