"""Add an export to data that exists: new pairs, and corrected masks of images that are there already."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from core.errors import UsageError
from core.files import write_atomically
from core.hashing import file_sha256
from core.i18n import tr
from core.reporting import progress
from dataset.class_file import read_classes
from dataset.classes import CLASSES_FILE, ClassMap, InvalidFileError, UInt8, abbreviate
from dataset.decoding.mask import read_mask
from dataset.decoding.options import DEFAULT_READING
from dataset.directory import SPLITS, data_files
from dataset.faults import DataFaults, DataWarning, Fault, LeftOut, faults_from_error
from dataset.formats.export import Export, ExportClass, ExportItem
from dataset.formats.record import ImportRecord
from dataset.formats.source import Source
from dataset.formats.write_items import Outcome, name_uniquely, warn_of_rotation, write_items
from dataset.layout.layout import FLAT
from dataset.layout.resolve import resolve_layout
from dataset.splitting.splits import read_splits

STAGING = ".update"  # hidden, in the data directory; a leftover of an interrupted call is made again


@dataclass(frozen=True)
class Updated:
    """What an update did, as names of pairs."""

    added: tuple[str, ...]
    replaced: tuple[str, ...]  # their masks
    unchanged: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    warnings: tuple[DataWarning, ...]


@dataclass(frozen=True)
class _Data:
    """A data directory in this project's own layout: pair name -> paths of its images and masks."""

    root: Path
    classes: ClassMap
    images: Mapping[str, Path]
    masks: Mapping[str, Path]


def update_data(root: Path, source: Source, export: Export, record: ImportRecord) -> Updated:
    """Add the pairs of an export to a data directory; masks of images that it has are replaced.

    Classes are matched by their names, images by name and content. Nothing changes if there are faults; an interrupted
    call is completed by the same call. Raises DataFaults, UsageError if the directory cannot take an export.
    """
    data = _read_data(root)
    export = name_uniquely(_find_images(data, source, export))
    ids = _match_classes(export.classes, data.classes)
    names = {known.id: known.name for known in export.classes}
    items = [replace(item, mask=functools.partial(_with_ids_of_data, item.mask, ids, names)) for item in export.items]
    staging = root / STAGING
    shutil.rmtree(staging, ignore_errors=True)
    try:
        outcomes = list(write_items(staging, source, items, data.classes))
        faults = [fault for outcome in outcomes for fault in outcome.faults]
        if faults:
            raise DataFaults(faults)
        written = [outcome for outcome in outcomes if outcome.left_out is None]
        added, replaced, unchanged = _move(staging, data, written)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    items = [outcome.item for outcome in written]
    warnings = (*export.warnings, *_extend_splits(root, items), *warn_of_rotation(written))
    replace(record, warnings=export.warnings).write(root)
    left_out = [LeftOut(outcome.item.mask_file, outcome.left_out) for outcome in outcomes if outcome.left_out]
    return Updated(tuple(added), tuple(replaced), tuple(unchanged), (*export.left_out, *left_out), warnings)


# --- the data that exists ----------------------------------------------------------------------------------


def _read_data(root: Path) -> _Data:
    """Return the data of a directory. Raises UsageError unless it has images/, masks/ and classes.json."""
    files = data_files(root)
    layout = resolve_layout(files.keys(), root.name)
    if not layout.canonical or layout.kind != FLAT:
        found = layout.describe()
        raise UsageError(tr("{root}: --update needs images/ and masks/, found {found}", root=root, found=found))
    if CLASSES_FILE not in files:
        raise UsageError(tr("{root}: --update needs a {file}", root=root, file=CLASSES_FILE))
    try:
        classes = read_classes(files[CLASSES_FILE])
    except InvalidFileError as error:
        raise DataFaults(faults_from_error(CLASSES_FILE, error)) from None
    return _Data(root, classes, _only_files(files, layout.images("")), _only_files(files, layout.masks("")))


def _only_files(files: Mapping[str, Path], listed: Mapping[str, Sequence[str]]) -> dict[str, Path]:
    """Return name -> file. Raises DataFaults if there are two files of a name."""
    found = {}
    faults = []
    for name, paths in listed.items():
        found[name] = files[paths[0]]
        if len(paths) > 1:
            faults += [Fault(path, tr("one file of this name"), abbreviate(paths, 4)) for path in paths]
    if faults:
        raise DataFaults(faults)
    return found


