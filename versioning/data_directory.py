"""The data directory as the user named it: a mistyped or unmounted one is an error, never a reason to fill it."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

from config import ROOT, Settings
from core import git
from core.errors import UsageError
from core.files import broken_link, read_regular, write_atomically
from core.i18n import tr
from core.reporting import notify
from core.safety.private_files import make_directory
from dataset.directory import data_files, move_is_pending
from versioning.lockfile import OWN_STORE

DEFAULT = "data"
LAST = "data_dir.txt"  # the data directory of the last training


def is_default(settings: Settings) -> bool:
    """Return whether nobody named the directory: neither an option, the environment or `.env`, nor a link at its place."""
    return "data_dir" not in settings.explicit and settings.data_dir == ROOT / DEFAULT


def record_directory(settings: Settings) -> None:
    """Record the data directory of a training, for the commands that compare or publish it.

    One in the project is recorded relative to it: it means the same in a moved or copied project.
    """
    root = settings.data_dir
    recorded = root.relative_to(ROOT) if root.is_relative_to(ROOT) else root
    make_directory(_record(settings).parent)
    write_atomically(_record(settings), f"{recorded}\n".encode())


def _record(settings: Settings) -> Path:
    """Return the file that names the directory of this clone: beside its store, never in the store of another clone."""
    store = settings.lakefs_local_dir
    return (store if store.is_relative_to(ROOT) else ROOT / OWN_STORE) / LAST


def of_last_training(settings: Settings, publishes: bool) -> Settings:
    """Return the settings with the data directory of the last training, and report it, if nobody named another.

    Raises UsageError if the default directory has data too and one of them would be published.
    """
    record = _record(settings)
    if not is_default(settings) or not record.is_file():
        return settings
    last = ROOT / read_regular(record).decode(errors="replace").removesuffix("\n")
    if last == settings.data_dir or not last.is_dir():
        return settings
    if publishes and data_files(settings.data_dir):
        raise UsageError(
            tr(
                "the last training used {last}, and {default} has data too: name one of them by --data-dir or DATA_DIR",
                last=last,
                default=settings.data_dir,
            )
        )
    notify(tr("data directory: {last} (of the last training; --data-dir or DATA_DIR names another)", last=last))
    return replace(settings, data_dir=last)


def require_place(settings: Settings) -> None:
    """Raise UsageError if no data directory can be at its place: there is a file, a link to nothing, or the project."""
    root = settings.data_dir
    link = broken_link(root)
    if link is not None:
        raise UsageError(
            tr(
                "{path}: the link {link} leads to {target}, which does not exist: mount or create it, or correct "
                "--data-dir or DATA_DIR",
                path=root,
                link=link,
                target=link.readlink(),
            )
        )
    if ROOT.is_relative_to(root):
        raise UsageError(
            tr(
                "{path}: contains the project itself: name the directory of the data by --data-dir or DATA_DIR",
                path=root,
            )
        )
    other = next((path for path in (root, *root.parents) if path.exists() and not path.is_dir()), None)
    if other is not None:
        raise UsageError(
            tr(
                "{path}: expected a directory, but {other} is a file: correct --data-dir or DATA_DIR",
                path=root,
                other=other,
            )
        )


def advise_ignoring(settings: Settings) -> None:
    """Say how to keep the data out of Git if the data directory is in the project and Git would list its files."""
    root = settings.data_dir
    if (
        not root.is_relative_to(ROOT)
        or git.find_problem(ROOT) is not None
        or git.is_ignored(ROOT, root / "images/x.png")
    ):
        return
    rule = "/" + re.sub(r"([\\*?\[])", r"\\\1", root.relative_to(ROOT).as_posix()) + "/"
    command = f"echo {shlex.quote(rule)} >> {shlex.quote(str(ROOT / '.gitignore'))}"
    notify(tr("{path}: lakeFS versions the data, so keep it out of Git: {command}", path=root, command=command))


def require_directory(settings: Settings) -> None:
    """Raise UsageError if the data directory was named and does not exist, or cannot exist at its place."""
    require_place(settings)
    if not is_default(settings) and not settings.data_dir.exists():
        raise UsageError(
            tr(
                "{path}: no such directory: correct --data-dir or DATA_DIR. To make a new one: lake.py pull {branch} "
                "downloads the data of the branch into it, train.py --sample makes a sample set",
                path=settings.data_dir,
                branch=settings.lakefs_branch,
            )
        )


def require_data(settings: Settings) -> None:
    """Raise UsageError also if the data directory was named and holds no file, like an unmounted disk."""
    require_directory(settings)
    root = settings.data_dir
    if not is_default(settings) and not data_files(root) and not move_is_pending(root):
        raise UsageError(
            tr(
                "{path}: the directory is empty: mount its disk, or correct --data-dir or DATA_DIR. To fill it: lake.py "
                "pull {branch} downloads the data of the branch into it, train.py --sample makes a sample set",
                path=root,
                branch=settings.lakefs_branch,
            )
        )
