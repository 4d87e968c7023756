"""Replace the results of earlier calls only when new ones exist, so that no interruption loses both.

When the first new result is ready, the earlier ones move into `.replaced`, and are removed once the new ones are
complete. The control file (listing or journal) moves last, and back first: where it lies tells how far this has come.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from core.i18n import tr
from core.reporting import notify
from core.safety.checksummed_json import parse_json
from inference.earlier import ownership
from inference.formats import JOURNAL, LISTING

if TYPE_CHECKING:
    from inference.outputs import OutputDirectory

ASIDE = ".replaced"  # in the output directory
CONTROL = (LISTING, JOURNAL)  # either lists the files of a job


def recover(folder: Path) -> None:
    """Finish or undo a replacement that an earlier call left, unless new results were begun; call it with the lock."""
    aside = folder / ASIDE
    if not aside.is_dir() or aside.is_symlink():
        return
    if not _is_complete(aside):  # killed while they moved
        _move_back(folder)
    elif (folder / LISTING).is_file() and not (folder / JOURNAL).is_file():  # killed while they were removed
        shutil.rmtree(aside)
    elif not _count_journal(folder / JOURNAL):  # ended before a new result was recorded
        _move_back(folder)


def set_aside(outputs: OutputDirectory) -> None:
    """Move the files that earlier calls listed; other and changed files in the directory are not touched.

    Results that are aside already stay: what lies in their place is what an interrupted call began.
    """
    folder, aside = outputs.folder, outputs.folder / ASIDE
    keep = aside.is_dir() and _is_complete(aside)
    for name, sha256 in outputs.listed.items():
        path = outputs.path_of(name)
        if not os.path.lexists(path) or not (name in outputs.verified or ownership.may_replace(path, sha256)):
            continue
        if keep:
            path.unlink()
        else:
            _move(path, aside / name)
    for name in CONTROL:
        if keep:
            (folder / name).unlink(missing_ok=True)
        elif (folder / name).is_file():
            _move(folder / name, aside / name)


def discard(folder: Path) -> None:
    """Remove the earlier results, and report how many there were."""
    aside = folder / ASIDE
    if aside.is_dir() and not aside.is_symlink():
        count = count_results(aside)
        shutil.rmtree(aside)
        notify(tr("earlier predictions replaced in {folder}: {count}", folder=folder, count=count))


def exist(folder: Path) -> bool:
    """Return whether a directory has earlier results, in place or aside."""
    return (folder / ASIDE).is_dir() or count_results(folder) > 0


def report_kept(folder: Path) -> None:
    """Report where the earlier results are after a call that did not complete new ones."""
    if (folder / ASIDE).is_dir():
        notify(
            tr(
                "earlier predictions, until the new ones are complete: {folder} ({count})",
                folder=folder / ASIDE,
                count=count_results(folder / ASIDE),
            )
        )
    elif count := count_results(folder):
        notify(tr("earlier predictions kept in {folder}: {count}", folder=folder, count=count))


def count_results(folder: Path) -> int:
    """Return the number of images that a listing or journal in a directory names."""
    if (folder / JOURNAL).is_file():
        return _count_journal(folder / JOURNAL)
    try:
        images = parse_json((folder / LISTING).read_text(encoding="utf-8"))["images"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return len(images) if isinstance(images, list) else 0


def _count_journal(journal: Path) -> int:
    """Return the number of images in a journal; its first line is the job."""
    return max(0, len(journal.read_bytes().split(b"\n")) - 2) if journal.is_file() else 0


def _is_complete(aside: Path) -> bool:
    return any((aside / name).is_file() for name in CONTROL)


def _move_back(folder: Path) -> None:
    """Move what is aside to its place; of a file that is in both, the earlier one."""
    aside = folder / ASIDE
    (folder / JOURNAL).unlink(missing_ok=True)  # of a call without results
    for name in CONTROL:
        if (aside / name).is_file():
            _move(aside / name, folder / name)
    for path in sorted(aside.rglob("*")):
        if path.is_file():
            _move(path, folder / path.relative_to(aside))
    shutil.rmtree(aside)


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)