def _find_images(data: _Data, source: Source, export: Export) -> Export:
    """Give items the names that their images have in the data. Raises DataFaults for other images of the same names."""
    present = progress(data.images.items(), len(data.images), tr("hashing the data"), tr("images"))
    names = {file_sha256(path): name for name, path in present}
    items, faults = [], []
    for item in progress(export.items, len(export.items), tr("comparing the images"), tr("images")):
        content = item.merged() if item.merged else source.files[item.image].read_bytes()
        name = names.get(hashlib.sha256(content).hexdigest())
        if name is None and item.name in data.images:
            expected = tr("the image that is called {name} in the data, or another name", name=item.name)
            faults.append(Fault(item.image, expected, tr("another image")))
        items.append(item if name is None else replace(item, name=name))
    if faults:
        raise DataFaults(faults)
    return replace(export, items=tuple(items))


# --- classes -----------------------------------------------------------------------------------------------


def _match_classes(classes: Iterable[ExportClass], known: ClassMap) -> dict[int, int]:
    """Return id of the export -> id of the data, by names; ignored classes become an ignored id."""
    by_name = dict(zip(known.names, known.ids, strict=True))
    matched = {}
    for entry in classes:
        if not entry.ignore:
            value = by_name.get(entry.name)
        elif entry.id in known.ignore_ids:
            value = entry.id
        else:
            value = known.ignore_ids[0] if known.ignore_ids else None
        if value is not None:
            matched[entry.id] = value
    return matched


def _with_ids_of_data(decode: Callable[[], UInt8], ids: Mapping[int, int], names: Mapping[int, str]) -> UInt8:
    """Return a mask with the ids of the data. Raises InvalidFileError for classes that the data does not have."""
    values = decode()
    missing = [names.get(value, str(value)) for value in np.unique(values).tolist() if value not in ids]
    if missing:
        expected = tr("classes of {file} (add the others to it first)", file=CLASSES_FILE)
        raise InvalidFileError((expected, abbreviate(missing)))
    table = np.zeros(256, np.uint8)
    table[list(ids)] = list(ids.values())
    return table[values]


# --- writing -----------------------------------------------------------------------------------------------


def _move(staging: Path, data: _Data, written: Iterable[Outcome]) -> tuple[list[str], list[str], list[str]]:
    """Move new pairs and changed masks into the data; return the names of added, replaced and unchanged pairs."""
    added, replaced, unchanged = list[str](), list[str](), list[str]()
    for outcome in written:
        name = outcome.item.name
        new, old = staging / "masks" / f"{name}.png", data.masks.get(name)
        if name in data.images and old is not None and _same_mask(old, new, data.classes):
            unchanged.append(name)
            continue
        if name not in data.images:
            image = f"{name}{outcome.item.suffix}"
            _replace(staging / "images" / image, data.root / "images" / image)
        target = data.root / "masks" / f"{name}.png"
        _replace(new, target)
        if old is not None and old != target:
            old.unlink()
        (replaced if name in data.images else added).append(name)
    return added, replaced, unchanged


def _replace(new: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(new, target)


def _same_mask(old: Path, new: Path, classes: ClassMap) -> bool:
    """Return whether two masks have the same classes; a mask that cannot be read is another one."""
    try:
        first, second = (read_mask(path, classes, DEFAULT_READING) for path in (old, new))
    except UsageError:
        return False
    return np.array_equal(first, second)


def _extend_splits(root: Path, items: Iterable[ExportItem]) -> list[DataWarning]:
    """Add names to the user's own split files, as the export has them; return a warning for those in no file.

    The splits that train.py made are extended by train.py. Names that are listed keep their split.
    """
    stored = read_splits(root)
    if stored is None or stored.seed is not None:
        return []
    listed = {name for _, _, name in stored.lines}
    new = [item for item in items if item.name not in listed]
    for split in SPLITS:
        names = sorted(item.name for item in new if item.split == split)
        path = root / "splits" / f"{split}.txt"
        if names:
            before = path.read_bytes() if path.exists() else b""
            before += b"" if before.endswith(b"\n") or not before else b"\n"
            write_atomically(path, before + "".join(f"{name}\n" for name in names).encode())
    unlisted = [item.name for item in new if item.split is None]
    if not unlisted:
        return []
    text = tr("images are not used until a file of splits/ lists them: {names}", names=abbreviate(unlisted))
    return [DataWarning("unlisted-images", text)]
