"""Keep large freed blocks of memory in the process, so that the next allocation does not fault in every page again."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

# Of glibc's mallopt, with its own defaults.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
DEFAULT_TRIM_THRESHOLD, DEFAULT_MMAP_MAX = 128 * 1024, 65536
UNLIMITED = 2**31 - 1


@contextlib.contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Let malloc reuse large freed blocks within the block, and return them to the system at its end.

    By default, glibc maps each block of more than 32 MB anew; a network on large tiles then spends half of its time in
    page faults. Without glibc, nothing is changed.
    """
    libc = _find_glibc()
    if libc is None:
        yield
        return
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, UNLIMITED)
    try:
        yield
    finally:
        libc.mallopt(M_MMAP_MAX, DEFAULT_MMAP_MAX)
        libc.mallopt(M_TRIM_THRESHOLD, DEFAULT_TRIM_THRESHOLD)
        libc.malloc_trim(0)


def release_freed_memory() -> None:
    """Return the free parts of the heap to the system, where blocks of different sizes have left gaps."""
    if (libc := _find_glibc()) is not None:
        libc.malloc_trim(0)


def _find_glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt") else None
