"""Errors of disks and permissions, which libraries wrap in many ways: what is wrong, and the fix."""

from __future__ import annotations

import errno

from core.errors import AppError, one_line
from core.i18n import tr

# As SQLite and the writers of PyTorch say it; quotas and limits of a file's size are full disks, too.
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DISK_FULL_TEXTS = ("database or disk is full", "No space left on device")
_NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS)


def describe_storage_error(error: BaseException) -> str | None:
    """Return what is wrong with a disk or a permission, and the fix, in one line; None for other errors.

    The causes are searched too: libraries wrap such errors.
    """
    full = next(filter(is_disk_full, _with_causes(error)), None)
    if full is not None:
        if isinstance(error, AppError):
            return tr("{error}: free some space and run again", error=error)
        return tr(
            "{place}: the disk is full, or a quota or size limit is reached: free some space and run again",
            place=getattr(full, "filename", None) or one_line(full, 200),
        )
    if isinstance(error, OSError) and error.errno in _NO_ACCESS and error.filename is not None:
        return tr(
            "{place} cannot be read or written by this user ({reason}): give the user access, or choose another place",
            place=error.filename,
            reason=error.strerror,
        )
    if "attempt to write a readonly database" in str(error):
        return tr("the database cannot be written by this user: make its file and directory writable")
    return None


def _with_causes(error: BaseException) -> list[BaseException]:
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    return causes


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error says that nothing more can be written to a disk."""
    full = isinstance(error, OSError) and error.errno in _DISK_FULL
    return full or any(text in str(error) for text in _DISK_FULL_TEXTS)
