"""List the files of a data directory."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from core.errors import UsageError
from dataset.classes import CLASSES_FILE

GROUPS_FILE = "groups.csv"  # the user's own list of which images belong together
SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")
LOSSY_SUFFIXES = (".jpg", ".jpeg")  # lossy compression changes the values of a mask
OUTPUT_FOLDER = "predictions"  # predictions may be stored beside the data; never part of it
SAMPLE_STAGING = ".sample"  # where dataset/synthetic.py builds the sample data; hidden, so never part of the data
PARTS = ("images", "masks")
# Links to directories are followed only here: they are deliberate, and cannot form a loop.
_LAYOUT_FOLDERS = {*PARTS, *SPLITS, *(f"{split}/{part}" for split in SPLITS for part in PARTS)}
CLUTTER = ("thumbs.db", "desktop.ini")


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
    own = tuple(f"{folder}/" for folder in (*PARTS, *SPLITS, "splits"))
    return not any(name == CLASSES_FILE or is_image(name) or name.startswith(own) for name, _ in _walk(root))


def is_image(name: str) -> bool:
    """Return whether the suffix is that of an image, in upper or lower case."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def composed(name: str) -> str:
    """Return the name in Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", name)
