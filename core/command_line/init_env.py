"""train.py --init-env: make `.env` from `.env.example`, with a random value for each key."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from pathlib import Path

from core.errors import UsageError
from core.i18n import tr
from core.reporting import notify, result

EXAMPLE, TARGET = ".env.example", ".env"
KEY_BYTES = 16
_EMPTY_KEY = re.compile(r"[A-Z][A-Z0-9_]*=")  # a whole line: comments are copied as they are


def init_env(folder: Path) -> Path:
    """Write `.env`, readable by its owner only, and return its path. Raises UsageError if there is one already."""
    example, target = folder / EXAMPLE, folder / TARGET
    try:
        rows = example.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UsageError(
            tr("{path}: not found: restore it (git checkout {name})", path=example, name=EXAMPLE)
        ) from None
    filled = [row + secrets.token_hex(KEY_BYTES) if _EMPTY_KEY.fullmatch(row) else row for row in rows]
    keys = [row.rstrip("=") for row in rows if _EMPTY_KEY.fullmatch(row)]
    try:
        descriptor = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        raise UsageError(
            tr("{path} exists already, and its keys may be in use: edit it, or move it away first", path=target)
        ) from None
    try:
        with open(descriptor, "w", encoding="utf-8") as stream:
            stream.write("\n".join(filled) + "\n")
    except BaseException:
        with contextlib.suppress(OSError):
            target.unlink()  # half a file would pass for one with all keys
        raise
    result(tr("wrote {path} with random keys: {keys}", path=target, keys=", ".join(keys)))
    notify(tr("keep this file: lakeFS stores its keys at its first start (next: docker compose up -d --wait)"))
    return target
