"""Write an export into a data directory: images/, masks/ as palette PNG, splits/, classes.json and the import's record."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from core.errors import UsageError
from core.i18n import tr
from core.reporting import progress
from dataset.classes import CLASSES_FILE, ClassMap, InvalidFileError, UInt8, abbreviate, build_classes
from dataset.decoding.header import Size, image_sizes
from dataset.directory import SAMPLE_STAGING, SPLITS, composed
from dataset.faults import DataFaults, DataWarning, Fault, LeftOut, faults_from_error
from dataset.formats.export import Export, ExportClass, ExportItem
from dataset.formats.record import ImportRecord, read_record
from dataset.formats.source import Source
from dataset.synthetic import fill_folder

_WINDOW = 64  # items in flight, so that memory does not grow with their number


@dataclass(frozen=True)
class Written:
    """What an import wrote; `splits` is the number of pairs of each split, under "" those without one."""

    splits: dict[str, int]
    classes: tuple[ExportClass, ...]
    left_out: tuple[LeftOut, ...]
    warnings: tuple[DataWarning, ...]


@dataclass(frozen=True)
class _Outcome:
    """One item after reading: its faults, or why it was left out, or the checksum of its image."""

    item: ExportItem
    faults: tuple[Fault, ...] = ()
    left_out: str | None = None
    image_sha256: str = ""
    values: frozenset[int] = frozenset()  # of the mask
    raw_orientation: bool = False  # the mask has the size of the stored pixels, which are shown rotated


def write_export(root: Path, source: Source, export: Export, record: ImportRecord) -> Written | None:
    """Write an export into an empty data directory; all or nothing, also after an interruption.

    Return None if this call only finished an interrupted import. Raises DataFaults with all faults of the content,
    UsageError if the directory holds other data.
    """
    _check_unfinished(root, record)
    export, classes = _name_uniquely(export), unique_colors(export.classes)
    results: list[Written] = []

    def build(staging: Path) -> None:
        try:
            results.append(_build(staging, source, replace(export, classes=classes), record))
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise

    fill_folder(root, build)
    return results[0] if results else None


def _check_unfinished(root: Path, record: ImportRecord) -> None:
    """Raise UsageError if the import of another export was interrupted here while it moved its files into place."""
    staging = root / SAMPLE_STAGING
    if not (staging / "complete").exists():
        return
    unfinished = read_record(staging) or read_record(root)
    if unfinished is None or (unfinished.format, unfinished.sha256) != (record.format, record.sha256):
        raise UsageError(
            tr(
                "{root}: other data is only partly here: repeat the command that was interrupted, or delete {staging}",
                root=root,
                staging=staging,
            )
        )


def _name_uniquely(export: Export) -> Export:
    """Put the split in front of every name if two items of different splits have the same name.

    Raises DataFaults for items that have the same name otherwise: names that differ in case only are the same on
    Windows and macOS.
    """
    items = [replace(item, name=composed(item.name)) for item in export.items]
    if _repeated(items):
        items = [replace(item, name=f"{item.split}/{item.name}" if item.split else item.name) for item in items]
    repeated = _repeated(items)
    if repeated:
        expected = tr("one image of each name")
        raise DataFaults(
            Fault(item.mask_file, expected, tr("'{name}' more than once", name=item.name)) for item in repeated
        )
    if any(item.split for item in items):
        _check_listable(items)
    return replace(export, items=tuple(items))


def _check_listable(items: Sequence[ExportItem]) -> None:
    """Raise DataFaults for names that a split file cannot hold."""
    expected = tr("a name without line breaks, backslashes, outer blanks and a leading '#'")
    faults = [
        Fault(item.image, expected, repr(item.name))
        for item in items
        if item.name.splitlines() != [item.name.strip()] or "\\" in item.name or item.name.startswith("#")
    ]
    if faults:
        raise DataFaults(faults)


def _repeated(items: Sequence[ExportItem]) -> list[ExportItem]:
    counts = Counter(item.name.casefold() for item in items)
    return [item for item in items if counts[item.name.casefold()] > 1]


def unique_colors(classes: Iterable[ExportClass]) -> tuple[ExportClass, ...]:
    """Return the classes, each with a colour of its own: the first of two with one colour keeps it, learned ones first.

    A palette mask is read by colour, so that two classes of one colour could not be told apart.
    """
    taken = set[tuple[int, int, int]]()
    kept: dict[int, tuple[int, int, int] | None] = {}
    for known in sorted(classes, key=lambda known: (known.ignore, known.id)):
        color = known.color if known.color is not None and known.color not in taken else None
        kept[known.id] = color
        if color is not None:
            taken.add(color)
    return tuple(replace(known, color=kept[known.id]) for known in sorted(classes, key=lambda known: known.id))


# --- files -------------------------------------------------------------------------------------------------


def _build(staging: Path, source: Source, export: Export, record: ImportRecord) -> Written:
    """Write everything into `staging`. Raises DataFaults with the faults of all items."""
    class_map = build_classes((known.id, known.name, known.color, known.ignore) for known in export.classes)
    for part in ("images", "masks"):
        (staging / part).mkdir(parents=True)
    outcomes = list(_write_items(staging, source, export.items, class_map))
    faults = [fault for outcome in outcomes for fault in outcome.faults]
    if faults:
        raise DataFaults(faults)
    written = [outcome for outcome in outcomes if outcome.left_out is None]
    if not written:
        raise DataFaults([Fault(f"{source.root.name}/", tr("at least one image with a mask"), tr("none"))])
    left_out = [LeftOut(outcome.item.mask_file, outcome.left_out) for outcome in outcomes if outcome.left_out]
    items = [outcome.item for outcome in written]
    warnings = (*export.warnings, *_warn_of_splits(items), *_warn_of_copies(written), *_warn_of_rotation(written))
    used = frozenset[int]().union(*(outcome.values for outcome in written))
    classes = tuple(known for known in export.classes if known.id in used or not known.optional)
    _write_classes(staging, classes, class_map)
    _write_splits(staging, items)
    replace(record, warnings=export.warnings).write(staging)
    counts = Counter(item.split or "" for item in items)
    splits = {split: counts[split] for split in (*SPLITS, "") if counts[split]}
    return Written(splits, classes, (*export.left_out, *left_out), warnings)


def _write_items(staging: Path, source: Source, items: Sequence[ExportItem], classes: ClassMap) -> Iterator[_Outcome]:
    """Write images and masks; yield the outcomes in order. Decoding releases the GIL, so threads help."""
    write = functools.partial(_write_item, staging, source, classes=classes, palette=classes.palette())
    with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 1)) as pool:

        def windows() -> Iterator[_Outcome]:
            for start in range(0, len(items), _WINDOW):
                yield from pool.map(write, items[start : start + _WINDOW])

        yield from progress(windows(), len(items), tr("importing"), tr("pairs"))


def _write_item(staging: Path, source: Source, item: ExportItem, classes: ClassMap, palette: bytes) -> _Outcome:
    """Write one image and its mask, unless there is a fault or every pixel is ignored."""
    file = item.mask_file
    try:
        values = item.mask()
        file = item.image
        data = item.merged() if item.merged else source.files[item.image].read_bytes()
        upright, stored = image_sizes(data)
    except InvalidFileError as error:
        return _Outcome(item, tuple(faults_from_error(file, error)))
    except OSError as error:
        return _Outcome(item, (Fault(file, tr("a readable file"), error.strerror or str(error)),))
    used = frozenset(np.unique(values).tolist())
    faults = _check_mask(item, values, used, (upright, stored), classes)
    if faults:
        return _Outcome(item, tuple(faults))
    if used <= {*classes.ignore_ids}:
        return _Outcome(item, left_out=tr("every pixel is ignored"))
    image_path, mask_path = staging / "images" / f"{item.name}{item.suffix}", staging / "masks" / f"{item.name}.png"
    for path in (image_path, mask_path):
        path.parent.mkdir(parents=True, exist_ok=True)
    image_path.write_bytes(data)
    mask_path.write_bytes(palette_png(values, palette))
    raw_orientation = values.shape != upright
    return _Outcome(item, image_sha256=hashlib.sha256(data).hexdigest(), values=used, raw_orientation=raw_orientation)


def _check_mask(
    item: ExportItem, values: UInt8, used: frozenset[int], sizes: tuple[Size, Size], classes: ClassMap
) -> list[Fault]:
    """Return faults of a mask that fits the image neither as it is shown nor as it is stored, or has unknown values."""
    if values.shape not in sizes:
        expected = tr("{width}x{height} (size of the image)", width=sizes[0][1], height=sizes[0][0])
        return [Fault(item.mask_file, expected, f"{values.shape[1]}x{values.shape[0]}")]
    unknown = sorted(used - {*classes.known})
    if unknown:
        found = tr("unknown values {unknown}", unknown=abbreviate(unknown))
        return [Fault(item.mask_file, tr("class values {known}", known=abbreviate(classes.known, 16)), found)]
    return []


def palette_png(values: UInt8, palette: bytes) -> bytes:
    """Return a PNG of mask values (H,W) uint8, whose palette shows the class colours in a viewer."""
    image, buffer = Image.fromarray(values), io.BytesIO()
    image.putpalette(palette)
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _write_classes(staging: Path, classes: Sequence[ExportClass], class_map: ClassMap) -> None:
    """Write classes.json with the colours of the masks' palette."""
    colors = dict(zip(class_map.ids, class_map.colors, strict=True))
    colors |= dict(zip(class_map.ignore_ids, class_map.ignore_colors, strict=True))
    rows = []
    for known in classes:
        entry = {"id": known.id, "name": known.name, "color": list(colors[known.id])}
        rows.append(json.dumps(entry | ({"ignore": True} if known.ignore else {}), ensure_ascii=False))
    (staging / CLASSES_FILE).write_bytes(("[\n  " + ",\n  ".join(rows) + "\n]\n").encode())


