"""Large freed blocks of memory: kept in the process, so that the next allocation does not fault in every page again."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Let this process keep freed memory for the next tensors instead of returning it to the operating system.

    On a CPU this saves 2 to 6 % of a training step and a tenth of a batch prediction; on the large tiles of a raster,
    half of the time. Peak memory stays the same, except for large images of many sizes (12 megapixels: up to 10 % more).
    It works with glibc on Linux only.
    """
    if (libc := _find_glibc()) is not None:
        libc.mallopt(M_ARENA_MAX, 1)  # the heaps of further threads are returned whatever the threshold
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def release_freed_memory() -> None:
    """Return the free parts of the heap to the system, where blocks of different sizes have left gaps."""
    if (libc := _find_glibc()) is not None:
        libc.malloc_trim(0)


def _find_glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt") else None
