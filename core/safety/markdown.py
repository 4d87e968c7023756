"""Markdown of records: texts of foreign origin stay within their cell and are no markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def escape_markdown(text: str) -> str:
    """Return a text on one line that stays within a table cell and is no markup."""
    return " ".join(re.sub(r"[\\`*_|\[\]]", r"\\\g<0>", text).replace("<", "&lt;").split())


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; its cells are Markdown already, so that they can have code and links."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