def _write_splits(staging: Path, items: Sequence[ExportItem]) -> None:
    """Write the splits of the export as the user's own split files, unless everything is in one split or in none.

    Without the first line that train.py writes, they are neither extended nor shuffled.
    """
    names = {split: sorted(item.name for item in items if item.split == split) for split in SPLITS}
    used = [split for split in SPLITS if names[split]]
    if len(used) < 2:
        return
    (staging / "splits").mkdir()
    for split in used:
        (staging / "splits" / f"{split}.txt").write_bytes("".join(f"{name}\n" for name in names[split]).encode())


# --- warnings ----------------------------------------------------------------------------------------------


def _warn_of_splits(items: Sequence[ExportItem]) -> list[DataWarning]:
    """Return warnings of splits that train.py cannot take as they are."""
    counts = Counter(item.split for item in items)
    used = [split for split in SPLITS if counts[split]]
    if len(used) == 1 and counts[None]:
        text = tr(
            "{count} images are in {split} and {others} in no split: train.py divides all of them",
            count=counts[used[0]],
            split=used[0],
            others=counts[None],
        )
        return [DataWarning("single-split", text)]
    if len(used) == 1:
        text = tr("every image is in {split}: train.py divides them into train, val and test", split=used[0])
        return [DataWarning("single-split", text)]
    warnings = []
    if used and counts[None]:
        text = tr("{count} images are in no split and will not be used", count=counts[None])
        warnings.append(DataWarning("unlisted-images", text))
    missing = [split for split in ("train", "val") if used and not counts[split]]
    if missing:
        text = tr(
            "the export has no {split} split: move names of other files into splits/{split}.txt, or delete splits/ to "
            "divide all images anew",
            split=missing[0],
        )
        warnings.append(DataWarning("missing-split", text))
    return warnings


def _warn_of_copies(outcomes: Sequence[_Outcome]) -> list[DataWarning]:
    """Return a warning for images with the same content in two splits: train.py refuses them."""
    first: dict[str, ExportItem] = {}
    copies = []
    for outcome in outcomes:
        item = outcome.item
        other = first.setdefault(outcome.image_sha256, item)
        if other.split != item.split:
            copies.append(f"{item.name} = {other.name}")
    if not copies:
        return []
    text = tr(
        "{count} images have the same content as an image of another split, which train.py refuses: {copies}",
        count=len(copies),
        copies=abbreviate(copies, 3),
    )
    return [DataWarning("copied-images", text)]


def _warn_of_rotation(outcomes: Sequence[_Outcome]) -> list[DataWarning]:
    """Return a warning for masks that were drawn on images without their EXIF orientation."""
    names = [outcome.item.name for outcome in outcomes if outcome.raw_orientation]
    if not names:
        return []
    text = tr(
        "{count} masks have the size of the image without its EXIF orientation, train with --raw-orientation: {names}",
        count=len(names),
        names=abbreviate(names, 3),
    )
    return [DataWarning("raw-orientation", text)]
