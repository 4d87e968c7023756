"""A hash that a JSON file carries of itself, so that a byte that changed later is found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

KEY = "content_sha256"


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with the SHA-256 of its canonical form (sorted keys, no spaces) as one more entry."""
    return {**content, KEY: _hash(content)}


def is_whole(content: Mapping[str, Any]) -> bool | None:
    """Whether the content is what was sealed; None where it has no seal."""
    if KEY not in content:
        return None
    return bool(content[KEY] == _hash({key: value for key, value in content.items() if key != KEY}))


def _hash(content: Mapping[str, Any]) -> str:
    # Through JSON once, so that what is written and what is read again are the same values.
    text = json.dumps(json.loads(json.dumps(content)), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
