"""What changed between two versions of masks: pixels and pictures of each class."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from core.console import format_table
from core.i18n import tr
from core.reporting import warn
from dataset.classes import CLASSES_FILE, ClassMap, InvalidFileError, UInt8, read_classes
from dataset.images import bilevel_high, decode_mask
from dataset.layout import SPLITS, is_picture

_MASK = re.compile(rf"(?:(?:{'|'.join(SPLITS)})/)?masks/.+")


def _zeros() -> npt.NDArray[np.int64]:
    return np.zeros(256, np.int64)


@dataclass
class MaskChanges:
    """By mask value: pixels that became it and ceased to be it, pictures that got it, lost it, and have it changed."""

    gained: npt.NDArray[np.int64] = field(default_factory=_zeros)
    lost: npt.NDArray[np.int64] = field(default_factory=_zeros)
    pictures_gained: npt.NDArray[np.int64] = field(default_factory=_zeros)
    pictures_lost: npt.NDArray[np.int64] = field(default_factory=_zeros)
    pictures_changed: npt.NDArray[np.int64] = field(default_factory=_zeros)

    def add(self, before: UInt8 | None, after: UInt8 | None) -> None:
        """One mask (H,W) uint8 on both sides; None where it is not there. Of another size, all its pixels count."""
        gone, come = _counts(before), _counts(after)
        self.pictures_gained += (gone == 0) & (come > 0)
        self.pictures_lost += (gone > 0) & (come == 0)
        if before is not None and after is not None and before.shape == after.shape:
            differs = before != after
            gone, come = _counts(before[differs]), _counts(after[differs])
        self.lost += gone
        self.gained += come
        self.pictures_changed += (gone > 0) | (come > 0)

    def text(self, classes: ClassMap | None) -> str:
        """A table with a row for each value that changed."""
        names = dict(zip(classes.ids, classes.names, strict=True)) if classes else {}
        rows = [
            (
                str(value),
                names.get(value, f"class_{value}" if not classes else tr("(ignored)")),
                f"+{self.gained[value]:,} -{self.lost[value]:,}",
                f"+{self.pictures_gained[value]} -{self.pictures_lost[value]}",
                str(self.pictures_changed[value]),
            )
            for value in np.flatnonzero(self.pictures_changed).tolist()
        ]
        headers = ("id", tr("class"), tr("pixels"), tr("pictures"))
        return format_table((*headers, tr("pictures changed")), rows)


def _counts(values: UInt8 | None) -> npt.NDArray[np.int64]:
    return _zeros() if values is None else np.bincount(values.ravel(), minlength=256).astype(np.int64)


def is_mask(name: str) -> bool:
    """Whether a path below the data folder is that of a mask, in either layout."""
    return bool(_MASK.fullmatch(name)) and is_picture(name)


def compare_masks(before: Path, after: Path, names: Iterable[str]) -> str:
    """The table for these masks of two data folders; a file that is no mask is named and left out."""
    sides = [(folder, class_map(folder)) for folder in (before, after)]
    changes = MaskChanges()
    for name in names:
        try:
            changes.add(*(_read(folder / name, classes) for folder, classes in sides))
        except (InvalidFileError, OSError) as error:
            warn(tr("{name}: {error}", name=name, error=error))
    return changes.text(sides[1][1] or sides[0][1])


def class_map(folder: Path) -> ClassMap | None:
    """The classes of a folder's classes.json; None where there is none, or none that can be read."""
    try:
        return read_classes(folder / CLASSES_FILE) if (folder / CLASSES_FILE).exists() else None
    except InvalidFileError:
        return None


def _read(path: Path, classes: ClassMap | None) -> UInt8 | None:
    if not path.exists():
        return None
    values, bilevel = decode_mask(path.read_bytes(), classes)
    return values * np.uint8(bilevel_high(classes.known if classes else ())) if bilevel else values
