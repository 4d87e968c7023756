"""Match images with masks by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from core.i18n import tr, trn
from dataset.classes import abbreviate
from dataset.decoding.kinds import unread_suffix, why_unread
from dataset.directory import SPLITS
from dataset.faults import MAX_ROWS, Fault
from dataset.layout.layout import SPLIT, Layout, PlaceFiles
from dataset.splitting.assignment import SplitPlan, plan_splits


@dataclass(frozen=True)
class Candidate:
    """An image and its mask by their relative paths, before they are read; `split` is '' until it is assigned."""

    name: str
    split: str
    image: str
    mask: str
    page: int | None = None  # of both files, where they have several


@dataclass(frozen=True)
class Pairing:
    """The pairs to read, by name within a split, and the faults found; for the flat layout also the plan of the splits."""

    candidates: list[Candidate]
    faults: list[Fault]
    plan: SplitPlan | None = None


def order_of(candidate: Candidate) -> tuple[int, str]:
    """Return the key to sort by: split, then name."""
    return ("", *SPLITS).index(candidate.split), candidate.name


def find_pairs(root: Path, files: Collection[str], layout: Layout) -> Pairing:
    """Return the pairs of a layout, with faults for missing partners, names that are not unique, and split files."""
    unread = [path for path in files if unread_suffix(path)]
    candidates: list[Candidate] = []
    faults: list[Fault] = []
    plan: SplitPlan | None = None
    for part in layout.parts:
        faults += _check_conflicts(part)
        missing = _check_directories(part)
        if missing:
            faults += missing
            continue
        images, masks = part.images, part.masks
        if part.place.split:
            splits = dict.fromkeys({*images, *masks}, part.place.split)
        else:
            plan = plan_splits(root / layout.splits_root, images, masks)
            splits = plan.splits
            faults += plan.faults
        for name in sorted(splits):
            faults += _check_name(name, part, unread, suggest=len(faults) < MAX_ROWS)
            image, mask = images.get(name, []), masks.get(name, [])
            if len(image) == len(mask) == 1:
                candidates.append(Candidate(name, splits[name], image[0], mask[0]))
    candidates.sort(key=order_of)
    if layout.kind == SPLIT:
        faults += _check_required_splits(layout)
    return Pairing(candidates, faults, plan)


def _check_conflicts(part: PlaceFiles) -> list[Fault]:
    """Return a fault for each file of which more than one partner could be meant."""
    expected = tr("one image and one mask of this name")
    return [
        Fault(path, expected, tr("{count}: {paths}", count=len(paths), paths=abbreviate(paths, 4)))
        for paths in part.conflicts
        for path in paths
    ]


def _check_directories(part: PlaceFiles) -> list[Fault]:
    """Return a fault if there are only images, or only masks: one for all files."""
    sides = ((part.images, part.masks, part.place.masks), (part.masks, part.images, part.place.images))
    for files, partners, directory in sides:
        if files and not partners and not part.conflicts:
            example = next(iter(files.values()))[0]
            expected = trn(
                "one file for the file {example}",
                "one file for each of {count} files such as {example}",
                len(files),
                example=example,
            )
            return [Fault(directory, expected, tr("no image files"))]
    return []


def _check_name(name: str, part: PlaceFiles, unread: Collection[str], suggest: bool) -> list[Fault]:
    """Return faults unless a name has exactly one image and one mask.

    Comparing every name for every fault would take long: no suggestions without `suggest`.
    """
    faults = []
    sides = ((part.images, part.masks, part.place.images), (part.masks, part.images, part.place.masks))
    for files, partners, directory in sides:
        paths, partner = files.get(name, []), partners.get(name, [])
        if len(paths) > 1:
            found = tr("{count}: {paths}", count=len(paths), paths=abbreviate(paths, 4))
            faults += [Fault(path, tr("one file of this name"), found) for path in paths]
        elif partner and not paths:
            found = tr("no partner")
            if suggest:
                found += _suggestion(directory + name, files, partners, unread)
            faults.append(Fault(partner[0], f"{directory}{name}.*", found))
    return faults


def _suggestion(
    wanted: str, files: Mapping[str, list[str]], partners: Mapping[str, list[str]], unread: Iterable[str]
) -> str:
    """Return which file may be meant by a path without suffix: one that is not read, or one with a similar name."""
    for path in unread:
        if path.startswith(f"{wanted}."):
            return f" ({path}: {why_unread(path)})"
    for name, paths in files.items():
        if paths[0].startswith(wanted) and name not in partners:
            return tr(" (similar name: {file})", file=paths[0])
    return ""


def _check_required_splits(layout: Layout) -> list[Fault]:
    """Return a fault for each of train and val without images: in this layout, nothing else decides the splits."""
    faults = []
    for split in ("train", "val"):
        if layout.images(split):
            continue
        if len(layout.parts) == 1:
            expected = _explain_only_split(layout, split)
        else:
            expected = tr("images (move some here from train/, or use images/ + masks/, which is split automatically)")
        found = tr("none (directories: {directories})", directories=abbreviate(layout.directories()))
        faults.append(Fault(f"{layout.prefix}{split}/images/", expected, found))
    return faults


def _explain_only_split(layout: Layout, missing: str) -> str:
    """Return how to go on where one split is all there is, as in many published data sets."""
    place = layout.parts[0].place
    return tr(
        "images of {split}: rename {masks} to {prefix}masks/, then {images} to {prefix}images/, and train.py makes the "
        "splits; or add {prefix}{split}/images/ and {prefix}{split}/masks/",
        split=missing,
        masks=place.masks,
        images=place.images,
        prefix=layout.prefix,
    )
