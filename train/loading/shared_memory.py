"""Shared memory through which worker processes hand over batches: whether there is enough, and what to do if not.

A container has 64 MB of it by default. A worker that finds no room for a batch would drop it, and the training would wait
for the batch forever.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.console import format_size
from core.errors import AppError, one_line
from core.i18n import tr
from core.machine.storage import is_disk_full
from core.reporting import warn

SHARED_MEMORY = Path("/dev/shm")
PREFETCHED = 2  # batches that each worker prepares ahead, by default of torch's DataLoader
IN_USE = 2  # batches that the training holds besides: the one that it reads, and one in page-locked memory
SPARE = 0.9  # fraction of the free memory that is used
_FIX = "docker run --shm-size=2g"


def usable_workers(workers: int, batch_bytes: int) -> int:
    """Return how many workers the shared memory has room for, at most `workers`; a smaller number is reported once."""
    free = _free_bytes()
    if free is None or not workers:
        return workers
    room = int(free * SPARE) // batch_bytes if batch_bytes else workers * PREFETCHED + IN_USE
    usable = max(0, min(workers, (room - IN_USE) // PREFETCHED))
    if usable < workers:
        _warn_once(workers, usable, (workers * PREFETCHED + IN_USE) * batch_bytes, free)
    return usable


def _free_bytes() -> int | None:
    """Return the free bytes of the shared memory; None if the system has no limit of its own."""
    try:
        status = os.statvfs(SHARED_MEMORY)
    except (OSError, AttributeError):  # not Linux
        return None
    return status.f_bavail * status.f_frsize


@functools.cache
def _warn_once(workers: int, usable: int, needed: int, free: int) -> None:
    warn(
        tr(
            "--workers {workers} needs {needed} of shared memory, and {place} has {free}: using {usable}; enlarge it "
            "({fix}), or use a smaller --batch-size",
            workers=workers,
            needed=format_size(needed),
            place=SHARED_MEMORY,
            free=format_size(free),
            usable=usable,
            fix=_FIX,
        )
    )


@contextmanager
def explain_worker_errors(workers: int) -> Iterator[None]:
    """Raise AppError, with the fix, for a worker that ran out of shared memory, or that was killed."""
    try:
        yield
    except RuntimeError as error:
        text = one_line(error)
        if is_disk_full(error) or "bus error" in text.lower():
            raise AppError(
                tr(
                    "the processes of --workers {workers} found no room in {place}: enlarge it ({fix}), or use fewer "
                    "--workers or a smaller --batch-size",
                    workers=workers,
                    place=SHARED_MEMORY,
                    fix=_FIX,
                )
            ) from error
        if "DataLoader worker" not in text:
            raise
        raise AppError(
            tr(
                "a process of --workers {workers} was killed ({reason}), perhaps because the memory was full: use fewer "
                "--workers or a smaller --batch-size",
                workers=workers,
                reason=text[:200],
            )
        ) from error
