"""Divide the pairs into folds, so that every mask is predicted by a model that has seen neither it nor its neighbours."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

FOLDS = 3  # of the audit: each model trains on two thirds of the images
RUNS_PER_FOLD = 4  # consecutive runs that a fold gets where whole groups would be too few


def assign_folds(names: Sequence[str], groups: Sequence[str], folds: int = FOLDS) -> list[int]:
    """Return the fold of each name, 0 to `folds` - 1, of about equal sizes; it depends on names and groups only.

    Groups stay whole where there are at least two for each fold. Fewer groups, such as four films, would leave models
    that have never seen the scene that they judge: then each group is cut into runs of consecutive names, and only the
    ends of a run have neighbours in the training of its model.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for index in sorted(range(len(names)), key=lambda i: (groups[i], names[i])):
        members[groups[index]].append(index)
    units = list(members.values())
    if len(units) < 2 * folds:
        longest = max(1, math.ceil(len(names) / (folds * RUNS_PER_FOLD)))
        units = [run for unit in units for run in _cut(unit, longest)]
    else:
        units.sort(key=len, reverse=True)  # stable: large groups first, so that the small ones level the folds
    assigned = _fill_evenly([len(unit) for unit in units], folds)
    fold_of = [0] * len(names)
    for unit, fold in zip(units, assigned, strict=True):
        for index in unit:
            fold_of[index] = fold
    return fold_of


def _cut(unit: list[int], longest: int) -> list[list[int]]:
    """Cut a list into runs of about equal length, none longer than `longest`."""
    count = math.ceil(len(unit) / longest)
    ends = [round(i * len(unit) / count) for i in range(count + 1)]
    return [unit[start:end] for start, end in pairwise(ends)]


def _fill_evenly(sizes: Sequence[int], folds: int) -> list[int]:
    """Return the fold of each unit: in turn, each into the fold with the fewest images so far."""
    filled, assigned = [0] * folds, []
    for size in sizes:
        fold = filled.index(min(filled))
        assigned.append(fold)
        filled[fold] += size
    return assigned
