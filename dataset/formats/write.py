"""Write an export into a data directory: images/, masks/ as palette PNG, splits/, classes.json and the import's record."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core.errors import UsageError
from core.i18n import tr, trn
from dataset.classes import CLASSES_FILE, ClassMap, abbreviate, build_classes
from dataset.directory import SAMPLE_STAGING, SPLITS
from dataset.faults import DataFaults, DataWarning, Fault, LeftOut
from dataset.formats.export import Export, ExportClass, ExportItem
from dataset.formats.record import ImportRecord, read_record
from dataset.formats.source import Source
from dataset.formats.write_items import Outcome, name_uniquely, warn_of_rotation, write_items
from dataset.sources.synthetic import fill_folder


@dataclass(frozen=True)
class Written:
    """What an import wrote; `splits` is the number of pairs of each split, under "" those without one."""

    splits: dict[str, int]
    classes: tuple[ExportClass, ...]
    left_out: tuple[LeftOut, ...]
    warnings: tuple[DataWarning, ...]


def write_export(root: Path, source: Source, export: Export, record: ImportRecord) -> Written | None:
    """Write an export into an empty data directory; all or nothing, also after an interruption.

    Return None if this call only finished an interrupted import. Raises DataFaults with all faults of the content,
    UsageError if the directory holds other data.
    """
    _check_unfinished(root, record)
    export, classes = name_uniquely(export), unique_colors(export.classes)
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
    outcomes = list(write_items(staging, source, export.items, class_map))
    faults = [fault for outcome in outcomes for fault in outcome.faults]
    if faults:
        raise DataFaults(faults)
    written = [outcome for outcome in outcomes if outcome.left_out is None]
    if not written:
        raise DataFaults([Fault(f"{source.root.name}/", tr("at least one image with a mask"), tr("none"))])
    left_out = [LeftOut(outcome.item.mask_file, outcome.left_out) for outcome in outcomes if outcome.left_out]
    items = [outcome.item for outcome in written]
    warnings = (*export.warnings, *_warn_of_splits(items), *_warn_of_copies(written), *warn_of_rotation(written))
    used = frozenset[int]().union(*(outcome.values for outcome in written))
    classes = tuple(known for known in export.classes if known.id in used or not known.optional)
    _write_classes(staging, classes, class_map)
    _write_splits(staging, items)
    replace(record, warnings=export.warnings).write(staging)
    counts = Counter(item.split or "" for item in items)
    splits = {split: counts[split] for split in (*SPLITS, "") if counts[split]}
    return Written(splits, classes, (*export.left_out, *left_out), warnings)


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
        text = trn(
            "{count} image is in {split} and {others} in no split: train.py divides all of them",
            "{count} images are in {split} and {others} in no split: train.py divides all of them",
            counts[used[0]],
            split=used[0],
            others=counts[None],
        )
        return [DataWarning("single-split", text)]
    if len(used) == 1:
        text = tr("every image is in {split}: train.py divides them into train, val and test", split=used[0])
        return [DataWarning("single-split", text)]
    warnings = []
    if used and counts[None]:
        text = trn(
            "{count} image is in no split and will not be used",
            "{count} images are in no split and will not be used",
            counts[None],
        )
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


def _warn_of_copies(outcomes: Sequence[Outcome]) -> list[DataWarning]:
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
    text = trn(
        "{count} image has the same content as an image of another split, which train.py refuses: {copies}",
        "{count} images have the same content as an image of another split, which train.py refuses: {copies}",
        len(copies),
        copies=abbreviate(copies, 3),
    )
    return [DataWarning("copied-images", text)]
