"""The check of every pair before anything is uploaded: all faults at once, in one table, or a checked data set."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from core.console import format_table
from core.errors import UsageError
from core.i18n import tr
from core.reporting import progress
from dataset.classes import CLASSES_FILE, ClassMap, InvalidFileError, classes_from_values, few, read_classes
from dataset.images import bilevel_high, decode_image, decode_mask
from dataset.layout import (
    LOSSY_SUFFIXES,
    PICTURE_SUFFIXES,
    SPLITS,
    Pair,
    SegmentationData,
    data_files,
    is_picture,
    layouts_of,
    linked_folders,
    pictures_below,
)
from dataset.splits import extend_split, new_split, read_splits, write_splits

MAX_ROWS = 200  # of the printed table
MAX_VALUES = 64  # distinct values in one mask that still look like classes
_WINDOW = 256  # pairs in flight, so that memory does not grow with their number


@dataclass(frozen=True, order=True)
class Fault:
    """One thing to mend; `file` is the relative '/' path."""

    file: str
    expected: str
    found: str


class DataFaults(UsageError):
    """All that is wrong with a data folder; its text is a headline and the table of the faults."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(sorted(set(faults)))
        count, more = len(self.faults), len(self.faults) - MAX_ROWS
        rows = [(fault.file, fault.expected, fault.found) for fault in self.faults[:MAX_ROWS]]
        headers = (tr("file"), tr("expected"), tr("found"))
        head = tr("1 fault in the data") if count == 1 else tr("{count} faults in the data", count=count)
        rest = tr("\n… and {more} more", more=more) if more > 0 else ""
        super().__init__(f"{head}\n\n{format_table(headers, rows)}{rest}")


@dataclass(frozen=True)
class _Candidate:
    """A picture and its mask by their relative paths, before they are read."""

    name: str
    split: str
    image: str
    mask: str


@dataclass(frozen=True)
class _Facts:
    """What one read of a pair's two files gave; None for what could not be read."""

    candidate: _Candidate
    image_sha256: str = ""
    mask_sha256: str = ""
    image_size: tuple[int, int] | None = None  # height, width
    mask_size: tuple[int, int] | None = None
    values: dict[int, int] | None = None  # raw mask value -> pixels
    bilevel: bool = False
    faults: tuple[Fault, ...] = ()


@dataclass
class _Check:
    """The state of one check: the files that there are, and the faults so far."""

    root: Path
    files: dict[str, Path]
    layout: str
    faults: list[Fault] = field(default_factory=list)
    class_map: ClassMap | None = None  # of `classes.json`, where there is a good one
    unlisted: int = 0
    to_write: tuple[dict[str, str], int] | None = None  # a split of ours to store, and its seed

    def fault(self, file: str, expected: str, found: str) -> None:
        self.faults.append(Fault(file, expected, found))


def check_data(root: Path, seed: int, make_split: bool = True) -> SegmentationData:
    """Read and check every pair below `root` once; store a split that was made here if `make_split`.

    Raises DataFaults with all faults at once, and UsageError where a file or folder cannot be used at all.
    """
    check = _start(root)
    _check_files(check)
    _read_class_file(check)
    candidates = _candidates(check, seed)
    title, unit = tr("checking data"), tr("pairs")
    facts = list(progress(_read_all(check, candidates), len(candidates), title, unit))
    check.faults += [fault for fact in facts for fault in fact.faults]
    classes = _classes(check, facts)
    if classes is not None:
        for fact in facts:
            _check_values(check, fact, classes)
    _check_twins(check, facts)
    if check.faults:
        raise DataFaults(check.faults)
    assert classes is not None  # without classes there is a fault
    if check.to_write is not None and make_split:
        write_splits(root, *check.to_write)
    return _data_set(check, facts, classes)


def _start(root: Path) -> _Check:
    """The files and the one layout. Raises DataFaults for no data and for two layouts."""
    files = data_files(root)
    layouts = layouts_of(files)
    wanted = tr("images/ + masks/ or {train,val}/{images,masks}")
    if not layouts:
        found = tr("no data") + (f" ({few(files, 3)})" if files else "")
        raise DataFaults([Fault(f"{root.name}/", wanted, found)])
    if len(layouts) == 2:
        both = tr("both layouts at once")
        raise DataFaults([Fault(f"{root.name}/", tr("only one of {wanted}", wanted=wanted), both)])
    return _Check(root, files, layouts[0])


