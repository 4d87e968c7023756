"""Check which images belong together, and assign the splits accordingly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dataset.checks.inspection import Inspection
from dataset.classes import UInt8
from dataset.directory import GROUPS_FILE, SPLITS
from dataset.pairing import Candidate, order_of
from dataset.splitting.assignment import assign_splits
from dataset.splitting.group_file import read_group_file
from dataset.splitting.groups import Groups, detect_groups, join_groups


def find_groups(inspection: Inspection, pattern: str | None) -> None:
    """Find the groups of the pairs that were read, and record them with what is wrong in groups.csv."""
    contents, files = inspection.contents, inspection.files
    candidates = [content.candidate for content in contents]
    thumbnails = {content.candidate: content.thumbnail for content in contents if content.thumbnail is not None}
    listed: dict[str, str] | None = None
    group_file = inspection.layout.group_file if inspection.layout is not None else GROUPS_FILE
    if group_file in files and pattern is None:
        listed, faults = read_group_file(files[group_file], {candidate.name for candidate in candidates})
        inspection.add(faults)
    inspection.groups = _detect(candidates, thumbnails, pattern, listed)


def _detect(
    candidates: list[Candidate],
    thumbnails: Mapping[Candidate, UInt8],
    pattern: str | None,
    listed: Mapping[str, str] | None,
) -> Groups:
    """Return the groups of the pairs; numbering that starts again in each split says nothing across splits."""
    if len({candidate.name for candidate in candidates}) == len(candidates):
        small = {candidate.name: thumbnail for candidate, thumbnail in thumbnails.items()}
        return detect_groups([candidate.name for candidate in candidates], small, pattern, listed)
    parts = []
    for split in SPLITS:
        names = [candidate.name for candidate in candidates if candidate.split == split]
        small = {c.name: thumbnail for c, thumbnail in thumbnails.items() if c.split == split}
        if names:
            parts.append((split, detect_groups(names, small, pattern, listed)))
    return join_groups(parts)


def assign_pairs(inspection: Inspection, seed: int) -> None:
    """Assign the splits of the flat layout, unless the user's own files or directories did."""
    plan = inspection.pairing.plan if inspection.pairing is not None else None
    if plan is None or not plan.own:
        return
    assignment = assign_splits(plan, seed)
    inspection.assignment = assignment
    inspection.add(assignment.faults)
    assigned = [
        replace(content, candidate=replace(content.candidate, split=assignment.splits[content.candidate.name]))
        for content in inspection.contents
    ]
    inspection.contents = sorted(assigned, key=lambda content: order_of(content.candidate))
