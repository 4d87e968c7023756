"""Checked data of a directory: the pairs, their classes, and what the check found."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dataset.classes import ClassMap
from dataset.decoding.options import DEFAULT_READING, ReadOptions
from dataset.directory import data_files
from dataset.faults import DataWarning, LeftOut
from dataset.sources.files import LOCAL_FILES, FileSource
from dataset.splitting.groups import Groups


@dataclass(frozen=True)
class Pair:
    """One image and its mask; `name` is the path below images/ without its suffix, '/' between directories."""

    name: str
    split: str
    image: Path
    mask: Path
    image_sha256: str
    mask_sha256: str
    height: int  # pixels, as `SegmentationData.reading` orients them
    width: int
    page: int | None = None  # of both files, where they have several
    group: str | None = None  # of the images that depend on each other: a film or a part of it, a patient, a site


@dataclass(frozen=True)
class SegmentationData:
    """Checked data of a directory; made by `dataset.validation.check_data`."""

    root: Path
    pairs: tuple[Pair, ...]  # by split (train, val, test), then by name
    classes: ClassMap
    pixel_counts: dict[str, tuple[int, ...]]  # split -> pixels of each class index
    ignored_pixels: dict[str, int]  # split -> ignored pixels
    layout: str  # the directories in one line, and how their names differ from the project's own
    reading: ReadOptions = DEFAULT_READING  # how every consumer must read the files
    bands: int = 3  # of the image files; where grey and colour files are mixed, 3
    class_file: bool = False  # whether `classes.json` gave the classes
    warnings: tuple[DataWarning, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    splits_root: Path | None = None  # directory of splits/, where the layout has or would have it
    groups: Groups | None = None  # which images belong together, and by which rule
    source: FileSource = field(default=LOCAL_FILES, repr=False, compare=False)  # which reads the files of `pairs`

    def split(self, name: str) -> tuple[Pair, ...]:
        """Return the pairs of 'train', 'val' or 'test', by name."""
        return tuple(pair for pair in self.pairs if pair.split == name)

    def files(self) -> dict[str, Path]:
        """Return every file to version, by its '/' path below the root."""
        return data_files(self.root)
