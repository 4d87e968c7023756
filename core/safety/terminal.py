"""Escape characters that a terminal would obey, or that would change the order of a text, so that they are displayed."""

from __future__ import annotations

import re

# Directional marks and overrides, and separators that a terminal or editor shows as a line end.
_DIRECTIONS = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_SEPARATORS = "\u2028\u2029"
# C0 except tab and newline, DEL, C1, and the lone surrogates of file names that are not UTF-8.
_UNSAFE = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{_DIRECTIONS}{_SEPARATORS}\ud800-\udfff]")
_UNSAFE_IN_LINE = re.compile(f"[\x00-\x1f\x7f-\x9f{_DIRECTIONS}{_SEPARATORS}\ud800-\udfff]")


def escape_text(text: str) -> str:
    r"""Return the text with control characters as escapes such as \x1b and \u202e; tabs and newlines stay."""
    return _UNSAFE.sub(_escape, text)


def escape_line(text: str) -> str:
    """Return a text of foreign origin that must not start a line of its own: tabs and newlines are escaped too."""
    return _UNSAFE_IN_LINE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    # Characters above ASCII as \uXXXX, which is also valid inside the strings of JSON.
    code = ord(match[0])
    return {9: r"\t", 10: r"\n", 13: r"\r"}.get(code) or (f"\\x{code:02x}" if code < 0x7F else f"\\u{code:04x}")
