"""CSV files that spreadsheets open: no cell of foreign text is a formula."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from numbers import Number

from core.safety.terminal import escape_line

# With these a spreadsheet takes a cell for a formula, also after white space; the last four are their wide forms.
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.ASCII | re.IGNORECASE)


def csv_bytes(rows: Iterable[Sequence[object]]) -> bytes:
    """Return the rows as UTF-8 with a byte order mark, by which spreadsheets recognize Korean names; None is empty.

    A text that a spreadsheet would take for a formula gets a leading `'`; numbers stay as they are.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue().encode("utf-8-sig")


def _cell(value: object) -> object:
    if value is None or isinstance(value, Number):
        return value
    text = str(value)
    is_formula = text.startswith(("\t", "\r", "\n")) or text.lstrip("\0 \t\r\n\v\f\u00a0\ufeff").startswith(_FORMULA)
    # A line break would start a row of its own in some programs.
    return escape_line(f"'{text}" if is_formula and not _NUMBER.fullmatch(text) else text)