def _prefixes(layout: str) -> dict[str, str]:
    """Folder prefix -> split; the flat layout has one folder, and its split is decided later."""
    return {"": ""} if layout == "flat" else {f"{split}/": split for split in SPLITS}


def _check_files(check: _Check) -> None:
    """Files that cannot be pictures, links to nowhere, and links to folders."""
    for name in linked_folders(check.root):
        expected = tr("a folder (or DATA_DIR set to the original)")
        check.fault(name, expected, tr("a link to a folder"))
    folders = tuple(f"{prefix}{part}/" for prefix in _prefixes(check.layout) for part in ("images", "masks"))
    for name, path in check.files.items():
        if not path.is_file():
            found = tr("a broken link") if path.is_symlink() else tr("a special file")
            check.fault(name, tr("a regular file"), found)
        elif name.startswith(folders) and not is_picture(name):
            expected = tr("a picture ({picture_suffixes})", picture_suffixes=" ".join(PICTURE_SUFFIXES))
            check.fault(name, expected, tr("not a picture"))


# --- pairs and splits --------------------------------------------------------------------------------------


def _candidates(check: _Check, seed: int) -> list[_Candidate]:
    """The pairs to read, by split and name; notes missing partners, doubled names and faults of the splits."""
    made: list[_Candidate] = []
    for prefix, split in _prefixes(check.layout).items():
        images, masks = (pictures_below(check.files, f"{prefix}{part}/") for part in ("images", "masks"))
        names = {*images, *masks}
        splits = dict.fromkeys(names, split) if split else _assign(check, images, masks, seed)
        for name in sorted(splits):
            image = _only(check, images, name, f"{prefix}images/{name}", masks)
            mask = _only(check, masks, name, f"{prefix}masks/{name}", images)
            if image and mask:
                made.append(_Candidate(name, splits[name], image, mask))
    made.sort(key=lambda candidate: (SPLITS.index(candidate.split), candidate.name))
    if check.layout == "split":
        _check_folders(check)
    return made


def _only(
    check: _Check, pictures: Mapping[str, list[str]], name: str, wanted: str, partners: Mapping[str, list[str]]
) -> str | None:
    """The one picture of this name, or None after the fault is noted."""
    paths = pictures.get(name, [])
    if len(paths) == 1:
        return paths[0]
    if not paths and name in partners:
        missing = tr("no partner")
        near = None
        if len(check.faults) < MAX_ROWS:  # a look at every name for every fault would take long
            near = next((other for other in pictures if other.startswith(name) and other not in partners), None)
        if near:
            missing += tr(" (a name like it: {pictures})", pictures=pictures[near][0])
        check.fault(partners[name][0], f"{wanted}.*", missing)
    for path in paths:
        expected = tr("one file of this name")
        check.fault(path, expected, tr("{count}: {paths}", count=len(paths), paths=few(paths, 4)))
    return None


def _check_folders(check: _Check) -> None:
    """train/ and val/ hold pictures; nothing else decides their splits."""
    for split in ("train", "val"):
        if any(name.startswith(f"{split}/images/") for name in check.files):
            continue
        expected = tr("pictures (move some here from train/, or use images/ + masks/, which is split for you)")
        folders = sorted({name.split("/")[0] + "/" for name in check.files if "/" in name})
        found = tr("none (folders: {folders})", folders=few(folders))
        check.fault(f"{split}/images/", expected, found)


def _assign(
    check: _Check, images: Mapping[str, list[str]], masks: Mapping[str, list[str]], seed: int
) -> dict[str, str]:
    """Name -> split of the flat layout: the user's own files, ours (extended by new names), or a new split."""
    names = {*images, *masks}
    try:
        stored = read_splits(check.root)
    except InvalidFileError as error:
        check.faults += [Fault("splits/", expected, found) for expected, found in error.problems]
        return {}
    if stored is not None and stored.seed is None:
        return _own_split(check, stored.lines, stored.present, images, names)
    if stored is None:
        splits = new_split(names, seed)
    else:
        seed = stored.seed if stored.seed is not None else seed
        splits = extend_split({name: split for split, _, name in stored.lines}, names, seed)
    for split in ("train", "val"):
        if split not in splits.values():
            file = "images/" if stored is None else f"splits/{split}.txt"
            expected = tr("at least 2 pairs (1 train, 1 val)")
            found = tr("{count} in all, 0 in {split}", count=len(names), split=split)
            if stored is not None:
                found += tr(" (delete splits/ to split again)")
            check.fault(file, expected, found)
    check.to_write = splits, seed
    return splits


