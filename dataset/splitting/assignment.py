"""Assign the pairs of the flat layout to splits: by the user's own split files, else by groups, once and for all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from core.i18n import tr
from dataset.classes import InvalidFileError, UInt8
from dataset.faults import Fault, faults_from_error
from dataset.splitting.group_file import resolve_name
from dataset.splitting.group_splits import extend_by_groups, split_by_groups
from dataset.splitting.groups import Groups
from dataset.splitting.near_duplicates import find_near_duplicates
from dataset.splitting.splits import SplitFiles, read_splits

MOST_COPIES = 0.1  # part of the images that may be left out because they show the same as val or test


@dataclass(frozen=True)
class SplitPlan:
    """What is known of the splits before the files are read.

    `splits` has the names to read; their split is '' where it is still to be assigned, because the user has no split
    files. `stored` is our own earlier split.
    """

    splits: dict[str, str]
    faults: tuple[Fault, ...] = ()
    stored: SplitFiles | None = None
    own: bool = True  # whether the split is made and stored by this project


@dataclass(frozen=True)
class Assignment:
    """The split of each name, made by this project and to be stored with `seed`; `faults` of what cannot be split.

    `left_out` are frames of films that lie too near to a frame of another split.
    """

    splits: dict[str, str]
    seed: int
    faults: tuple[Fault, ...] = ()
    left_out: tuple[str, ...] = ()
    pattern: str | None = None  # of SPLIT_GROUP; it decides about images that are added later


def plan_splits(root: Path, images: Collection[str], masks: Collection[str]) -> SplitPlan:
    """Return the splits of the user's own files, or that the splits are to be assigned, after the files were read."""
    names = {*images, *masks}
    try:
        stored = read_splits(root)
    except InvalidFileError as error:
        return SplitPlan({}, tuple(faults_from_error("splits/", error)), own=False)
    if stored is not None and stored.seed is None:
        return _plan_by_user_files(stored, names)
    return SplitPlan(dict.fromkeys(names, ""), stored=stored)


def assign_splits(plan: SplitPlan, seed: int, groups: Groups, classes: Mapping[str, frozenset[int]]) -> Assignment:
    """Return the split of every name of a plan without user files: stored names keep theirs, others get a new one.

    `classes` has the class ids of which a mask has pixels, by name; for unreadable masks nothing.
    """
    names, stored = plan.splits.keys(), plan.stored
    groups = replace(groups, of={name: groups.of.get(name, name) for name in names})
    left_out: tuple[str, ...] = ()
    if stored is None or stored.seed is None:
        splits = split_by_groups(groups, classes, seed)
    else:
        seed, left_out = stored.seed, tuple(name for name in stored.left_out if name in names)
        kept = {name: split for split, _, name in stored.lines if name in names}
        splits = extend_by_groups(kept, left_out, groups, classes, seed)
    left_out += tuple(sorted(names - splits.keys() - set(left_out)))
    faults = []
    for split in ("train", "val"):
        if split not in splits.values():
            file = "images/" if stored is None else f"splits/{split}.txt"
            found = tr("{count} in all, 0 in {split}", count=len(names), split=split)
            if stored is not None:
                found += tr(" (delete splits/ to split again)")
            faults.append(Fault(file, tr("at least 2 pairs (1 train, 1 val)"), found))
    if faults and stored is None and len(names) >= 2:
        expected = tr("at least 2 groups (1 train, 1 val)")
        faults = [Fault("images/", expected, tr("1 group ({reason})", reason=groups.reason))]
    return Assignment(splits, seed, tuple(faults), left_out)


def leave_out_copies(assignment: Assignment, groups: Groups, thumbnails: Mapping[str, UInt8]) -> Assignment:
    """Return a new assignment without frames that show the same as a frame of their film in another split.

    A camera that stands still does so for longer than the gap between splits. Train gives way to val and test, and val
    to test. Where too many frames would be lost, as of a camera that never moves, the assignment stays as it is.
    """
    splits = {name: split for name, split in assignment.splits.items() if name in groups.frames and name in thumbnails}
    found = find_near_duplicates({name: thumbnails[name] for name in splits}, splits)
    copies = {pair.other for pair in found if groups.frames[pair.name].sequence == groups.frames[pair.other].sequence}
    lost = Counter(splits[name] for name in copies)
    if lost["train"] > MOST_COPIES * len(splits) or 2 * lost["val"] > list(splits.values()).count("val"):
        return assignment
    kept = {name: split for name, split in assignment.splits.items() if name not in copies}
    return replace(assignment, splits=kept, left_out=(*assignment.left_out, *sorted(copies)))


def _plan_by_user_files(stored: SplitFiles, names: Collection[str]) -> SplitPlan:
    """Assign names as the user's own files say, with a fault for each invalid line."""
    splits: dict[str, str] = {}
    faults = []
    for split, number, line in stored.lines:
        name, file = resolve_name(line, names), f"splits/{split}.txt"
        where = tr("line {number}", number=number)
        if name not in names:
            faults.append(Fault(file, tr("a name of images/"), f"'{line}' ({where})"))
        elif name in splits:
            other = f"{splits[name]}.txt"
            found = tr("'{name}' ({where}): also in {other}", name=name, where=where, other=other)
            faults.append(Fault(file, tr("each name once"), found))
        else:
            splits[name] = split
    for split in ("train", "val"):
        if split not in splits.values():
            found = tr("empty") if split in stored.present else tr("no such file")
            faults.append(Fault(f"splits/{split}.txt", tr("at least one name"), found))
    return SplitPlan(splits, tuple(faults), own=False)
