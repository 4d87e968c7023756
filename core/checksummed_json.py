"""JSON content that carries its own checksum, so that later changes are detected."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

KEY = "content_sha256"


def with_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content plus the SHA-256 of its canonical form (sorted keys, no spaces) under `KEY`."""
    return {**content, KEY: _checksum(content)}


def verify_checksum(content: Mapping[str, Any]) -> bool | None:
    """Return whether the content matches its checksum; None if it has none."""
    if KEY not in content:
        return None
    return bool(content[KEY] == _checksum({key: value for key, value in content.items() if key != KEY}))


def _checksum(content: Mapping[str, Any]) -> str:
    # A round trip through JSON first, so that values are hashed in the form in which they are read back.
    text = json.dumps(json.loads(json.dumps(content)), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
