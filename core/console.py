"""Console output and input: messages, tables, sizes and prompts.

Everything that the scripts print passes through here. Control characters in it, which may come from file names, servers
and errors, are shown as escapes, and URLs without user and password.
"""

from __future__ import annotations

import logging
import shutil
import sys
import traceback
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, TextIO, TypeVar

from core.i18n import tr
from core.safety.redaction import redact
from core.safety.terminal import escape_line, escape_text

T = TypeVar("T")
SHOWN_ID = 8  # characters of an ID in a table; the scripts accept the beginning of an ID
TABLE_WIDTH = 100  # columns of a table without --long
_standard_warning = warnings.formatwarning


def print_text(text: str, file: TextIO | None = None) -> None:
    """Print a message on `file` (standard output) without secrets, and flush it: a pipe must not delay it."""
    print(escape_text(redact(text)), file=file, flush=True)


def print_result(text: str) -> None:
    """Print what a command was asked for on standard output: a link with its signature is printed as it is."""
    print(escape_text(text), flush=True)


def print_json(value: object) -> None:
    """Print a result for a program on standard output: one JSON document, in ASCII if the encoding is not UTF-8."""
    import json

    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print_result(json.dumps(value, ensure_ascii=not is_utf8, indent=2))


def print_error(text: str) -> None:
    """Print a message on standard error."""
    print_text(text, sys.stderr)


def print_traceback() -> None:
    """Print the traceback of the exception that is being handled on standard error."""
    print_error(traceback.format_exc().rstrip("\n"))


def format_table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Format a plain table, one line per row; columns are aligned for Korean too (tabulate uses wcwidth)."""
    import tabulate

    cells = [[escape_line(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    return tabulate.tabulate(cells, headers=headers, tablefmt="simple", disable_numparse=True)


def fit_table(headers: Sequence[str], rows: Sequence[Sequence[Any]], optional: Sequence[str]) -> str:
    """Format a table of at most `TABLE_WIDTH` columns: leave out the `optional` headers, in this order, until it fits."""
    from wcwidth import wcswidth

    table = format_table(headers, rows)
    for header in optional:
        if max(map(wcswidth, table.split("\n"))) <= TABLE_WIDTH:
            break
        kept = [place for place, name in enumerate(headers) if name != header]
        headers, rows = [headers[place] for place in kept], [[row[place] for place in kept] for row in rows]
        table = format_table(headers, rows)
    return table


def wrap_items(items: Sequence[str], heading: str) -> str:
    """Return a heading and items, broken between items where the terminal ends; Korean counts as two columns.

    Without a terminal, as in a log, lines are as wide as one of 80 columns.
    """
    from wcwidth import wcswidth

    width, indent = shutil.get_terminal_size((80, 24)).columns, " " * max(0, wcswidth(heading))
    lines, column = [heading], wcswidth(heading)
    for item in items:
        size = max(0, wcswidth(item)) + 2
        if column + size - 2 > width and column > len(indent):
            lines, column = [*lines, indent], len(indent)
        lines[-1] += item + "  "
        column += size
    return "\n".join(line.rstrip() for line in lines)


def format_size(size_bytes: float) -> str:
    """Format a number of bytes, such as 1536 as "1.5 KB" (1 KB = 1024 bytes)."""
    for unit in ("B", "KB", "MB", "GB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TB"


def is_terminal() -> bool:
    """Return whether a person can be asked: input and output are those of a terminal."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()


def choose(prompt: str, count: int) -> int | None:
    """Prompt for a number from 1 to `count` until it is valid; return its 0-based index, or None for 'q' or end of input."""
    question = tr("{prompt} [1-{count}, q = quit]: ", prompt=prompt, count=count)
    while True:
        try:
            answer = input(escape_text(redact(question))).strip()
        except EOFError:
            print_text("")
            return None
        if answer.lower() in ("q", "quit", "exit"):
            return None
        if answer.isascii() and answer.isdigit() and 1 <= int(answer) <= count:
            return int(answer) - 1
        print_text(tr("'{answer}' is not a number from 1 to {count}.", answer=answer, count=count))


class _Formatter(logging.Formatter):
    """Formatter for the console: one record may have several lines, of its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        return escape_text(redact(super().format(record)))


def _format_warning(*arguments: Any, **named: Any) -> str:
    return escape_text(redact(_standard_warning(*arguments, **named)))


def configure_logging(debug: bool) -> None:
    """Set the log levels of this process; without `debug`, libraries do not add lines to an error message."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO if debug else logging.ERROR, handlers=[handler])
    warnings.formatwarning = _format_warning
    if not debug:
        logging.getLogger("urllib3").setLevel(logging.CRITICAL)
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.ERROR)


def confirm(question: str) -> bool:
    """Ask a yes-no question until the answer is valid; end of input is a no."""
    while True:
        try:
            answer = input(f"{question} [y/n]: ").strip().lower()
        except EOFError:
            print()
            return False
        if answer in ("y", "yes", "n", "no"):
            return answer.startswith("y")
        print(tr("'{answer}' is not y or n.", answer=ascii(answer)[1:-1]))
