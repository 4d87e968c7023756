"""Locks between processes, on lock files (filelock) or on the written file; the end of the process releases them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from core.errors import UsageError
from core.i18n import tr
from core.reporting import notify
from core.safety.private_files import is_private, make_directory, restrict_if_private

if TYPE_CHECKING:
    from filelock import FileLock


@contextlib.contextmanager
def file_lock(path: Path, waiting: str) -> Iterator[None]:
    """Hold a lock file; if another process has it, report `waiting` and wait."""
    import filelock

    make_directory(path.parent)
    lock = filelock.FileLock(path, mode=_mode(path))
    try:
        lock.acquire(timeout=1)
    except filelock.Timeout:
        notify(waiting)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def lock_or_fail(path: Path, message: str) -> FileLock:
    """Acquire a lock file until it is released or the process ends. Raises UsageError if another process has it."""
    import filelock

    make_directory(path.parent)
    lock = filelock.FileLock(path, mode=_mode(path))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UsageError(message) from None
    return lock


def is_locked_database(error: BaseException) -> bool:
    """Return whether SQLite, also below MLflow, gave up waiting for another process that writes the database."""
    return "database is locked" in str(error)


def locked_database_fix() -> str:
    """Return what to do about a database that stayed locked for longer than its users wait."""
    return tr(
        "another process keeps the database locked: run the command again when that has finished (on a network drive, "
        "where SQLite's locks do not work, use a server instead)"
    )


@contextlib.contextmanager
def open_exclusive(part: Path) -> Iterator[BinaryIO | None]:
    """Open a file exclusively, with what an earlier process wrote to it before it was killed.

    Yields None if another process has it, or if the system has no such locks. The lock is on the file itself: a lock
    file beside each of thousands of cache entries would double their number.
    """
    make_directory(part.parent)
    try:
        opened = part.open("a+b")
        restrict_if_private(part)
    except PermissionError:  # another user's, in a shared directory
        yield None
        return
    with opened as stream:
        yield stream if _flock(stream) and _is_at(part, stream) else None


def _mode(path: Path) -> int:
    return 0o600 if is_private(path) else 0o644


def _flock(stream: BinaryIO) -> bool:
    try:
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):  # Windows; a network directory, or another process
        return False
    return True


def _is_at(path: Path, stream: BinaryIO) -> bool:
    """Return whether an open file is still the one at a path: its former owner may have renamed it."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False
