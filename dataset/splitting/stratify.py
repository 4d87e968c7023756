"""Choose the split of each unit: 80/10/10 in the order of a hash, so that every split has every class if possible."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

TOLERANCE = 1.25  # of the wanted size: whole groups rarely fit exactly


@dataclass(frozen=True)
class Unit:
    """Images that are assigned together; `classes` are the class ids of which their masks have pixels."""

    key: str
    size: int
    classes: frozenset[int] = frozenset()


def hash_fraction(seed: int, key: str) -> float:
    """Return a number in [0, 1) that depends only on (seed, key)."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:6], "big") / 2**48


def in_order(units: Iterable[Unit], seed: int) -> list[Unit]:
    """Return the units in the order of their hash."""
    return sorted(units, key=lambda unit: (hash_fraction(seed, unit.key), unit.key))


def choose_splits(units: Collection[Unit], seed: int) -> dict[str, str]:
    """Return unit key -> split for new data; depends only on the units and the seed.

    A tenth of the images goes to val, at least one unit, and a tenth to test, from ten images and three units on. In
    this order, as far as units allow: train has every class, val has each class of two units, test each of three.
    """
    ordered = in_order(units, seed)
    tenth = sum(unit.size for unit in ordered) // 10
    pool = _Pool(ordered)
    val = _fill(pool, [], max(1, tenth))
    test = _fill(pool, [], tenth)
    if not _is_covered(ordered, val, test):
        val, test = _choose_by_class(ordered, tenth)
    splits = {unit.key: "train" for unit in ordered}
    return splits | {unit.key: "val" for unit in val} | {unit.key: "test" for unit in test}


def extend_by_hash(units: Iterable[Unit], seed: int, val: Collection[int], train: Counter[int]) -> dict[str, str]:
    """Return unit key -> split for units that join data with a split, by their hash, 80/10/10.

    `val` has the classes of the present validation split and `train` those of the training split with the number of
    units: a class that val lacks is put there if train keeps it.
    """
    ordered = in_order(units, seed)
    wanted = {value for unit in ordered for value in unit.classes} - set(val)
    size = sum(unit.size for unit in ordered)
    covering = _cover(_Pool(ordered, train), wanted, size, size)
    thresholds = ((0.1, "val"), (0.2, "test"), (1.1, "train"))
    splits = {
        unit.key: next(split for limit, split in thresholds if hash_fraction(seed, unit.key) < limit)
        for unit in ordered
    }
    return splits | {unit.key: "val" for unit in covering}


class _Pool:
    """Units that are still in train, in order, and how many units have each class there."""

    def __init__(self, units: Iterable[Unit], elsewhere: Counter[int] | None = None) -> None:
        self.units = {unit.key: unit for unit in units}
        self.holders = Counter(value for unit in self.units.values() for value in unit.classes)
        self.holders.update(elsewhere or {})

    def is_spare(self, unit: Unit) -> bool:
        """Return whether train keeps every class without this unit."""
        return all(self.holders[value] >= 2 for value in unit.classes)

    def take(self, unit: Unit) -> Unit:
        """Remove a unit from train."""
        del self.units[unit.key]
        self.holders.subtract(unit.classes)
        return unit


def _fill(pool: _Pool, taken: list[Unit], wanted: int, spare_only: bool = False) -> list[Unit]:
    """Return `taken` and further units in order up to about `wanted` images; the last unit is left for train."""
    taken, count, only = list(taken), sum(unit.size for unit in taken), len(pool.units) == 1
    for unit in list(pool.units.values()):
        if count >= wanted or (len(pool.units) == 1 and not only):
            return taken
        if count + unit.size <= TOLERANCE * wanted and (not spare_only or pool.is_spare(unit)):
            taken.append(pool.take(unit))
            count += unit.size
    fitting = [unit for unit in pool.units.values() if not spare_only or pool.is_spare(unit)]
    if count < wanted / 2 and fitting and len(pool.units) > 1:
        nearest = min(fitting, key=lambda unit: abs(count + unit.size - wanted))
        if not taken or abs(count + nearest.size - wanted) < wanted - count:
            taken.append(pool.take(nearest))
    return taken


# --- classes -----------------------------------------------------------------------------------------------


def _is_covered(units: Sequence[Unit], val: Sequence[Unit], test: Sequence[Unit]) -> bool:
    """Return whether train has every class, val each one of two units, and test, if there is one, each of three."""
    holders, in_val, in_test = (_Pool(part).holders for part in (units, val, test))
    return all(
        count > in_val[value] + in_test[value]
        and (count < 2 or in_val[value] > 0)
        and (count < 3 or not test or in_test[value] > 0)
        for value, count in holders.items()
    )


def _choose_by_class(ordered: Sequence[Unit], tenth: int) -> tuple[list[Unit], list[Unit]]:
    """Return the units of val and test: first those that give every class, then further ones in order.

    Val and test never take more than half of the images for the sake of the classes.
    """
    pool = _Pool(ordered)
    holders = Counter(pool.holders)
    half = sum(unit.size for unit in ordered) // 2
    val = _cover(pool, {value for value, count in holders.items() if count >= 2}, max(1, tenth), half)
    test: list[Unit] = []
    if tenth:
        half -= sum(unit.size for unit in val)
        test = _cover(pool, {value for value, count in holders.items() if count >= 3}, tenth, half)
    val = _fill(pool, val, max(1, tenth), spare_only=True) or _fill(pool, [], 1)  # train needs them all: take one
    return val, _fill(pool, test, tenth, spare_only=True)


def _cover(pool: _Pool, wanted: Collection[int], size: int, most: int) -> list[Unit]:
    """Return units that have the wanted classes, rare classes first; units larger than `size` only if necessary.

    At most `most` images, and none that train needs.
    """
    taken, missing = list[Unit](), set(wanted)
    while missing:
        value = min(missing, key=lambda value: (pool.holders[value], value))
        missing.discard(value)
        fitting = [unit for unit in pool.units.values() if value in unit.classes]
        fitting = [unit for unit in fitting if unit.size <= most and pool.is_spare(unit)]
        if fitting and len(pool.units) > 1:
            # The first of equal ones, in the order of the hash.
            best = min(fitting, key=lambda unit: (unit.size > size, -len(unit.classes & missing), unit.size))
            taken.append(pool.take(best))
            most -= best.size
            missing -= best.classes
    return taken
