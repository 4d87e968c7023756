"""Divide the pairs into folds, so that every mask is predicted by a model that has not seen it."""

from __future__ import annotations

import re
from collections.abc import Sequence

FOLDS = 3  # of the audit: each model trains on two thirds of the images


def assign_folds(names: Sequence[str], groups: Sequence[str], folds: int = FOLDS) -> list[int]:
    """Return the fold of each name, 0 to `folds` - 1, of equal sizes; it depends on names and groups only.

    The members of a group are dealt out in turn, so that the model that judges a frame has seen the frames beside it.
    A metric must not be measured like that, because it would be too good. An audit gains by it: the masks of the
    neighbours were drawn one by one, and show best what a wrong one should be. A mistake that all masks of a group
    share is not found.
    """
    fold_of = [0] * len(names)
    for position, index in enumerate(frame_order(names, groups)):
        fold_of[index] = position % folds
    return fold_of


def frame_order(names: Sequence[str], groups: Sequence[str]) -> list[int]:
    """Return the indices by group and then by name, with numbers by value: frames of a film follow each other."""
    return sorted(range(len(names)), key=lambda index: (groups[index], _natural_key(names[index])))


def _natural_key(name: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts numbers in names by value: frame_9 before frame_10."""
    parts = re.split(r"(\d+)", name)
    return [(1, int(part), part) if part.isdecimal() else (0, 0, part) for part in parts]
