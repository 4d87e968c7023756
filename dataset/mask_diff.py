"""Compare two versions of masks: changed pixels and images of each class."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from core.console import format_table
from core.i18n import tr
from core.reporting import warn
from dataset.class_file import read_classes
from dataset.classes import CLASSES_FILE, ClassMap, InvalidFileError, UInt8
from dataset.decoding.mask import bilevel_high, decode_mask
from dataset.decoding.options import DEFAULT_READING


def _zeros() -> npt.NDArray[np.int64]:
    return np.zeros(256, np.int64)


@dataclass
class MaskChanges:
    """Changes by mask value, 256 entries each: pixels gained and lost; images that gained, lost or changed the value."""

    gained: npt.NDArray[np.int64] = field(default_factory=_zeros)
    lost: npt.NDArray[np.int64] = field(default_factory=_zeros)
    images_gained: npt.NDArray[np.int64] = field(default_factory=_zeros)
    images_lost: npt.NDArray[np.int64] = field(default_factory=_zeros)
    images_changed: npt.NDArray[np.int64] = field(default_factory=_zeros)

    def add(self, before: UInt8 | None, after: UInt8 | None) -> None:
        """Add one mask (H,W) uint8 of both versions; None where it does not exist. If the sizes differ, all pixels count."""
        removed, added = _counts(before), _counts(after)
        self.images_gained += (removed == 0) & (added > 0)
        self.images_lost += (removed > 0) & (added == 0)
        if before is not None and after is not None and before.shape == after.shape:
            differs = before != after
            removed, added = _counts(before[differs]), _counts(after[differs])
        self.lost += removed
        self.gained += added
        self.images_changed += (removed > 0) | (added > 0)

    def text(self, classes: ClassMap | None) -> str:
        """Return a table with a row for each value that changed."""
        names = dict(zip(classes.ids, classes.names, strict=True)) if classes else {}
        rows = [
            (
                str(value),
                names.get(value, f"class_{value}" if not classes else tr("(ignored)")),
                f"+{self.gained[value]:,} -{self.lost[value]:,}",
                f"+{self.images_gained[value]} -{self.images_lost[value]}",
                str(self.images_changed[value]),
            )
            for value in np.flatnonzero(self.images_changed).tolist()
        ]
        headers = ("id", tr("class"), tr("pixels"), tr("image count"))
        return format_table((*headers, tr("images changed")), rows)


def _counts(values: UInt8 | None) -> npt.NDArray[np.int64]:
    return _zeros() if values is None else np.bincount(values.ravel(), minlength=256).astype(np.int64)


def compare_masks(
    before: Path, after: Path, names: Iterable[str], class_files: tuple[str, str] = (CLASSES_FILE, CLASSES_FILE)
) -> str:
    """Return the table for these masks of two data directories; warn about unreadable files and skip them."""
    sides = [(folder, read_class_map(folder / file)) for folder, file in zip((before, after), class_files, strict=True)]
    changes = MaskChanges()
    for name in names:
        try:
            changes.add(*(_read(folder / name, classes) for folder, classes in sides))
        except (InvalidFileError, OSError) as error:
            warn(tr("{name}: {error}", name=name, error=error))
    return changes.text(sides[1][1] or sides[0][1])


def read_class_map(file: Path) -> ClassMap | None:
    """Return the classes of a classes.json; None if it is missing or invalid."""
    try:
        return read_classes(file) if file.exists() else None
    except InvalidFileError:
        return None


def _read(path: Path, classes: ClassMap | None) -> UInt8 | None:
    if not path.exists():
        return None
    mask = decode_mask(path.read_bytes(), classes, DEFAULT_READING)
    return mask.values * np.uint8(bilevel_high(classes.known if classes else ())) if mask.bilevel else mask.values
