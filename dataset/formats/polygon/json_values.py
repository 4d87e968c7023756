"""Values of JSON files that other programs wrote: checked, and shown in messages."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, TypeGuard

Color = tuple[int, int, int]

_WHOLE_FILE = 64 << 20  # bytes; of larger files only both ends are looked into
_END = 1 << 16


def show(value: object) -> str:
    """Return a value as it was written, at most 60 characters of it."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def as_whole(value: object) -> int | None:
    """Return a whole number, also one that was written as 3.0; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a value is a number, not true or false."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def as_color(value: object) -> Color | None:
    """Return the colour of [r, g, b] or '#rrggbb'; None for anything else."""
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}([0-9a-fA-F]{2})?", value):
        return int(value[1:3], 16), int(value[3:5], 16), int(value[5:7], 16)
    if (
        isinstance(value, (list, tuple))
        and len(value) in (3, 4)
        and all(type(v) is int and 0 <= v < 256 for v in value)
    ):
        return value[0], value[1], value[2]
    return None


def peek(path: Path) -> Any:
    """Return the content of a JSON file that may be anything; None if it is not JSON, or too large to look into."""
    try:
        if path.stat().st_size > _WHOLE_FILE:
            return None
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None


def peek_keys(path: Path) -> set[str]:
    """Return the keys at the top of a JSON file; of a large file, every key at its beginning and its end."""
    try:
        size = path.stat().st_size
        if size > _WHOLE_FILE:
            with path.open("rb") as stream:
                start = stream.read(_END)
                stream.seek(size - _END)
                ends = (start + stream.read()).decode("utf-8", "replace")
            return set(re.findall(r'"(\w+)"\s*:', ends))
    except OSError:
        return set()
    content = peek(path)
    return {str(key) for key in content} if isinstance(content, dict) else set()
