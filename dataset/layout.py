"""List the files of a data directory, detect its layout, and describe checked data."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from core.errors import UsageError
from dataset.classes import CLASSES_FILE, ClassMap

SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")
LOSSY_SUFFIXES = (".jpg", ".jpeg")  # lossy compression changes the values of a mask
OUTPUT_FOLDER = "predictions"  # predictions may be stored beside the data; never part of it
SAMPLE_STAGING = ".sample"  # where dataset/synthetic.py builds the sample data; hidden, so never part of the data
_PARTS = ("images", "masks")
# Links to directories are followed only here: they are deliberate, and cannot form a loop.
_LAYOUT_FOLDERS = {*_PARTS, *SPLITS, *(f"{split}/{part}" for split in SPLITS for part in _PARTS)}
CLUTTER = ("thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Pair:
    """One image and its mask; `name` is the path below images/ without its suffix, '/' between directories."""

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
    """Checked data of a directory; made by `dataset.validation.check_data`."""

    root: Path
    pairs: tuple[Pair, ...]  # by split (train, val, test), then by name
    classes: ClassMap
    pixel_counts: dict[str, tuple[int, ...]]  # split -> pixels of each class index
    ignored_pixels: dict[str, int]  # split -> ignored pixels
    layout: str = "flat"  # 'flat': images/ + masks/, 'split': train/images, ...
    unlisted: int = 0  # images that the user's own split files leave out
    class_file: bool = False  # whether `classes.json` gave the classes

    def split(self, name: str) -> tuple[Pair, ...]:
        """Return the pairs of 'train', 'val' or 'test', by name."""
        return tuple(pair for pair in self.pairs if pair.split == name)

    def files(self) -> dict[str, Path]:
        """Return every file to version, by its '/' path below the root."""
        return data_files(self.root)


def data_files(root: Path) -> dict[str, Path]:
    """Return relative '/' path -> path of every file of the data directory, sorted.

    Hidden files and directories, files of file managers (Thumbs.db) and `predictions/` are excluded. Linked files are
    included, linked directories only in the places of the layout (`list_linked_directories` returns the others).
    """
    return dict(sorted(_walk(root)))


def list_linked_directories(root: Path) -> list[str]:
    """Return links to directories that `data_files` does not follow, as relative '/' paths."""
    return sorted(name for name, _ in _walk(root, links=True))


def _walk(folder: Path, prefix: str = "", links: bool = False) -> Iterator[tuple[str, Path]]:
    """Yield every file, or with `links` every link to a directory that is not followed."""
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
    """Return whether sample data may be made here: no image, no class list, nothing in the layout's directories.

    Also true while complete sample data is being moved into place: the next call has to finish the move.
    """
    if (root / SAMPLE_STAGING / "complete").exists():
        return True
    own = tuple(f"{folder}/" for folder in (*_PARTS, *SPLITS, "splits"))
    return not any(name == CLASSES_FILE or is_image(name) or name.startswith(own) for name, _ in _walk(root))


def is_image(name: str) -> bool:
    """Return whether the suffix is that of an image, in upper or lower case."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def detect_layouts(files: Collection[str]) -> tuple[str, ...]:
    """Return the layouts that these relative paths show: 'flat', 'split', both or none."""
    flat = any(name.startswith(("images/", "masks/")) for name in files)
    split = any(name.startswith(tuple(f"{s}/{part}/" for s in SPLITS for part in _PARTS)) for name in files)
    return tuple(name for name, present in (("flat", flat), ("split", split)) if present)


def images_below(files: Iterable[str], prefix: str) -> dict[str, list[str]]:
    """Return pair name -> relative paths of the images below `prefix` ('images/'); more than one path is a fault.

    Names are in Unicode's composed form: macOS writes Korean file names in the other one.
    """
    found: dict[str, list[str]] = {}
    for path in files:
        if path.startswith(prefix) and is_image(path):
            found.setdefault(composed(path[len(prefix) : path.rindex(".")]), []).append(path)
    return found


def composed(name: str) -> str:
    """Return the name in Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", name)