def _own_split(
    check: _Check,
    lines: Iterable[tuple[str, int, str]],
    present: Collection[str],
    images: Mapping[str, list[str]],
    names: Collection[str],
) -> dict[str, str]:
    """Name -> split as the user's own files say, with a fault for each line that does not hold."""
    splits: dict[str, str] = {}
    for split, number, line in lines:
        name, file = _named(line, names), f"splits/{split}.txt"
        where = tr("line {number}", number=number)
        if name not in names:
            check.fault(file, tr("a name of images/"), f"'{line}' ({where})")
        elif name in splits:
            other = f"{splits[name]}.txt"
            found = tr("'{name}' ({where}): in {other} too", name=name, where=where, other=other)
            check.fault(file, tr("each name once"), found)
        else:
            splits[name] = split
    for split in ("train", "val"):
        if split not in splits.values():
            found = tr("empty") if split in present else tr("no such file")
            check.fault(f"splits/{split}.txt", tr("at least one name"), found)
    check.unlisted = len([name for name in images if name not in splits])
    return splits


def _named(line: str, names: Collection[str]) -> str:
    """A line of a split file as a pair's name: lists with suffixes, or with the folder in front, are common."""
    for name in (line, line.removeprefix("images/")):
        for candidate in (name, name.rpartition(".")[0] if is_picture(name) else name):
            if candidate in names:
                return candidate
    return line


# --- reading -----------------------------------------------------------------------------------------------


def _read_all(check: _Check, candidates: list[_Candidate]) -> Iterator[_Facts]:
    """The facts of every pair, in order. Decoding and hashing leave Python's lock, so threads do help."""
    with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 1)) as pool:
        for start in range(0, len(candidates), _WINDOW):
            window = candidates[start : start + _WINDOW]
            yield from pool.map(lambda candidate: _read_pair(check, candidate), window)


def _read_pair(check: _Check, candidate: _Candidate) -> _Facts:
    """Each file is read once: its bytes give the hash and the pixels."""
    faults: list[Fault] = []
    image_size = mask_size = values = None
    bilevel, hashes = False, {candidate.image: "", candidate.mask: ""}
    for path in (candidate.image, candidate.mask):
        try:
            data = check.files[path].read_bytes()
            hashes[path] = hashlib.sha256(data).hexdigest()
            if path == candidate.image:
                height, width, _ = decode_image(data).shape
                image_size = height, width
            else:
                raw, bilevel = decode_mask(data, check.class_map)
                height, width = raw.shape
                mask_size = height, width
                counts = np.bincount(raw.ravel(), minlength=256)
                values = {int(value): int(counts[value]) for value in counts.nonzero()[0]}
        except InvalidFileError as error:
            faults += [Fault(path, expected, found) for expected, found in error.problems]
        except OSError as error:
            faults.append(Fault(path, tr("a readable file"), error.strerror or str(error)))
    if image_size and mask_size and image_size != mask_size:
        (height, width), (mask_height, mask_width) = image_size, mask_size
        size = tr("{width}x{height} (as the picture)", width=width, height=height)
        faults.append(Fault(candidate.mask, size, f"{mask_width}x{mask_height}"))
    image_sha256, mask_sha256 = hashes[candidate.image], hashes[candidate.mask]
    return _Facts(candidate, image_sha256, mask_sha256, image_size, mask_size, values, bilevel, tuple(faults))


# --- values ------------------------------------------------------------------------------------------------


def _read_class_file(check: _Check) -> None:
    """Take the classes of `classes.json` if there is one, or note what is wrong in it."""
    if CLASSES_FILE not in check.files:
        return
    try:
        check.class_map = read_classes(check.files[CLASSES_FILE])
    except InvalidFileError as error:
        for expected, found in error.problems:
            check.fault(CLASSES_FILE, expected, found)


