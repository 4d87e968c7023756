"""What to predict: the pictures of a split of a data commit, or files and folders that a person names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path

from core.errors import UsageError
from core.i18n import tr
from core.reporting import warn
from dataset.classes import abbreviate
from dataset.layout import is_image
from dataset.samples import Item

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
NOT_IN_NAMES = str.maketrans(":\\", "__")
LONGEST_NAME, LONGEST_ENDING = (
    255,
    "_overlay.jpg",
)  # bytes, of most file systems; of what a picture's outputs are called
Found = tuple[Path, Path, str | None]  # a picture's path below what was named, the picture, its fault


def input_items(inputs: Sequence[Path]) -> list[Item]:
    """Pictures from files and folders (searched below, sub-folders kept in the names). Raises UsageError for none.

    A link that a person names is followed; one that lies in a folder may lead anywhere, and is a fault, as is a
    sub-folder that cannot be read. Videos in a folder are named in a warning.
    """
    found: list[Found] = []
    videos: list[str] = []
    for path in inputs:
        if path.is_dir():
            below, faults = _below(path)
            found += [(p.relative_to(path), p, _fault(p)) for p in below if _is_input(p)] + faults
            videos += [printable(p) for p in below if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file()]
        elif path.is_file():
            found.append((Path(path.name), path, None))
        else:
            raise UsageError(tr("{path}: no such file or folder", path=path))
    if videos:
        warn(
            tr(
                "{count} videos in folders are left out, give them as --input in a call of their own: {videos}",
                count=len(videos),
                videos=abbreviate(videos),
            )
        )
    if not found:
        where = ", ".join(map(str, inputs))
        raise UsageError(tr("{where}: no pictures", where=where))
    names = _unique_names([relative for relative, _, _ in found])
    return [
        Item(name, path, fault=fault or _unusable(name, path))
        for name, (_, path, fault) in zip(names, found, strict=True)
    ]


def _below(folder: Path) -> tuple[list[Path], list[Found]]:
    """All that lies in a folder and below it, sorted, and the sub-folders that cannot be read."""
    errors: list[OSError] = []
    tree = os.walk(folder, onerror=errors.append)
    paths = sorted(Path(where, name) for where, folders, files in tree for name in (*folders, *files))
    unread = [(Path(str(error.filename)), error.strerror) for error in errors]
    return paths, [(p.relative_to(folder), p, f"{printable(p)}: {reason}") for p, reason in unread]


def _is_input(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    if path.is_symlink():
        return is_image(path.name) or path.is_dir()
    return is_image(path.name) and path.is_file()


def _fault(path: Path) -> str | None:
    """Why a file that was found in a folder is not read."""
    if not path.is_symlink():
        return None
    where, target = printable(path), printable(path.readlink())
    return tr("{where}: a link is not followed: give what it names, {target}, as --input", where=where, target=target)


def _unusable(name: str, path: Path) -> str | None:
    """Why no output can be called after this picture, or no listing can name it."""
    most = LONGEST_NAME - len(LONGEST_ENDING)
    try:
        if max(len(part.encode()) for part in name.split("/")) <= most and str(path).encode():
            return None
        rule = tr("a name of at most {most} bytes", most=most)
    except UnicodeEncodeError:
        rule = tr("a name in UTF-8")
    return f"{printable(path)}: " + tr("expected {rule}: rename it", rule=rule)


def printable(path: Path) -> str:
    """A path as text for people: bytes that are no UTF-8 as \\x.. ."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _unique_names(paths: Sequence[Path]) -> list[str]:
    """`a.jpg` beside `a.png` keep their suffixes in the name, a second `a.png` gets a number: none overwrites another.

    What a path below another folder may not hold everywhere, `:` and `\\`, becomes `_`.
    """
    clean = [Path(path.as_posix().translate(NOT_IN_NAMES)) for path in paths]
    stems = [(path.parent / path.stem).as_posix() for path in clean]
    counts: dict[str, int] = {}
    for stem in stems:
        counts[stem.casefold()] = counts.get(stem.casefold(), 0) + 1  # some file systems take A for a
    names: list[str] = []
    taken: set[str] = set()
    for path, stem in zip(clean, stems, strict=True):
        base = stem if counts[stem.casefold()] == 1 else path.as_posix()
        name = next(n for n in chain([base], (f"{base}-{k}" for k in count(2))) if n.casefold() not in taken)
        taken.add(name.casefold())
        names.append(name)
    return names
