"""Rank masks by how well a typical mistake explains what the out-of-fold model contradicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.errors import UsageError
from core.i18n import tr
from core.reporting import progress
from dataset.classes import IGNORE_INDEX, ClassMap, UInt8
from train.audit.evidence import log_probabilities, region_gain, shift_gain, swap_gain
from train.audit.folds import FOLDS

BATCH_VALUES = 2_000_000  # numbers that cleanlab processes at once
# Evidence that is not worth a unit, however quiet the others are: nats per pixel of swap and shift, score of a region.
FLOORS = (0.02, 0.01, 0.1)
MIN_GROUP = 20  # images of a group that are compared with each other rather than with all
Figures = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Suspicion:
    """One audited mask: its place in `data.pairs`, how suspicious it is (higher: more), and the best explanation.

    `quality` is cleanlab's score of the label, 0 to 1, by the share of pixels without a label issue.
    """

    index: int
    score: float
    explanation: str
    quality: float


def require_cleanlab() -> None:
    """Raise UsageError if the optional package is missing; called before training."""
    try:
        import cleanlab.segmentation.filter  # noqa: F401
    except ImportError:
        raise UsageError(tr("--audit-labels needs cleanlab: pip install cleanlab")) from None


def rank_masks(
    labels: UInt8,
    probabilities: npt.NDArray[np.float16],
    groups: Sequence[str | None],
    classes: ClassMap,
    order: Sequence[int] = (),
) -> list[Suspicion]:
    """Return all masks, the most suspicious first.

    `labels` (N,H,W) uint8 are class indices, 255 where ignored; `probabilities` (N,num_classes,H,W) are out-of-fold.
    Each kind of evidence is measured in units of its spread over the images of a group, so that a group that the model
    finds hard does not fill the list. `order` lists the indices so that the frames of a film follow each other: a model
    that was trained on a wrong mask repeats its mistake in the frames beside it.
    """
    issues, confusion = find_issues(labels, probabilities), _confusion(labels, probabilities)
    found = []
    for index in progress(range(len(labels)), len(labels), tr("judging masks"), tr("masks")):
        logs = log_probabilities(probabilities[index])
        swap, pair = swap_gain(labels[index], logs)
        shift, place = shift_gain(labels[index], logs)
        region, change = region_gain(labels[index], logs, confusion)
        found.append(((swap, shift, region), pair, place, change))
    evidence = [(np.array([row[0][kind] for row in found]), floor) for kind, floor in enumerate(FLOORS)]
    scores = np.stack([_relative(values, groups, floor) for values, floor in evidence])
    pairs, changes = [row[1] for row in found], [row[3] for row in found]
    scores[2, _learnt_from_neighbours(scores, pairs, changes, groups, order)] = 0
    known = (labels != IGNORE_INDEX).sum((1, 2))
    quality = 1 - issues.sum((1, 2)) / np.maximum(known, 1)
    ranked = []
    for index, (_, pair, place, change) in enumerate(found):
        texts = (_describe_swap(pair, classes), _describe_shift(place), _describe_region(change, classes))
        best = int(np.argmax(scores[:, index]))
        ranked.append(Suspicion(index, float(scores[best, index]), texts[best], float(quality[index])))
    return sorted(ranked, key=lambda suspicion: (-suspicion.score, suspicion.quality, suspicion.index))


def _learnt_from_neighbours(
    scores: Figures,
    pairs: Sequence[tuple[int, int] | None],
    changes: Sequence[tuple[int, int] | None],
    groups: Sequence[str | None],
    order: Sequence[int],
) -> list[int]:
    """Return the masks whose region is what a more suspicious mask beside it, with these classes exchanged, teaches."""
    found = []
    for place, index in enumerate(order):
        change = changes[index]
        beside = [order[near] for near in range(max(0, place - FOLDS), min(len(order), place + FOLDS + 1))]
        if (
            change is not None
            and groups[index] is not None
            and any(
                groups[other] == groups[index]
                and set(change) == set(pairs[other] or ())
                and scores[0, other] > scores[2, index]
                for other in beside
            )
        ):
            found.append(index)
    return found


def _confusion(labels: UInt8, probabilities: npt.NDArray[np.float16]) -> Figures:
    """Return (num_classes, num_classes): the share of the pixels of each labelled class that is predicted as each class."""
    classes = probabilities.shape[1]
    counts = np.zeros((classes, classes))
    for mask, predicted in zip(labels, probabilities, strict=True):
        known = mask != IGNORE_INDEX
        pairs = mask[known].astype(np.int64) * classes + predicted.argmax(0)[known]
        counts += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    shares: Figures = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return shares


def find_issues(labels: UInt8, probabilities: npt.NDArray[np.float16]) -> npt.NDArray[np.bool_]:
    """Return cleanlab's label issues (N,H,W) by confident learning; an ignored pixel is never one."""
    from cleanlab.segmentation.filter import find_label_issues

    given = labels.astype(np.int64)
    for index in range(len(given)):  # cleanlab knows no ignored pixels: they agree with the prediction
        ignored = labels[index] == IGNORE_INDEX
        given[index][ignored] = probabilities[index].argmax(0)[ignored]
    batch = max(BATCH_VALUES, int(np.prod(probabilities.shape[1:])))
    found: npt.NDArray[np.bool_] = find_label_issues(given, probabilities, batch_size=batch, n_jobs=1, verbose=False)
    return found


def _relative(values: Figures, groups: Sequence[str | None], floor: float) -> Figures:
    """Return values in units of the 90th percentile of their group, of all images where the group is small."""
    names = np.array([name or "" for name in groups])
    usual = max(float(np.quantile(values, 0.9)), floor)
    relative = values / usual
    for name in set(names.tolist()):
        members = names == name
        if name and members.sum() >= MIN_GROUP:  # at least half of what is usual: a quiet group has errors too
            relative[members] = values[members] / max(float(np.quantile(values[members], 0.9)), usual / 2)
    return relative


def _describe_swap(pair: tuple[int, int] | None, classes: ClassMap) -> str:
    if pair is None:
        return ""
    return tr("{first} and {second} are exchanged", first=classes.names[pair[0]], second=classes.names[pair[1]])


def _describe_shift(place: tuple[int, int]) -> str:
    return tr("the mask is moved by {down:+d} down, {right:+d} right (in pixels of the input size)",
              down=place[0], right=place[1])  # fmt: skip


def _describe_region(change: tuple[int, int] | None, classes: ClassMap) -> str:
    if change is None:
        return ""
    return tr("a region labelled {given} looks like {predicted}",
              given=classes.names[change[0]], predicted=classes.names[change[1]])  # fmt: skip
