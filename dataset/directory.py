"""List the files of a data directory."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from core.errors import UsageError
from dataset.classes import CLASSES_FILE
from dataset.layout.ignore import IGNORE_FILE, read_ignore_rules
from dataset.layout.vocabulary import read_directory_name

GROUPS_FILE = "groups.csv"  # the user's own list of which images belong together
SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif"),
    *(".jfif", ".jpe", ".dib", ".ppm", ".pgm", ".pbm", ".pnm"),
)
LOSSY_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".jpe")  # lossy compression changes the values of a mask
OUTPUT_FOLDER = "predictions"  # predictions may be stored beside the data; never part of it
CHECK_PAGE = "check.html"  # of train.py --check-only; never part of the data
_CHECK_PAGE_MARK = b'content="train.py --check-only"'  # near the start of that file
SAMPLE_STAGING = ".sample"  # where dataset/synthetic.py builds the sample data; hidden, so never part of the data
_TEXTS = r"\.lakefsignore|(readme|licen[cs]e)(\.[^/]*)?|[^/]*\.(md|txt)"  # at the top of the directory

# Files and directories that operating systems, file managers, network storage and editors leave behind; lower case.
_CLUTTER_NAMES = {
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"),
    *("__macosx", "$recycle.bin", "recycler", "system volume information", "lost+found"),
    *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),
}
_CLUTTER_ENDINGS = ("zone.identifier", ":smartscreen", ":com.dropbox.attributes", ":com.dropbox.attrs", "~")


def data_files(root: Path) -> dict[str, Path]:
    """Return relative '/' path -> path of every file of the data directory, sorted.

    Clutter (`is_data_name`), `predictions/` and what `.lakefsignore` names are excluded. Linked files are included, linked
    directories only in the places of a layout (`list_linked_directories` returns the others).
    """
    return dict(sorted(_walk(root)))


def list_linked_directories(root: Path) -> list[str]:
    """Return links to directories that `data_files` does not follow, as relative '/' paths."""
    return sorted(name for name, _ in _walk(root, links=True))


def ignored_files(root: Path) -> list[str]:
    """Return the files that `.lakefsignore` excludes, as relative '/' paths."""
    rules = read_ignore_rules(root)
    return [] if rules is None else sorted(name for name, _ in _walk_below(root) if rules.ignores(name))


def _walk(root: Path, links: bool = False) -> Iterator[tuple[str, Path]]:
    """Yield every file that is not ignored, or with `links` every link to a directory that is not followed."""
    rules = read_ignore_rules(root)
    if rules is not None and not links:
        yield IGNORE_FILE, root / IGNORE_FILE
    for name, path in _walk_below(root, links=links):
        if rules is None or not rules.ignores(name):
            yield name, path


def _walk_below(folder: Path, prefix: str = "", links: bool = False) -> Iterator[tuple[str, Path]]:
    """Yield every file below a directory, or every link that is not followed, ignored ones too."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}") from None
    for entry in entries:
        name = prefix + entry.name
        if is_clutter(entry.name) or name == OUTPUT_FOLDER:
            continue
        if name == CHECK_PAGE and is_check_page(Path(entry.path)):
            continue
        linked = entry.is_symlink()
        if not (Path(entry.path).is_dir() if linked else entry.is_dir()):  # a link to itself makes entry.is_dir() raise
            if not links:
                yield name, Path(entry.path)
        elif not linked or _is_layout_directory(name):
            yield from _walk_below(Path(entry.path), name + "/", links)
        elif links:
            yield name, Path(entry.path)


def move_is_pending(root: Path) -> bool:
    """Return whether complete sample data was being moved into place when its process ended."""
    return (root / SAMPLE_STAGING / "complete").exists()


def holds_only_texts(root: Path) -> bool:
    """Return whether there is nothing but texts about the directory, such as README.md: no data, and no lost data either."""
    return all(re.fullmatch(_TEXTS, name, re.IGNORECASE) for name, _ in _walk(root))


def is_empty(root: Path) -> bool:
    """Return whether sample data may be made here: no image, no class list, nothing in the layout's directories.

    Also true while complete sample data is being moved into place: the next call has to finish the move.
    """
    if move_is_pending(root):
        return True
    return not any(
        name == CLASSES_FILE
        or is_image(name)
        or name.startswith("splits/")
        or ("/" in name and _is_layout_directory(name.split("/")[0]))
        for name, _ in _walk(root)
    )


def is_clutter(name: str) -> bool:
    """Return whether a file or directory of this name, without its path, is never data: hidden, or left by a system."""
    lower = name.lower()
    return name.startswith((".", "~$")) or lower in _CLUTTER_NAMES or lower.endswith(_CLUTTER_ENDINGS)


def is_check_page(path: Path) -> bool:
    """Return whether a file was written by `train.py --check-only`, and not by the user."""
    try:
        with path.open("rb") as stream:
            return _CHECK_PAGE_MARK in stream.read(1000)
    except OSError:
        return False


def is_data_name(path: str) -> bool:
    """Return whether a relative '/' path is that of data, as `data_files` lists it."""
    parts = path.split("/")
    if path == IGNORE_FILE:
        return True
    return bool(path) and parts[0] != OUTPUT_FOLDER and not any(map(is_clutter, parts))


def _is_layout_directory(path: str) -> bool:
    """Return whether a directory is a place of images, masks or a split, where a link is deliberate.

    At most two names of a path have such a meaning, so that links cannot form a loop.
    """
    meanings = [read_directory_name(name) for name in path.split("/")]
    known = [bool(meaning.role or meaning.split) for meaning in meanings]
    roles = sum(bool(meaning.role) for meaning in meanings)
    splits = sum(bool(meaning.split) for meaning in meanings)
    return known[-1] and roles <= 1 and splits <= 1


def is_image(name: str) -> bool:
    """Return whether the suffix is that of an image, in upper or lower case."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def composed(name: str) -> str:
    """Return the name in Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", name)


def images_below(files: Iterable[str], prefix: str) -> dict[str, list[str]]:
    """Return name -> relative paths of the images below `prefix` ('images/'); more than one path is a fault.

    Names are in Unicode's composed form: macOS writes Korean file names in the other one.
    """
    found: dict[str, list[str]] = {}
    for path in files:
        if path.startswith(prefix) and is_image(path):
            found.setdefault(composed(path[len(prefix) : path.rindex(".")]), []).append(path)
    return found
