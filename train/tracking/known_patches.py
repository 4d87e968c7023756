"""Which patches were recorded on this machine: --reproduce applies only those without asking."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from core.i18n import tr
from core.reporting import warn

FILE = "recorded_patches.txt"  # in LAKEFS_LOCAL_DIR: a SHA-256 per line; nobody else may write it
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)  # Windows has no such flag


def remember_patch(folder: Path, sha256: str) -> None:
    """Add the SHA-256 of a patch; a directory that cannot be written to only costs a question later."""
    if is_known_patch(folder, sha256):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _NO_LINKS, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(f"{sha256}\n".encode())
    except OSError as error:
        warn(
            tr(
                "{file}: cannot be written ({error}): --reproduce will ask before it applies the code changes",
                file=folder / FILE,
                error=error.strerror,
            )
        )


def is_known_patch(folder: Path, sha256: str) -> bool:
    """Return whether a patch was recorded here. A list that others may write to does not count."""
    with contextlib.suppress(OSError):
        handle = os.open(folder / FILE, os.O_RDONLY | _NO_LINKS)
        with os.fdopen(handle, encoding="ascii", errors="replace") as stream:
            if os.name != "nt" and os.fstat(stream.fileno()).st_mode & 0o022:
                return False
            return bool(re.fullmatch("[0-9a-f]{64}", sha256)) and sha256 in stream.read().split()
    return False
