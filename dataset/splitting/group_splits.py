"""Split names so that groups stay together; films that are too few or too unequal are cut into blocks.

Groups, or blocks, that have images of equal content stay together too.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import product

from dataset.directory import SPLITS
from dataset.splitting.films import (
    BLOCK_GAPS,
    Positions,
    block_size,
    cut_film,
    films_of,
    find_too_near,
    gap_of,
)
from dataset.splitting.groups import Groups
from dataset.splitting.names import Frame
from dataset.splitting.stratify import Unit, choose_splits, extend_by_hash

SMALLEST, LARGEST = 0.05, 0.20  # part of the images in val, or test, that whole groups may have instead of a tenth
LARGEST_BLOCKS = 0.15  # the same for blocks of films, which can be made shorter
Classes = Mapping[str, frozenset[int]]


def split_by_groups(groups: Groups, classes: Classes, seed: int) -> dict[str, str]:
    """Return name -> split for new data; images that show too much of another split have none."""
    whole = members_of(groups.of)
    joined = join_equal(whole, groups.equal)
    splits = _choose(joined, classes, seed)
    if _is_balanced(splits):
        return splits
    if not groups.divisible or not groups.frames:
        if groups.rule == "none" or len(joined) == len(whole):
            return splits
        # Equal images, such as empty ones, have joined groups: they stay apart, unless that leaves out many images.
        apart = _choose(whole, classes, seed)
        left_out = _find_copies(apart, groups.equal)
        return splits if len(left_out) > LARGEST * len(apart) else _without(apart, left_out)
    # Short films need short blocks; equal frames in most of the blocks would join them, and are left out instead.
    for equal, block_gaps in product((groups.equal, {}), (BLOCK_GAPS, BLOCK_GAPS // 2)):
        splits = _choose(join_equal(cut_groups(whole, groups, block_gaps), equal), classes, seed)
        if _is_balanced(splits, LARGEST_BLOCKS):
            break
    return _without(splits, find_too_near(groups.frames, splits) | _find_copies(splits, groups.equal))


def _without(splits: Mapping[str, str], left_out: Collection[str]) -> dict[str, str]:
    return {name: split for name, split in splits.items() if name not in left_out}


def _find_copies(splits: Mapping[str, str], equal: Mapping[str, str]) -> set[str]:
    """Return the names to leave out, because a name of equal content is in a split that train or val gives way to."""
    held_out = {split: {equal[name] for name in splits if name in equal and splits[name] == split} for split in SPLITS}
    stronger = {"train": held_out["val"] | held_out["test"], "val": held_out["test"], "test": set[str]()}
    return {name for name, split in splits.items() if equal.get(name) in stronger[split]}


def extend_by_groups(
    stored: Mapping[str, str], left_out: Collection[str], groups: Groups, classes: Classes, seed: int
) -> dict[str, str]:
    """Return name -> split: `stored` names keep theirs and bind their group; new groups are assigned by their hash.

    `left_out` names stay without a split, and so do new frames that lie too near to a frame of another split.
    """
    present = {name: split for name, split in stored.items() if name in groups.of}
    added = {name for name in groups.of if name not in present and name not in left_out}
    if not added:
        return present
    splits, free = follow_groups(present, added, groups)
    units = members_of({name: groups.of[name] for name in free})
    if groups.divisible and (_has_cut_film(present, groups) or _is_too_large(units, len(groups.of))):
        units = cut_groups(units, groups)
    units = join_equal(units, groups.equal)
    in_val = {value for name, split in present.items() if split == "val" for value in classes.get(name, ())}
    in_train = Counter(value for name, split in present.items() if split == "train" for value in classes.get(name, ()))
    chosen = extend_by_hash(units_of(units, classes), seed, in_val, in_train)
    splits |= {name: chosen[key] for key, members in units.items() for name in members}
    near = find_too_near(groups.frames, present | splits, present) if groups.divisible else set()
    return present | {name: split for name, split in splits.items() if name not in near}


def members_of(of: Mapping[str, str]) -> dict[str, list[str]]:
    """Return group -> its names, sorted."""
    members: dict[str, list[str]] = {}
    for name in sorted(of):
        members.setdefault(of[name], []).append(name)
    return members


def join_equal(members: Mapping[str, Sequence[str]], equal: Mapping[str, str]) -> dict[str, list[str]]:
    """Return group -> its names, where groups with images of equal content are one, called by the first of them.

    `equal` has a key of the content for each name whose content occurs several times.
    """
    parent = {key: key for key in members}

    def first_of(key: str) -> str:
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    holders: dict[str, str] = {}
    for key in sorted(members):
        for name in members[key]:
            if name in equal:
                first, other = sorted((first_of(holders.setdefault(equal[name], key)), first_of(key)))
                parent[other] = first
    joined: dict[str, list[str]] = {}
    for key, names in members.items():
        joined.setdefault(first_of(key), []).extend(names)
    return joined


def units_of(members: Mapping[str, Collection[str]], classes: Classes) -> list[Unit]:
    """Return the units to assign, with the classes of their members."""
    return [
        Unit(key, len(names), frozenset(value for name in names for value in classes.get(name, ())))
        for key, names in members.items()
    ]


def _choose(members: Mapping[str, Collection[str]], classes: Classes, seed: int) -> dict[str, str]:
    chosen = choose_splits(units_of(members, classes), seed)
    return {name: chosen[key] for key, names in members.items() for name in names}


def _is_balanced(splits: Mapping[str, str], largest: float = LARGEST) -> bool:
    """Return whether val and test have about a tenth of the images each."""
    counts = Counter(splits.values())
    held_out = ("val", "test") if len(splits) >= 10 else ("val",)
    return all(SMALLEST <= counts[split] / len(splits) <= largest for split in held_out)


def _is_too_large(units: Mapping[str, Collection[str]], count: int) -> bool:
    return any(len(names) > LARGEST * count for names in units.values())


def cut_groups(
    members: Mapping[str, Collection[str]], groups: Groups, block_gaps: int = BLOCK_GAPS, target: int | None = None
) -> dict[str, list[str]]:
    """Return block -> its names: films in blocks of about `target` consecutive frames, and other groups as they are."""
    target = target or block_size(len(groups.of))
    blocks: dict[str, list[str]] = {}
    for group, names in members.items():
        frames = {name: groups.frames[name] for name in names if name in groups.frames}
        if len(frames) < len(names):
            blocks[group] = list(names)
            continue
        for film in films_of(frames).values():
            for block in cut_film(film, target, gap_of(film), block_gaps):
                blocks[f"{group}@{block[0]}"] = block
    return blocks


# --- names that join data with a split ---------------------------------------------------------------------


def follow_groups(present: Mapping[str, str], added: Iterable[str], groups: Groups) -> tuple[dict[str, str], list[str]]:
    """Return name -> split of the added names whose copies, group or neighbours have one, and the other names."""
    joined = join_equal(members_of(groups.of), groups.equal)
    joined_of = {name: key for key, names in joined.items() for name in names}
    of_content, of_group, of_joined = (
        _count_splits(present, labels) for labels in (groups.equal, groups.of, joined_of)
    )
    films = films_of({name: groups.frames[name] for name in present if name in groups.frames})
    followed: dict[str, str] = {}
    free: list[str] = []
    for name in sorted(added):
        content, frame = groups.equal.get(name, ""), groups.frames.get(name)
        copies = of_content.get(content)
        counts = copies or of_group.get(groups.of[name], Counter[str]())
        if not counts and not groups.divisible:  # blocks of films are joined once they are cut
            counts = of_joined.get(joined_of[name], Counter[str]())
        nearest: str | None = None
        if not copies and len(counts) > 1 and groups.divisible and frame is not None:
            nearest = _split_of_neighbours(films.get(frame.sequence, []), frame, present)
        elif counts:
            nearest = min(counts, key=lambda split: (-counts[split], split))
        if nearest is None:
            free.append(name)
            continue
        followed[name] = nearest
        if content and not copies:
            of_content[content] = Counter([nearest])
    for name in [name for name in free if groups.equal.get(name) in of_content]:  # a later copy has a split
        followed[name] = next(iter(of_content[groups.equal[name]]))
        free.remove(name)
    return followed, free


def _count_splits(splits: Mapping[str, str], labels: Mapping[str, str]) -> dict[str, Counter[str]]:
    """Return label -> split -> names that have both."""
    counts: dict[str, Counter[str]] = {}
    for name, split in splits.items():
        if name in labels:
            counts.setdefault(labels[name], Counter())[split] += 1
    return counts


def _split_of_neighbours(film: Positions, frame: Frame, splits: Mapping[str, str]) -> str | None:
    """Return the split of the nearest frame; None beyond the gap, unless the frames on both sides are in one split."""
    place = bisect_left(film, (frame.position, ""))
    around = film[max(0, place - 1) : place + 1]
    if not around:
        return None
    distance, nearest = min((abs(position - frame.position), name) for position, name in around)
    enclosed = len(around) == 2 and len({splits[name] for _, name in around}) == 1
    return splits[nearest] if enclosed or distance <= gap_of(film) else None


def _has_cut_film(present: Mapping[str, str], groups: Groups) -> bool:
    """Return whether a film of the stored split is in several splits."""
    films = films_of({name: groups.frames[name] for name in present if name in groups.frames})
    return any(len({present[name] for _, name in film}) > 1 for film in films.values())
