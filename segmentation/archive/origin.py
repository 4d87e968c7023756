"""The origin of an archive: its bytes are those of a record, or it is not opened."""

from __future__ import annotations

import hashlib

from core.errors import AppError
from core.i18n import tr


def require_origin(path: object, data: bytes, sha256: str) -> None:
    """Raise AppError unless these are the bytes that the record names."""
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise AppError(
            tr(
                "{path}: SHA-256 differs from its record (expected {sha256}, found {found}): not opened",
                path=path,
                sha256=sha256,
                found=found,
            )
        )
