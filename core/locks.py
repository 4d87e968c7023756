"""Locks between processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from core.reporting import notify


@contextlib.contextmanager
def claimed(part: Path) -> Iterator[BinaryIO | None]:
    """A file that belongs to this block alone, with what an earlier process wrote before it was killed.

    None where somebody else is at it, or where the system has no such locks; a lock ends with its process.
    """
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        opened = part.open("a+b")
    except PermissionError:  # another user's, in a folder that several share
        yield None
        return
    with opened as stream:
        yield stream if _locked(stream) and _is_at(part, stream) else None


def _locked(stream: BinaryIO) -> bool:
    try:
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):  # Windows; a network folder, or somebody else
        return False
    return True


def _is_at(path: Path, stream: BinaryIO) -> bool:
    """Whether an open file is the one at a path still: who held it before may have renamed it."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def held(path: Path, waiting: str) -> Iterator[None]:
    """Hold a lock file, which ends with its process; where another process has it, report `waiting` and wait."""
    import filelock

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=1)
    except filelock.Timeout:
        notify(waiting)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
