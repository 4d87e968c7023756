"""Collect the images to predict from the files and directories of --input."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from core.errors import UsageError
from core.i18n import tr
from core.reporting import notify, warn
from dataset.classes import abbreviate
from dataset.directory import is_image
from dataset.samples import Item
from inference import ownership
from inference.formats import LISTING

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
UNPORTABLE_CHARACTERS = str.maketrans(":\\", "__")
MAX_NAME_BYTES = 255  # of a file name, in most file systems
LONGEST_SUFFIX = "_overlay.jpg"  # that an output adds to the name of its image


@dataclass(frozen=True)
class _Found:
    """A file of --input."""

    relative: Path  # below the directory that was named
    path: Path
    fault: str | None  # why it cannot be predicted


def collect_items(inputs: Sequence[Path]) -> list[Item]:
    """Return the images of files and directories, searched recursively; item names include subdirectories.

    Links to regular files are followed; a broken one and one to a directory, which may form a loop, become faults, as
    does a subdirectory that cannot be read. Files that infer.py wrote are excluded, and videos in a directory are
    skipped with a warning. Raises UsageError if there are no images, or an input does not exist.
    """
    found: list[_Found] = []
    videos: list[str] = []
    predictions = 0
    for path in inputs:
        if path.is_dir():
            below, unreadable = _walk(path)
            candidates = [p for p in below if _is_input(p)]
            own = _find_own_outputs(candidates)
            found += [_Found(p.relative_to(path), p, _link_fault(p)) for p in candidates if p not in own] + unreadable
            predictions += len(own)
            videos += [printable(p) for p in below if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file()]
        elif path.is_file():
            if ownership.is_prediction(path):
                raise UsageError(tr("{path}: a prediction that infer.py wrote, not an image to predict", path=path))
            found.append(_Found(Path(path.name), path, None))
        else:
            raise UsageError(tr("{path}: no such file or directory", path=path))
    if videos:
        warn(
            tr(
                "{count} videos in directories are skipped; predict them with --input in a separate call: {videos}",
                count=len(videos),
                videos=abbreviate(videos),
            )
        )
    if predictions:
        notify(tr("{count} files that infer.py wrote are not predicted again", count=predictions))
    if not found:
        where = ", ".join(map(str, inputs))
        raise UsageError(tr("{where}: no images found", where=where))
    names = _unique_names([file.relative for file in found])
    return [
        Item(name, file.path, fault=file.fault or _name_fault(name, file.path))
        for name, file in zip(names, found, strict=True)
    ]


def _walk(folder: Path) -> tuple[list[Path], list[_Found]]:
    """Return all paths below a directory, sorted, and the subdirectories that cannot be read."""
    errors: list[OSError] = []
    tree = os.walk(folder, onerror=errors.append)
    paths = sorted(Path(parent, name) for parent, folders, files in tree for name in (*folders, *files))
    unreadable = [(Path(str(error.filename)), error.strerror) for error in errors]
    return paths, [_Found(p.relative_to(folder), p, f"{printable(p)}: {reason}") for p, reason in unreadable]


def _is_input(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    if path.is_symlink():
        return is_image(path.name) or path.is_dir()
    return is_image(path.name) and path.is_file()


def _link_fault(path: Path) -> str | None:
    """Return the fault of a link that leads to no regular file; None for another file."""
    if not path.is_symlink() or path.is_file():
        return None
    target = printable(path.readlink())
    if path.is_dir():
        rule = tr("links to directories are not followed: name its target {target} with --input", target=target)
    else:
        rule = tr("a broken link to {target}: restore the target, or remove the link", target=target)
    return f"{printable(path)}: {rule}"


def _find_own_outputs(paths: Sequence[Path]) -> set[Path]:
    """Return those of these files that infer.py wrote: by their own mark, or by the listing of their directory."""
    parents = {parent for path in paths for parent in path.parents}
    roots = [parent for parent in parents if (parent / LISTING).is_file()]
    listed = {root / name for root in roots for name in ownership.listed_files(root)}
    return {path for path in paths if path in listed or ownership.is_prediction(path)}


def _name_fault(name: str, path: Path) -> str | None:
    """Return the fault of a name from which no output name, or no entry of the listing, can be made."""
    most = MAX_NAME_BYTES - len(LONGEST_SUFFIX)
    try:
        if max(len(part.encode()) for part in name.split("/")) <= most and str(path).encode():
            return None
        rule = tr("a name of at most {most} bytes", most=most)
    except UnicodeEncodeError:
        rule = tr("a name in UTF-8")
    return f"{printable(path)}: " + tr("expected {rule}: rename it", rule=rule)


def printable(path: Path) -> str:
    r"""Return a path as text for messages: bytes that are not UTF-8 become \x.. ."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _unique_names(paths: Sequence[Path]) -> list[str]:
    r"""Return output names that differ on every file system, so that no output overwrites another.

    `a.jpg` beside `a.png` keep their suffixes, a second `a.png` gets a number. The characters `:` and `\`, which some
    systems do not allow in a name, become `_`.
    """
    clean = [Path(path.as_posix().translate(UNPORTABLE_CHARACTERS)) for path in paths]
    stems = [(path.parent / path.stem).as_posix() for path in clean]
    counts: dict[str, int] = {}
    for stem in stems:
        counts[stem.casefold()] = counts.get(stem.casefold(), 0) + 1  # some file systems do not distinguish A and a
    names: list[str] = []
    taken: set[str] = set()
    for path, stem in zip(clean, stems, strict=True):
        base = stem if counts[stem.casefold()] == 1 else path.as_posix()
        name = next(n for n in chain([base], (f"{base}-{k}" for k in count(2))) if n.casefold() not in taken)
        taken.add(name.casefold())
        names.append(name)
    return names
