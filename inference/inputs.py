"""Collect the images to predict from the files and directories of --input."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path

from core.errors import UsageError
from core.files import require_content
from core.i18n import tr, trn
from core.reporting import notify, warn
from dataset.classes import abbreviate
from dataset.decoding.files import has_image_header
from dataset.decoding.kinds import unread_suffix, why_unread
from dataset.directory import is_clutter, is_image, refusal
from dataset.faults import DataFaults
from dataset.formats.selection import is_selection
from dataset.layout.resolve import resolve_layout
from dataset.pages import count_pages_of, page_name
from dataset.samples import Item
from inference.earlier import ownership
from inference.formats import LISTING

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
UNPORTABLE_CHARACTERS = str.maketrans(":\\", "__")
MAX_NAME_BYTES = 255  # of a file name, in most file systems
MAX_NAMES = 50  # of files that are left out for one reason
LONGEST_SUFFIX = "_overlay.jpg"  # that an output adds to the name of its image


@dataclass(frozen=True)
class _Found:
    """A file of --input."""

    relative: Path  # below the directory that was named
    path: Path
    fault: str | None  # why it cannot be predicted
    page: int | None = None  # of a file of several


@dataclass
class _Search:
    """What was found below the directories of --input."""

    found: list[_Found] = field(default_factory=list)
    videos: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)  # reason -> paths
    predictions: int = 0  # files that infer.py wrote

    def report(self) -> None:
        """Report the files that are not predicted, so that none is missing without a word."""
        if self.videos:
            warn(
                trn(
                    "{count} video in a directory is skipped; predict it with --input in a separate call: {videos}",
                    "{count} videos in directories are skipped; predict them with --input in a separate call: {videos}",
                    len(self.videos),
                    videos=abbreviate(self.videos),
                )
            )
        for reason, paths in self.left_out.items():
            names = abbreviate(paths, MAX_NAMES)
            warn(tr("files left out: {count} ({reason}): {names}", count=len(paths), reason=reason, names=names))
        if self.predictions:
            notify(
                trn(
                    "{count} file that infer.py wrote is not predicted again",
                    "{count} files that infer.py wrote are not predicted again",
                    self.predictions,
                )
            )


def require_inputs(inputs: Sequence[Path]) -> None:
    """Raise UsageError for a path that does not exist, and for a file that is neither an image nor a video."""
    for path in inputs:
        if not path.exists():
            raise UsageError(tr("{path}: no such file or directory", path=path))
        suffix = path.suffix.lower()
        if path.is_file() and not is_image(path.name) and suffix not in VIDEO_SUFFIXES and not has_image_header(path):
            reason = why_unread(path.name) if unread_suffix(path.name) else tr("not an image file")
            raise UsageError(
                tr("--input {path}: {reason}: name an image, a video or a directory", path=path, reason=reason)
            )


def collect_items(inputs: Sequence[Path], data_dir: Path | None = None) -> list[Item]:
    """Return the images of files and directories, searched recursively; item names include subdirectories.

    Images are recognized by their suffix, or by their content where the suffix is unknown. Links are followed to regular
    files wherever they are, but out of the data directory `data_dir` only if they are named themselves. Other links and
    special files are not opened: they become faults, as does a subdirectory that cannot be read.
    Files that infer.py wrote are excluded; videos in a directory and files that are not read are left
    out with a warning. Raises UsageError if there are no images, or an input does not exist.
    """
    search = _Search()
    for path in inputs:
        if path.is_dir():
            _search_directory(path, search, data_dir)
        elif path.is_file():
            if ownership.is_prediction(path):
                raise UsageError(tr("{path}: a prediction that infer.py wrote, not an image to predict", path=path))
            require_content(path)
            search.found.append(_Found(Path(path.name), path, None))
        elif path.exists():
            raise UsageError(tr("{path}: a special file: name an image, a video or a directory", path=path))
        else:
            raise UsageError(tr("{path}: no such file or directory", path=path))
    search.report()
    found = search.found
    if not found:
        where = ", ".join(map(str, inputs))
        raise UsageError(tr("{where}: no images found", where=where))
    found = [page for file in found for page in _expand_pages(file)]
    names = _unique_names([file.relative for file in found])
    return [
        Item(name, file.path, fault=file.fault or name_fault(name, file.path), page=file.page)
        for name, file in zip(names, found, strict=True)
    ]


def _search_directory(folder: Path, search: _Search, data_dir: Path | None) -> None:
    """Add the files below a directory to the search."""
    below, unreadable = _walk(folder)
    refused = {path: reason for path in below if (reason := refusal(path, _link_limit(path, data_dir)))}
    own = _find_own_outputs([path for path in below if path not in refused])
    masks = _find_masks(folder, [path for path in below if path not in own and path not in refused])
    if masks:
        notify(
            trn(
                "{folder}: a data set: its images are predicted, its mask is not ({count} file; to compare with "
                "it, use --split)",
                "{folder}: a data set: its images are predicted, its masks are not ({count} files; to compare "
                "with them, use --split)",
                len(masks),
                folder=printable(folder),
            )
        )
    for path in below:
        if path in masks:
            continue
        if path in own:
            search.predictions += is_image(path.name)
        elif is_image(path.name) or path.is_dir():
            fault = _refusal_fault(path, refused[path]) if path in refused else None
            search.found.append(_Found(path.relative_to(folder), path, fault))
        elif path in refused:
            search.left_out.setdefault(refused[path], []).append(printable(path))
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            search.videos.append(printable(path))
        elif not unread_suffix(path.name) and has_image_header(path):
            search.found.append(_Found(path.relative_to(folder), path, None))
        else:
            reason = why_unread(path.name) if unread_suffix(path.name) else tr("not an image file")
            search.left_out.setdefault(reason, []).append(printable(path))
    search.found += unreadable


def _link_limit(path: Path, data_dir: Path | None) -> Path | None:
    """Return the directory that a link must not lead out of: the data directory, if the link is in it; None: any target.

    Caches and version control systems keep the files of a directory elsewhere: Hugging Face, DVC, git-annex. The data
    directory has the one rule of the data check, of push and of prediction, as others may have filled it.
    """
    if data_dir is None or not path.is_symlink():
        return None
    return data_dir if path.parent.resolve().is_relative_to(data_dir.resolve()) else None


def _find_masks(folder: Path, paths: Sequence[Path]) -> set[Path]:
    """Return the masks of a directory that has the layout of a data set, with images that have masks."""
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    try:
        layout = resolve_layout(list(names), printable(folder))
    except DataFaults:
        return set()
    if not any(part.images.keys() & part.masks.keys() for part in layout.parts):
        return set()
    return {path for name, path in names.items() if layout.is_mask(name)}


def _expand_pages(file: _Found) -> list[_Found]:
    """Return an entry for each page of a file of several pages, named after file and page; else this one."""
    pages = 1 if file.fault else count_pages_of(file.path)
    if pages == 1:
        return [file]
    named = [file.relative.with_stem(page_name(file.relative.stem, page)) for page in range(pages)]
    return [_Found(relative, file.path, None, page) for page, relative in enumerate(named)]


def _walk(folder: Path) -> tuple[list[Path], list[_Found]]:
    """Return files, special files and links below a directory, without clutter, and the subdirectories that fail."""
    errors: list[OSError] = []
    paths: list[Path] = []
    for parent, folders, files in os.walk(folder, onerror=errors.append):
        folders[:] = [name for name in folders if not is_clutter(name)]
        links = [name for name in folders if Path(parent, name).is_symlink()]
        paths += [Path(parent, name) for name in (*links, *files) if not is_clutter(name)]
    unreadable = [(Path(str(error.filename)), error.strerror) for error in errors]
    return sorted(paths), [_Found(p.relative_to(folder), p, f"{printable(p)}: {reason}") for p, reason in unreadable]


def _refusal_fault(path: Path, reason: str) -> str:
    """Return the fault of an image file that must not be opened, and how to fix it."""
    if not path.is_symlink():
        return f"{printable(path)}: " + tr("expected a regular file, found {found}: remove it", found=reason)
    target = printable(path.readlink())
    if path.is_dir():
        rule = tr("links to directories are not followed: name its target {target} with --input", target=target)
    elif path.is_file():
        rule = tr("a link out of the data directory: name the link or its target {target} with --input", target=target)
    elif path.exists():
        rule = tr("a link to the special file {target}: remove the link", target=target)
    else:
        rule = tr("a broken link to {target}: restore the target, or remove the link", target=target)
    return f"{printable(path)}: {rule}"


def _find_own_outputs(paths: Sequence[Path]) -> set[Path]:
    """Return those of these files that infer.py wrote: by their own mark, or by the listing of their directory."""
    parents = {parent for path in paths for parent in path.parents}
    roots = [parent for parent in parents if (parent / LISTING).is_file() and not (parent / LISTING).is_symlink()]
    listed = {root / name for root in roots for name in ownership.listed_files(root)}
    selections = {parent for parent in parents if is_selection(parent)}
    return {
        path
        for path in paths
        if path in listed or ownership.is_prediction(path) or not selections.isdisjoint(path.parents)
    }


def name_fault(name: str, path: Path) -> str | None:
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