def _classes(check: _Check, facts: Iterable[_Facts]) -> ClassMap | None:
    """The classes of `classes.json`, else those that the values of all masks show; None after a fault is noted."""
    if CLASSES_FILE in check.files:
        return check.class_map
    before, seen, bits = len(check.faults), set[int](), set[int]()
    for fact in facts:
        if fact.values is None:
            continue
        mask, lossy = fact.candidate.mask, fact.candidate.mask.lower().endswith(LOSSY_SUFFIXES)
        if len(fact.values) > MAX_VALUES or (lossy and not set(fact.values) <= {0, 255}):
            count = len(fact.values)
            hint = tr("JPEG artefacts, or a photo? store masks as PNG")
            expected = tr("at most {max_values} class values", max_values=MAX_VALUES)
            check.fault(mask, expected, tr("{count} values ({hint})", count=count, hint=hint))
        (bits if fact.bilevel else seen).update(fact.values)
    if len(check.faults) > before or not seen | bits:
        return None
    try:
        return classes_from_values(seen | {bit * bilevel_high(seen) for bit in bits})
    except InvalidFileError as error:
        check.faults += [Fault("masks/", expected, found) for expected, found in error.problems]
        return None


def _mask_values(fact: _Facts, classes: ClassMap) -> dict[int, int]:
    """Mask value -> pixels, with the bits of a one-bit mask as the values that they stand for."""
    if fact.values is None or not fact.bilevel:
        return fact.values or {}
    high = bilevel_high(classes.known)
    return {value * high: pixels for value, pixels in fact.values.items()}


def _check_values(check: _Check, fact: _Facts, classes: ClassMap) -> None:
    """Unknown values, and a mask that teaches nothing."""
    values = _mask_values(fact, classes)
    unknown = [value for value in values if value not in classes.known]
    if unknown:
        found = tr("unknown values {unknown}", unknown=few(unknown))
        if fact.candidate.mask.lower().endswith(LOSSY_SUFFIXES):
            found += tr(" (JPEG artefacts? store masks as PNG)")
        expected = tr("class values {known}", known=few(classes.known, 16))
        check.fault(fact.candidate.mask, expected, found)
    elif values and set(values) <= set(classes.ignore_ids):
        expected = tr("pixels that are not ignored")
        check.fault(fact.candidate.mask, expected, tr("every pixel is ignored"))


def _check_twins(check: _Check, facts: Iterable[_Facts]) -> None:
    """The same picture in two splits makes every score a lie."""
    first: dict[str, _Candidate] = {}
    for fact in facts:
        if fact.image_size is None:
            continue  # two files that are broken alike are no twins
        twin = first.setdefault(fact.image_sha256, fact.candidate)
        if twin.split != fact.candidate.split:
            expected = tr("a picture of one split only")
            ours, theirs, other = fact.candidate.split, twin.split, twin.image
            found = tr("the same as {other} of {theirs} ({ours})", other=other, theirs=theirs, ours=ours)
            check.fault(fact.candidate.image, expected, found)


def _data_set(check: _Check, facts: Iterable[_Facts], classes: ClassMap) -> SegmentationData:
    """The result, with the pixels of each class counted by split."""
    pairs: list[Pair] = []
    counts = {split: Counter[int]() for split in SPLITS}
    for fact in facts:
        assert fact.image_size is not None  # an unreadable picture is a fault
        item = fact.candidate
        image, mask = check.files[item.image], check.files[item.mask]
        pairs.append(Pair(item.name, item.split, image, mask, fact.image_sha256, fact.mask_sha256, *fact.image_size))
        counts[item.split].update(_mask_values(fact, classes))
    used = [split for split in SPLITS if any(pair.split == split for pair in pairs)]
    return SegmentationData(
        root=check.root,
        pairs=tuple(pairs),
        classes=classes,
        pixel_counts={split: tuple(counts[split][value] for value in classes.ids) for split in used},
        ignored_pixels={split: sum(counts[split][value] for value in classes.ignore_ids) for split in used},
        layout=check.layout,
        unlisted=check.unlisted,
        class_file=CLASSES_FILE in check.files,
    )


# --- summary -----------------------------------------------------------------------------------------------
