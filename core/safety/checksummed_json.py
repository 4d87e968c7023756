"""JSON files: parsed as what others wrote, and with a checksum of their own, so that later changes are detected."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

KEY = "content_sha256"


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text. Raises ValueError, also for one that is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def with_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content plus the SHA-256 of its canonical form (sorted keys, no spaces) under `KEY`."""
    return {**content, KEY: _checksum(content)}


def verify_checksum(content: Mapping[str, Any]) -> bool | None:
    """Return whether the content matches its checksum; None if it has none."""
    if KEY not in content:
        return None
    try:
        return bool(content[KEY] == _checksum({key: value for key, value in content.items() if key != KEY}))
    except (RecursionError, ValueError):  # nested too deeply, or text that is no Unicode: this project wrote neither
        return False


def _checksum(content: Mapping[str, Any]) -> str:
    # A round trip through JSON first, so that values are hashed in the form in which they are read back.
    text = json.dumps(json.loads(json.dumps(content)), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
