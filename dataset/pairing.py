"""Match images with masks by name, and assign each pair to a split."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from core.i18n import tr
from dataset.classes import InvalidFileError, abbreviate
from dataset.directory import SPLITS, is_image
from dataset.faults import MAX_ROWS, Fault, faults_from_error
from dataset.layout import images_below
from dataset.splitting.splits import SplitFiles, extend_split, new_split, read_splits


@dataclass(frozen=True)
class Candidate:
    """An image and its mask by their relative paths, before they are read."""

    name: str
    split: str
    image: str
    mask: str


@dataclass(frozen=True)
class Assignment:
    """The split of each name, and the faults of the split files.

    `unlisted` counts the images that the user's own split files leave out. `seed` is set where the split was made by
    this project and has to be stored with that seed.
    """

    splits: dict[str, str]
    faults: tuple[Fault, ...] = ()
    unlisted: int = 0
    seed: int | None = None


@dataclass(frozen=True)
class Pairing:
    """The pairs to read, by split and name, and the faults found; for the flat layout also the assignment."""

    candidates: list[Candidate]
    faults: list[Fault]
    assignment: Assignment | None = None


def layout_prefixes(layout: str) -> dict[str, str]:
    """Return directory prefix -> split; the flat layout has one directory, and its splits are assigned later."""
    return {"": ""} if layout == "flat" else {f"{split}/": split for split in SPLITS}


def find_pairs(root: Path, files: Collection[str], layout: str, seed: int) -> Pairing:
    """Return the pairs among these relative paths, with faults for missing partners, duplicate names and split files."""
    candidates: list[Candidate] = []
    faults: list[Fault] = []
    assignment: Assignment | None = None
    for prefix, split in layout_prefixes(layout).items():
        images, masks = (images_below(files, f"{prefix}{part}/") for part in ("images", "masks"))
        if split:
            splits = dict.fromkeys({*images, *masks}, split)
        else:
            assignment = _assign_splits(root, images, masks, seed)
            splits = assignment.splits
            faults += assignment.faults
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
    candidates.sort(key=lambda candidate: (SPLITS.index(candidate.split), candidate.name))
    if layout == "split":
        faults += _check_required_splits(files)
    return Pairing(candidates, faults, assignment)


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


# --- splits of the flat layout -----------------------------------------------------------------------------


def _assign_splits(
    root: Path, images: Mapping[str, list[str]], masks: Mapping[str, list[str]], seed: int
) -> Assignment:
    """Assign names by the user's own split files, else by ours (extended by new names), else by a new split."""
    names = {*images, *masks}
    try:
        stored = read_splits(root)
    except InvalidFileError as error:
        return Assignment({}, tuple(faults_from_error("splits/", error)))
    if stored is None:
        splits = new_split(names, seed)
    elif stored.seed is None:
        return _assign_by_user_files(stored, images, names)
    else:
        seed = stored.seed
        splits = extend_split({name: split for split, _, name in stored.lines}, names, seed)
    faults = []
    for split in ("train", "val"):
        if split not in splits.values():
            file = "images/" if stored is None else f"splits/{split}.txt"
            found = tr("{count} in all, 0 in {split}", count=len(names), split=split)
            if stored is not None:
                found += tr(" (delete splits/ to split again)")
            faults.append(Fault(file, tr("at least 2 pairs (1 train, 1 val)"), found))
    return Assignment(splits, tuple(faults), seed=seed)


def _assign_by_user_files(stored: SplitFiles, images: Iterable[str], names: Collection[str]) -> Assignment:
    """Assign names as the user's own files say, with a fault for each invalid line."""
    splits: dict[str, str] = {}
    faults = []
    for split, number, line in stored.lines:
        name, file = _resolve_name(line, names), f"splits/{split}.txt"
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
    unlisted = len([name for name in images if name not in splits])
    return Assignment(splits, tuple(faults), unlisted)


def _resolve_name(line: str, names: Collection[str]) -> str:
    """Return a pair's name for a line of a split file: lists with suffixes or with images/ in front are common."""
    for name in (line, line.removeprefix("images/")):
        for candidate in (name, name.rpartition(".")[0] if is_image(name) else name):
            if candidate in names:
                return candidate
    return line
