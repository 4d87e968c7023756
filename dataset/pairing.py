"""Match images with masks by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from core.i18n import tr
from dataset.classes import abbreviate
from dataset.directory import SPLITS
from dataset.faults import MAX_ROWS, Fault
from dataset.layout import images_below
from dataset.splitting.assignment import SplitPlan, plan_splits


@dataclass(frozen=True)
class Candidate:
    """An image and its mask by their relative paths, before they are read; `split` is '' until it is assigned."""

    name: str
    split: str
    image: str
    mask: str


@dataclass(frozen=True)
class Pairing:
    """The pairs to read, by name within a split, and the faults found; for the flat layout also the plan of the splits."""

    candidates: list[Candidate]
    faults: list[Fault]
    plan: SplitPlan | None = None


def order_of(candidate: Candidate) -> tuple[int, str]:
    """Return the key to sort by: split, then name."""
    return ("", *SPLITS).index(candidate.split), candidate.name


def layout_prefixes(layout: str) -> dict[str, str]:
    """Return directory prefix -> split; the flat layout has one directory, and its splits are assigned later."""
    return {"": ""} if layout == "flat" else {f"{split}/": split for split in SPLITS}


def find_pairs(root: Path, files: Collection[str], layout: str) -> Pairing:
    """Return the pairs among these relative paths, with faults for missing partners, duplicate names and split files."""
    candidates: list[Candidate] = []
    faults: list[Fault] = []
    plan: SplitPlan | None = None
    for prefix, split in layout_prefixes(layout).items():
        images, masks = (images_below(files, f"{prefix}{part}/") for part in ("images", "masks"))
        if split:
            splits = dict.fromkeys({*images, *masks}, split)
        else:
            plan = plan_splits(root, images, masks)
            splits = plan.splits
            faults += plan.faults
        for name in sorted(splits):
            image, mask = images.get(name, []), masks.get(name, [])
            # Comparing every name for every fault would take long: no suggestions beyond the printed rows.
            suggest = len(faults) < MAX_ROWS
            found = [
                *_check_unique(
                    image, mask, f"{prefix}images/{name}", _similar(name, images, masks) if suggest else None
                ),
                *_check_unique(
                    mask, image, f"{prefix}masks/{name}", _similar(name, masks, images) if suggest else None
                ),
            ]
            faults += found
            if len(image) == len(mask) == 1:
                candidates.append(Candidate(name, splits[name], image[0], mask[0]))
    candidates.sort(key=order_of)
    if layout == "split":
        faults += _check_required_splits(files)
    return Pairing(candidates, faults, plan)


def _similar(name: str, files: Mapping[str, list[str]], partners: Mapping[str, list[str]]) -> str | None:
    """Return a file without a partner whose name begins with `name`, where `name` itself has no file."""
    if name in files:
        return None
    return next((paths[0] for other, paths in files.items() if other.startswith(name) and other not in partners), None)


def _check_unique(paths: list[str], partner: list[str], expected: str, similar: str | None) -> list[Fault]:
    """Return faults unless exactly one file has this name."""
    if len(paths) == 1:
        return []
    if not paths:
        found = tr("no partner")
        if similar:
            found += tr(" (similar name: {file})", file=similar)
        return [Fault(partner[0], f"{expected}.*", found)] if partner else []
    found = tr("{count}: {paths}", count=len(paths), paths=abbreviate(paths, 4))
    return [Fault(path, tr("one file of this name"), found) for path in paths]


def _check_required_splits(files: Collection[str]) -> list[Fault]:
    """Return a fault for each of train/ and val/ without images: in this layout, nothing else decides the splits."""
    faults = []
    for split in ("train", "val"):
        if any(name.startswith(f"{split}/images/") for name in files):
            continue
        expected = tr("images (move some here from train/, or use images/ + masks/, which is split automatically)")
        directories = sorted({name.split("/")[0] + "/" for name in files if "/" in name})
        found = tr("none (directories: {directories})", directories=abbreviate(directories))
        faults.append(Fault(f"{split}/images/", expected, found))
    return faults
