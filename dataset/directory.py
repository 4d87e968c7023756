"""List the files of a data directory."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from core.errors import UsageError
from core.files import find_lfs_pointers, open_regular
from core.i18n import tr, trn
from core.safety.terminal import escape_line
from dataset.classes import CLASSES_FILE, abbreviate
from dataset.faults import DataFaults, Fault
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
# Where dataset/sources/synthetic.py builds the sample data; hidden, so never part of the data.
SAMPLE_STAGING = ".sample"
_TEXTS = r"\.lakefsignore|(readme|licen[cs]e)(\.[^/]*)?|[^/]*\.(md|txt)"  # at the top of the directory

# Files and directories that operating systems, file managers, network storage and editors leave behind; lower case.
_CLUTTER_NAMES = {
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"),
    *("__macosx", "$recycle.bin", "recycler", "system volume information", "lost+found"),
    *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),
}
_CLUTTER_ENDINGS = ("zone.identifier", ":smartscreen", ":com.dropbox.attributes", ":com.dropbox.attrs", "~")


def require_contents(root: Path, files: Mapping[str, Path]) -> None:
    """Raise UsageError if files of a directory are pointers of Git LFS, which have neither pixels nor lists."""
    pointers = set(find_lfs_pointers(files.values()))
    names = [name for name, path in files.items() if path in pointers]
    if names:
        raise UsageError(
            trn(
                "{root}: {count} file is a Git LFS pointer, not the file itself ({names}): run git lfs pull",
                "{root}: {count} files are Git LFS pointers, not the files themselves ({names}): run git lfs pull",
                len(names),
                root=root,
                names=abbreviate(names, 3),
            )
        )


@dataclass(frozen=True)
class Listing:
    """The entries of a data directory: files that may be read, and what must not be opened."""

    files: dict[str, Path]  # relative '/' path -> path of a regular file inside the directory, sorted
    refused: tuple[Fault, ...]  # special files, and links that lead nowhere, out of the directory or to a directory


def data_files(root: Path) -> dict[str, Path]:
    """Return relative '/' path -> path of every file of the data directory, sorted.

    Clutter (`is_data_name`), `predictions/` and what `.lakefsignore` names are excluded. Links to files inside the
    directory are included. Raises DataFaults, without opening any file, for everything that is not a regular file inside.
    """
    listing = list_directory(root)
    if listing.refused:
        raise DataFaults(listing.refused)
    return listing.files


def list_directory(root: Path) -> Listing:
    """Return what is in a data directory; no file but `.lakefsignore` is opened. Raises UsageError if it cannot be listed.

    A link to a directory inside of it is followed in the places of a layout only.
    """
    rules = read_ignore_rules(root) if not refusal(root / IGNORE_FILE, root) else None
    files: dict[str, Path] = {}
    refused: list[Fault] = []
    for name, path, is_regular in [*_walk_below(root, root), *_ignore_file(root)]:
        if rules is not None and rules.ignores(name):
            continue
        found = None if is_regular else refusal(path, root)
        if found is None:
            files[name] = path
        elif os.path.isdir(path):
            refused.append(Fault(name, tr("a directory (or DATA_DIR set to the original)"), found))
        else:
            refused.append(Fault(name, tr("a regular file inside the directory"), found))
    return Listing(dict(sorted(files.items())), tuple(sorted(refused)))


def refusal(path: Path, root: Path | None) -> str | None:
    """Return why a file must not be opened: it is no regular file, or a link out of `root`; None for a good or missing one.

    Opening a named pipe or a terminal would wait forever, a device may never end, and a link may lead to any file of the
    machine, which a push would publish. Without a `root`, for files that are not published, a link may lead anywhere.
    """
    try:
        linked, mode = path.is_symlink(), path.stat().st_mode
    except FileNotFoundError:
        return tr("a broken link") if path.is_symlink() else None
    except OSError:  # a loop of links, or one through a directory that may not be entered
        return tr("a broken link")
    if linked and root is not None and not path.resolve().is_relative_to(root.resolve()):
        return tr("a link to a directory outside of it") if stat.S_ISDIR(mode) else tr("a link to a file outside of it")
    if stat.S_ISREG(mode):
        return None
    if stat.S_ISDIR(mode):
        return tr("a link to a directory") if linked else tr("a directory")
    return tr("a link to a special file") if linked else tr("a special file")


def ignored_files(root: Path) -> list[str]:
    """Return the files that `.lakefsignore` excludes, as relative '/' paths."""
    rules = read_ignore_rules(root)
    return [] if rules is None else sorted(name for name, *_ in _walk_below(root, root) if rules.ignores(name))


def _ignore_file(root: Path) -> Iterator[tuple[str, Path, bool]]:
    """Yield the file of the rules, which is hidden and yet part of the data."""
    if os.path.lexists(root / IGNORE_FILE):
        yield IGNORE_FILE, root / IGNORE_FILE, False


def _walk_below(folder: Path, root: Path, prefix: str = "") -> Iterator[tuple[str, Path, bool]]:
    """Yield every file below a directory, and every link to a directory that is not followed, ignored ones too.

    The third value is whether it is known to be a regular file: it saves `refusal` two system calls per file.
    """
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(escape_line(f"{folder}: {error.strerror}")) from None
    for entry in entries:
        name, path = prefix + entry.name, Path(entry.path)
        if is_clutter(entry.name) or name == OUTPUT_FOLDER:
            continue
        if name == CHECK_PAGE and is_check_page(path):
            continue
        linked = entry.is_symlink()
        if not (os.path.isdir(path) if linked else entry.is_dir()):  # a link to itself makes entry.is_dir() raise
            yield name, path, entry.is_file(follow_symlinks=False)
        elif not linked or (_is_layout_directory(name) and _leads_inside(path, root)):
            yield from _walk_below(path, root, name + "/")
        else:
            yield name, path, False


def _leads_inside(path: Path, root: Path) -> bool:
    return path.resolve().is_relative_to(root.resolve())


def move_is_pending(root: Path) -> bool:
    """Return whether complete sample data was being moved into place when its process ended."""
    return (root / SAMPLE_STAGING / "complete").exists()


def holds_only_texts(root: Path) -> bool:
    """Return whether there is nothing but texts about the directory, such as README.md: no data, and no lost data either."""
    listing = list_directory(root)
    return not listing.refused and all(re.fullmatch(_TEXTS, name, re.IGNORECASE) for name in listing.files)


def is_empty(root: Path) -> bool:
    """Return whether sample data may be made here: no image, no class list, nothing in the layout's directories.

    Also true while complete sample data is being moved into place: the next call has to finish the move.
    """
    if move_is_pending(root):
        return True
    listing = list_directory(root)
    return not listing.refused and not any(
        name == CLASSES_FILE
        or is_image(name)
        or name.startswith("splits/")
        or ("/" in name and _is_layout_directory(name.split("/")[0]))
        for name in listing.files
    )


def is_clutter(name: str) -> bool:
    """Return whether a file or directory of this name, without its path, is never data: hidden, or left by a system."""
    lower = name.lower()
    return name.startswith((".", "~$")) or lower in _CLUTTER_NAMES or lower.endswith(_CLUTTER_ENDINGS)


def is_check_page(path: Path) -> bool:
    """Return whether a file was written by `train.py --check-only`, and not by the user; a link never was."""
    if path.is_symlink():
        return False
    try:
        with open_regular(path) as stream:
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
