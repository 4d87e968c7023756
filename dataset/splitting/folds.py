"""Divide images into folds for cross-validation by the groups of the splits, once and for all.

A group is never in two folds. Films that are too few or too long are cut into blocks of consecutive frames, as for the
splits; `near_fold` names the frames beside a block, which a model that is judged on it must not be trained on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from core.errors import UsageError
from core.i18n import trn
from dataset.splitting.films import find_too_near
from dataset.splitting.group_splits import Classes, cut_groups, follow_groups, join_equal, members_of, units_of
from dataset.splitting.groups import Groups
from dataset.splitting.stratify import TOLERANCE, Unit, in_order

Folds = Mapping[str, int]  # name -> fold, counted from 1


@dataclass
class _Content:
    """What a fold has so far: images, and how many units have each class."""

    images: int = 0
    holders: Counter[int] = field(default_factory=Counter)

    def add(self, size: int, classes: Collection[int]) -> None:
        self.images += size
        self.holders.update(classes)


def assign_folds(groups: Groups, classes: Classes, count: int, seed: int, stored: Folds | None = None) -> Folds:
    """Return name -> fold (1 to `count`) of every name of `groups`; it depends on nothing but the arguments.

    `classes` has the class ids of which a mask has pixels, by name. Names of `stored` keep their fold and bind their
    group; others go where the fewest images are, so that each fold gets the rare classes too. Raises UsageError if there
    are fewer groups than folds.
    """
    kept = {name: fold for name, fold in (stored or {}).items() if name in groups.of}
    followed, free = follow_groups(
        {name: str(fold) for name, fold in kept.items()}, groups.of.keys() - kept.keys(), groups
    )
    kept |= {name: int(fold) for name, fold in followed.items()}
    units = members_of({name: groups.of[name] for name in free})
    if groups.divisible and _is_uneven(units, len(groups.of), count, bool(kept)):
        # Two blocks a fold: fewer would see one scene each, and each cut costs the frames beside it.
        units = cut_groups(units, groups, target=max(1, len(groups.of) // (2 * count)))
    joined = join_equal(units, groups.equal)
    # Equal images in most of the groups, such as empty ones, would join them: `near_fold` keeps such images apart.
    if kept or groups.rule == "none" or not _is_uneven(joined, len(groups.of), count, extends=False):
        units = joined
    folds = kept | _deal_out(units_of(units, classes), units, kept, classes, count, seed)
    if len(set(folds.values())) < count:
        found = len(units if groups.divisible else joined if groups.rule == "none" else members_of(groups.of))
        raise UsageError(
            trn(
                "--folds {folds}: {count} group of images in train and val ({reason}), at least {folds} needed: choose "
                "fewer folds",
                "--folds {folds}: {count} groups of images in train and val ({reason}), at least {folds} needed: choose "
                "fewer folds",
                found,
                folds=count,
                reason=groups.reason,
            )
        )
    return folds


def _is_uneven(units: Mapping[str, Collection[str]], images: int, count: int, extends: bool) -> bool:
    """Return whether whole groups are too few for the folds, or one is larger than a fold should be."""
    return (not extends and len(units) < count) or any(
        len(names) > TOLERANCE * images / count for names in units.values()
    )


def _deal_out(
    units: Collection[Unit],
    members: Mapping[str, Collection[str]],
    kept: Folds,
    classes: Classes,
    count: int,
    seed: int,
) -> dict[str, int]:
    """Return name -> fold of the members of new units: those of rare classes and large ones first."""
    content = {fold: _Content() for fold in range(1, count + 1)}
    for name, fold in kept.items():
        if fold in content:
            content[fold].add(1, classes.get(name, ()))
    holders = Counter(value for unit in units for value in unit.classes)

    def rarity(unit: Unit) -> int:
        return min((holders[value] for value in unit.classes), default=len(units))

    order = sorted(in_order(units, seed), key=lambda unit: (-unit.size, rarity(unit)))  # equal ones by their hash
    folds: dict[str, int] = {}
    for unit in order:
        rare = min(unit.classes, key=lambda value: (holders[value], value), default=None)
        smallest = min(one.images for one in content.values())
        # A fold may have one unit of this size more than the smallest one, for the sake of a class.
        open_folds = [fold for fold, one in content.items() if one.images < smallest + max(1, unit.size)]
        best = min(
            open_folds,
            key=lambda fold: (0 if rare is None else content[fold].holders[rare], content[fold].images, fold),
        )
        content[best].add(unit.size, unit.classes)
        folds |= dict.fromkeys(members[unit.key], best)
    return folds


def near_fold(groups: Groups, folds: Folds, fold: int) -> set[str]:
    """Return the names of other folds that must not be trained on beside this one.

    Their frame lies within the gap of a frame of this fold, or has the same content.
    """
    sides = {name: "val" if number == fold else "train" for name, number in folds.items()}
    contents = {groups.equal[name] for name in folds if folds[name] == fold and name in groups.equal}
    copies = {name for name in folds if folds[name] != fold and groups.equal.get(name) in contents}
    return copies | (find_too_near(groups.frames, sides) if groups.divisible else set())
