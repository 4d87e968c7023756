"""The data folder: which files belong to it, in which of the two layouts, and what a checked one holds."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from core.errors import UsageError
from dataset.classes import CLASSES_FILE, ClassMap

SPLITS = ("train", "val", "test")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")
LOSSY_SUFFIXES = (".jpg", ".jpeg")  # a mask stored so no longer holds the values that were written
OUTPUT_FOLDER = "predictions"  # results may lie beside the data; they are never part of it
SAMPLE_STAGING = ".sample"  # where dataset/synthetic.py builds; hidden, so never part of the data
_PARTS = ("images", "masks")
# A link to a folder is followed in these places only: a deliberate one, and no way into a loop.
_LAYOUT_FOLDERS = {*_PARTS, *SPLITS, *(f"{split}/{part}" for split in SPLITS for part in _PARTS)}
CLUTTER = ("thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Pair:
    """One picture and its mask; `name` is the path below images/ without its suffix, '/' between folders."""

    name: str
    split: str
    image: Path
    mask: Path
    image_sha256: str
    mask_sha256: str
    height: int  # pixels, upright
    width: int


@dataclass(frozen=True)
class SegmentationData:
    """A checked data folder; made by `train.data_check.check_data`."""

    root: Path
    pairs: tuple[Pair, ...]  # by split (train, val, test), then by name
    classes: ClassMap
    pixel_counts: dict[str, tuple[int, ...]]  # split -> pixels of each class index
    ignored_pixels: dict[str, int]  # split -> pixels left out
    layout: str = "flat"  # 'flat': images/ + masks/, 'split': train/images, ...
    unlisted: int = 0  # pictures that the user's own split files leave out
    class_file: bool = False  # whether `classes.json` gave the classes

    def split(self, name: str) -> tuple[Pair, ...]:
        """The pairs of 'train', 'val' or 'test', by name."""
        return tuple(pair for pair in self.pairs if pair.split == name)

    def files(self) -> dict[str, Path]:
        """Every file to version, by its '/' path below the root."""
        return data_files(self.root)


def data_files(root: Path) -> dict[str, Path]:
    """Relative '/' path -> path of every file of the data folder, sorted.

    Hidden files and folders, the clutter of file managers and `predictions/` are left out; linked files count,
    linked folders only as one of the layout's own folders (`linked_folders` names the others).
    """
    return dict(sorted(_walk(root)))


def linked_folders(root: Path) -> list[str]:
    """Links to folders that `data_files` does not follow, as relative '/' paths."""
    return sorted(name for name, _ in _walk(root, links=True))


def _walk(folder: Path, prefix: str = "", links: bool = False) -> Iterator[tuple[str, Path]]:
    """Every file, or with `links` every link to a folder that is not followed."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}") from None
    for entry in entries:
        name = prefix + entry.name
        if entry.name.startswith(".") or entry.name.lower() in CLUTTER or name == OUTPUT_FOLDER:
            continue
        linked = entry.is_symlink()
        if not (Path(entry.path).is_dir() if linked else entry.is_dir()):  # a link to itself makes entry.is_dir() raise
            if not links:
                yield name, Path(entry.path)
        elif not linked or name in _LAYOUT_FOLDERS:
            yield from _walk(Path(entry.path), name + "/", links)
        elif links:
            yield name, Path(entry.path)


def is_empty(root: Path) -> bool:
    """Whether a sample set may be made here: no picture, no class list, nothing in the layout's folders.

    Also true while a sample set that was whole is being moved into place: the next call has to finish that.
    """
    if (root / SAMPLE_STAGING / "complete").exists():
        return True
    own = tuple(f"{folder}/" for folder in (*_PARTS, *SPLITS, "splits"))
    return not any(name == CLASSES_FILE or is_picture(name) or name.startswith(own) for name, _ in _walk(root))


def is_picture(name: str) -> bool:
    """Whether the suffix is one of a picture, in upper or lower case."""
    return name.lower().endswith(PICTURE_SUFFIXES)


def layouts_of(files: Collection[str]) -> tuple[str, ...]:
    """Which layouts these relative paths show: 'flat', 'split', both or none."""
    flat = any(name.startswith(("images/", "masks/")) for name in files)
    split = any(name.startswith(tuple(f"{s}/{part}/" for s in SPLITS for part in _PARTS)) for name in files)
    return ("flat",) * flat + ("split",) * split


def pictures_below(files: Iterable[str], prefix: str) -> dict[str, list[str]]:
    """Pair name -> relative paths of the pictures below `prefix` ('images/'); more than one path is a fault.

    Names are in Unicode's composed form: macOS writes Korean file names in the other one.
    """
    found: dict[str, list[str]] = {}
    for path in files:
        if path.startswith(prefix) and is_picture(path):
            found.setdefault(composed(path[len(prefix) : path.rindex(".")]), []).append(path)
    return found


def composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
