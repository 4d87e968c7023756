"""Find which images belong together, assign the splits accordingly, and check splits that were made elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from core.i18n import tr, trn
from dataset.checks.inspection import Inspection
from dataset.checks.masks.values import count_values
from dataset.classes import abbreviate
from dataset.directory import GROUPS_FILE, SPLITS
from dataset.faults import DataWarning, Fault, LeftOut
from dataset.pair_reading import PairContent
from dataset.pairing import Candidate, order_of
from dataset.splitting.assignment import assign_splits, leave_out_copies
from dataset.splitting.films import Positions, find_leaks, gap_of, label_blocks, step_of
from dataset.splitting.group_file import read_group_file
from dataset.splitting.groups import Groups, detect_groups, join_groups
from dataset.splitting.names import Frame

SMALLEST, LARGEST = 0.05, 0.20  # part of the images in val that needs no explanation


def split_by_groups(inspection: Inspection, seed: int, pattern: str | None) -> None:
    """Find the groups, assign the splits of the flat layout unless the user's own files did, and look for leaks.

    `pattern` is SPLIT_GROUP; without it, that of the stored split is used, so that added images follow their group.
    """
    plan = inspection.pairing.plan if inspection.pairing is not None else None
    if pattern is None and plan is not None and plan.stored is not None:
        pattern = plan.stored.pattern
    groups = find_groups(inspection, pattern)
    inspection.groups = groups
    own = inspection.own_split
    if own:
        groups = assign_pairs(inspection, groups, seed, pattern)
    splits = {groups.key(c.candidate.split, c.candidate.name): c.candidate.split for c in inspection.contents}
    if all(splits.values()):
        inspection.add(check_leaks(groups, splits, own))
        left_out = len(inspection.assignment.left_out) if inspection.assignment is not None else 0
        inspection.groups = _explain(groups, splits, left_out) if own else groups


# --- groups ------------------------------------------------------------------------------------------------


def find_groups(inspection: Inspection, pattern: str | None, directories: bool = True) -> Groups:
    """Return the groups of the pairs that were read, and record what is wrong in groups.csv or with `pattern`."""
    contents, files = inspection.contents, inspection.files
    candidates = [content.candidate for content in contents]
    listed: dict[str, str] | None = None
    group_file = inspection.layout.group_file if inspection.layout is not None else GROUPS_FILE
    if pattern is not None:
        inspection.add(check_pattern(candidates, pattern))
    elif group_file in files:
        listed, faults = read_group_file(
            files[group_file], {candidate.name for candidate in candidates}, _image_names(inspection)
        )
        inspection.add(faults)
    parts = [("", contents)]
    if len({content.candidate.name for content in contents}) < len(contents):
        # Numbering that starts again in each split says nothing across splits.
        parts = [(split, [c for c in contents if c.candidate.split == split]) for split in SPLITS]
    found = []
    for split, part in parts:
        names = [content.candidate.name for content in part]
        thumbnails = {c.candidate.name: c.thumbnail for c in part if c.thumbnail is not None}
        found.append((split, detect_groups(names, thumbnails, pattern, listed, directories)))
    groups = found[0][1] if len(found) == 1 else join_groups(found)
    groups = groups if groups.rule != "none" else _group_pages(groups, candidates)
    return _with_equal(groups, contents, inspection.own_split)


def _with_equal(groups: Groups, contents: Iterable[PairContent], own: bool) -> Groups:
    """Return groups that know which images have the same content; if the split is made here, the reason says so."""
    names: dict[str, list[str]] = {}
    for content in contents:
        candidate = content.candidate
        if content.image_size is not None:  # equal unreadable files are not copies
            key = f"{content.image_sha256}:{candidate.page}"
            names.setdefault(key, []).append(groups.key(candidate.split, candidate.name))
    copies = {key: same for key, same in names.items() if len(same) > 1}
    equal = {name: key for key, same in copies.items() for name in same}
    if not equal or not own:
        return replace(groups, equal=equal)
    note = tr("images with the content of another one, which stay with it: {count}", count=len(equal) - len(copies))
    return replace(groups, equal=equal, reason=f"{groups.reason}; {note}")


def _image_names(inspection: Inspection) -> set[str]:
    """Return the names of all images, those included that no split file lists."""
    layout = inspection.layout
    return {name for part in layout.parts for name in part.images} if layout is not None else set()


def _group_pages(groups: Groups, candidates: Iterable[Candidate]) -> Groups:
    """Return groups in which the pages of a file belong together, as frames in their order, where no other rule applies."""
    pages = [candidate for candidate in candidates if candidate.page is not None]
    if not pages:
        return groups
    of = {groups.key(c.split, c.name): c.image for c in pages}
    frames = {groups.key(c.split, c.name): Frame(c.image, float(c.page or 0)) for c in pages}
    reason = tr("pages of one file: {names}", names=abbreviate(sorted(set(of.values())), 3))
    return replace(groups, rule="films", reason=reason, of={**groups.of, **of}, frames=frames, divisible=True)


def check_pattern(candidates: Iterable[Candidate], pattern: str) -> Iterator[Fault]:
    """Yield a fault for each image whose name SPLIT_GROUP does not match: its group would be a guess."""
    expected = tr("a name that SPLIT_GROUP={pattern} matches", pattern=pattern)
    for candidate in candidates:
        if not re.search(pattern, candidate.name):
            yield Fault(candidate.image, expected, candidate.name)


def _explain(groups: Groups, splits: Mapping[str, str], left_out: int) -> Groups:
    """Return groups in which a film that is in several splits is several groups, and say what is unusual."""
    of = label_blocks(groups.of, groups.frames, splits) if groups.divisible else groups.of
    fraction = sum(split == "val" for split in splits.values()) / max(1, len(splits))
    note = ""
    if of != groups.of:
        note = tr(
            "too few or too unequal for 80/10/10, so films are cut into blocks of consecutive frames; "
            "frames left out between blocks of different splits: {count}",
            count=left_out,
        )
    elif groups.rule != "none" and not SMALLEST <= fraction <= LARGEST and len(splits) >= 10:
        note = tr("they stay together, so val has {fraction:.0%} of the images", fraction=fraction)
    return replace(groups, of=of, reason=f"{groups.reason}; {note}" if note else groups.reason)


# --- splits ------------------------------------------------------------------------------------------------


def assign_pairs(inspection: Inspection, groups: Groups, seed: int, pattern: str | None) -> Groups:
    """Assign the splits of the flat layout, record what is left out, and return the groups that decided."""
    assert inspection.pairing is not None and inspection.pairing.plan is not None
    classes = _classes_by_name(inspection)
    if groups.rule == "directories" and are_categories(groups, classes):
        found = find_groups(inspection, pattern, directories=False)
        reason = tr("directories have classes of their own, so they do not show which images belong together")
        groups = replace(found, reason=f"{reason}; {found.reason}")
    assignment = replace(assign_splits(inspection.pairing.plan, seed, groups, classes), pattern=pattern)
    if groups.divisible and inspection.pairing.plan.stored is None:
        thumbnails = {c.candidate.name: c.thumbnail for c in inspection.contents if c.thumbnail is not None}
        assignment = leave_out_copies(assignment, groups, thumbnails)
    inspection.assignment = assignment
    inspection.add(assignment.faults)
    contents = []
    for content in inspection.contents:
        candidate = content.candidate
        if candidate.name in assignment.splits:
            assigned = replace(candidate, split=assignment.splits[candidate.name])
            contents.append(replace(content, candidate=assigned))
        else:
            inspection.add(
                [LeftOut(candidate.image, tr("a frame too near to a frame of another split, or showing the same"))]
            )
    inspection.contents = sorted(contents, key=lambda content: order_of(content.candidate))
    return groups


def _classes_by_name(inspection: Inspection) -> dict[str, frozenset[int]]:
    """Return pair name -> class ids of which its mask has pixels."""
    classes = inspection.classes
    if classes is None:
        return {}
    known = frozenset(classes.ids)
    return {c.candidate.name: known.intersection(count_values(c, classes)) for c in inspection.contents}


def are_categories(groups: Groups, classes: Mapping[str, frozenset[int]]) -> bool:
    """Return whether directories are kinds of images rather than their sources: half have a class to themselves."""
    holders: dict[int, set[str]] = {}
    for name, values in classes.items():
        for value in values:
            holders.setdefault(value, set()).add(groups.of[name])
    exclusive = {next(iter(found)) for found in holders.values() if len(found) == 1}
    return 2 * len(exclusive) >= groups.count


def check_leaks(groups: Groups, splits: Mapping[str, str], own: bool) -> Iterator[DataWarning]:
    """Yield a warning for images of val and test that are frames beside, or of the same group as, images of train.

    In a split that this project made, a film may have grown since: only direct neighbours count there.
    """
    held_out = [name for name, split in splits.items() if split != "train"]
    films = {name: frame for name, frame in groups.frames.items() if name in splits}
    near = find_leaks(films, splits, _neighbour_distance if own else gap_of)
    if near:
        text = trn(
            "the only image of val and test is a frame beside frames of train ({names}): metrics are too good",
            "{near} of {count} images of val and test are frames beside frames of train ({names}): metrics "
            "are too good",
            len(held_out),
            near=len(near),
            names=abbreviate(sorted(near), 3),
        )
        yield DataWarning("leaking-split", f"{text} ({_cure(own, groups.rule)})")
    trained = {groups.of[name] for name, split in splits.items() if split == "train"}
    cut = films if groups.divisible else {}
    shared = [name for name in held_out if name not in cut and groups.of[name] in trained]
    if groups.rule != "none" and shared:
        text = trn(
            "the only image of val and test belongs to a group that is in train too ({names}): metrics are too good",
            "{shared} of {count} images of val and test belong to groups that are in train too ({names}): "
            "metrics are too good",
            len(held_out),
            shared=len(shared),
            names=abbreviate(sorted({groups.of[name] for name in shared}), 3),
        )
        yield DataWarning("leaking-split", f"{text} ({_cure(own)})")


def _neighbour_distance(film: Positions) -> float:
    return min(step_of(film), gap_of(film))


def _cure(own: bool, rule: str = "") -> str:
    if own and rule in ("split-group", "groups.csv"):
        return tr("the groups of {rule} divide a film: make them larger", rule=rule)
    if own:
        return tr("delete splits/ to split again by groups")
    return tr("move each group to one split, or use images/ + masks/ without splits/, which is split by groups")
