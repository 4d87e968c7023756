"""What a reader of an annotation format returns: classes, and images with their masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from dataset.classes import UInt8
from dataset.faults import DataWarning, LeftOut

# Names that tools give to pixels without a label; such a class is ignored.
IGNORED_NAMES = ("void", "ignore", "ignored", "__ignore__", "unlabeled", "unlabelled")


@dataclass(frozen=True)
class ExportClass:
    """One class of an export; `id` is the mask value, 0 to 255. Without a colour, one is chosen.

    `optional`: not written into classes.json if no pixel has this value.
    """

    id: int
    name: str
    color: tuple[int, int, int] | None = None
    ignore: bool = False
    optional: bool = False


@dataclass(frozen=True)
class ExportItem:
    """An image and its mask; `image` and `mask_file` are relative '/' paths in the export.

    `name` is the path below images/ without suffix, `split` one of train, val, test, or None where the export does not
    say. `mask` decodes the mask when it is called: (H,W) uint8 class ids; it raises InvalidFileError, which becomes a
    fault of `mask_file`. `merged` returns the bytes of an image that replaces a copy of `image`, for formats that store
    the channels in separate files.
    """

    name: str
    split: str | None
    image: str
    mask: Callable[[], UInt8]
    mask_file: str
    merged: Callable[[], bytes] | None = None
    merged_suffix: str = ".png"

    @property
    def suffix(self) -> str:
        """Suffix of the image in the data directory."""
        return self.merged_suffix if self.merged else PurePosixPath(self.image).suffix


@dataclass(frozen=True)
class Export:
    """An export in one format, checked except for the content of images and masks.

    `metadata` is added to the metadata of the lakeFS commits that hold the data. `warnings` are printed and stay with
    the data.
    """

    classes: tuple[ExportClass, ...]
    items: tuple[ExportItem, ...]
    left_out: tuple[LeftOut, ...] = ()
    warnings: tuple[DataWarning, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ImportOptions:
    """What the user chose; `strict`: overlapping annotations are faults instead of later over earlier."""

    strict: bool = False
