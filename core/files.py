"""Local files: hashes that are remembered, replacement at once, paths that stay in their folder, a bounded pool."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TypeVar

from core.errors import AppError
from core.i18n import tr

IDLE_S = 7 * 86_400  # seconds after which what a kill has left of a download is not gone on with
T = TypeVar("T")
R = TypeVar("R")


def safe_join(folder: Path, relative: str) -> Path:
    """`folder`/`relative`. Raises AppError for a path, of a server or a listing, that would leave the folder."""
    parts = PurePosixPath(relative).parts
    if (
        not parts
        or relative.startswith("/")
        or ".." in parts
        or "\\" in relative
        or "\0" in relative
        or ":" in parts[0]
    ):
        raise AppError(tr("the path '{relative}' leaves '{folder}': not used", relative=relative, folder=folder))
    return folder.joinpath(*parts)


def _beginning(name: str) -> str:
    """So much of a name that a file system, which allows 255 bytes, has room for more behind it."""
    return os.fsencode(name)[:100].decode(errors="ignore")


@contextlib.contextmanager
def atomic_replace(path: Path, durable: bool = True) -> Iterator[Path]:
    """A temporary name beside `path` to write to; after the block it takes the place of `path`, flushed to disk first."""
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{_beginning(path.name)}.{secrets.token_hex(16)}.part")
    try:
        yield part
        if durable:
            with part.open("rb") as stream:
                os.fsync(stream.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def remove_stale_partial_files(folder: Path) -> None:
    """Remove temporary files right in a folder that nobody has written to for `IDLE_S`: a kill has left them."""
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") and entry.name.endswith(".part"):
                path = Path(entry.path)
                if path.stat().st_mtime < time.time() - IDLE_S:
                    path.unlink(missing_ok=True)


def remove_partial_files(folder: Path) -> None:
    """Remove what a kill has left of `replacing` in a folder and below it."""
    for part in folder.rglob(".*.part"):
        if re.search(r"\.[0-9a-f]{32}\.part$", part.name):
            part.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a kill at any moment leaves the old content or the new."""
    with atomic_replace(path) as part:
        part.write_bytes(content)


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link where the file system can, else a copy; replaces what is there at once."""
    with contextlib.suppress(OSError):
        return os.link(source, target)
    if target.exists() and target.samefile(source):
        return  # renaming one name of a file to another does nothing, and would leave the temporary name behind
    with atomic_replace(target, durable=False) as part:
        try:
            os.link(source, part)
        except OSError:
            shutil.copyfile(source, part)
