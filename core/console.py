"""Console output and input: tables, sizes, progress bars, prompts, and the options that all scripts share."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO, TypeVar

from core.i18n import tr

T = TypeVar("T")


def format_table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Format a plain table; columns are aligned for Korean too (tabulate uses wcwidth)."""
    import tabulate

    return tabulate.tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)


def format_size(size_bytes: float) -> str:
    """Format a number of bytes, such as 1536 as "1.5 KB" (1 KB = 1024 bytes)."""
    for unit in ("B", "KB", "MB", "GB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TB"


class ConsoleReporter:
    """Reporter for the terminal: messages on standard output, warnings and progress bars on standard error.

    With `to_stderr`, messages go to standard error too, because standard output is read by a program.
    """

    def __init__(self, to_stderr: bool = False) -> None:
        self.to_stderr = to_stderr

    def notify(self, text: str) -> None:
        """Print a message and flush it: a pipe must not delay it."""
        print(text, file=self._output(), flush=True)

    def warn(self, text: str) -> None:
        """Print a warning to standard error."""
        print(tr("warning: {text}", text=text), file=sys.stderr, flush=True)

    def progress(self, items: Iterable[T], total: int | None, description: str, unit: str) -> Iterator[T]:
        """Yield the items with a tqdm bar (rate, ETA) on a terminal, otherwise with a plain line every 10 s."""
        return show_progress(items, total, description, unit, self._output())

    def _output(self) -> TextIO:
        return sys.stderr if self.to_stderr else sys.stdout


def show_progress(
    items: Iterable[T], total: int | None, description: str, unit: str, output: TextIO | None = None
) -> Iterator[T]:
    """Yield the items with a tqdm bar on a terminal, otherwise with a plain line on `output` (stdout) every 10 s."""
    from tqdm import tqdm

    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=description, unit=unit, leave=False, dynamic_ncols=True)
        return
    start = shown = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - shown >= 10:
            shown, rate = now, done / (now - start)
            eta = f", ETA {(total - done) / rate:.0f} s" if total else ""
            print(f"{description}: {done}/{total or '?'} {unit}, {rate:.1f} {unit}/s{eta}", file=output, flush=True)


def choose(prompt: str, count: int) -> int | None:
    """Prompt for a number from 1 to `count` until it is valid; return its 0-based index, or None for 'q' or end of input."""
    while True:
        try:
            answer = input(tr("{prompt} [1-{count}, q = quit]: ", prompt=prompt, count=count)).strip()
        except EOFError:
            print()
            return None
        if answer.lower() in ("q", "quit", "exit"):
            return None
        if answer.isascii() and answer.isdigit() and 1 <= int(answer) <= count:
            return int(answer) - 1
        print(tr("'{answer}' is not a number from 1 to {count}.", answer=answer, count=count))


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every script has."""
    parser.add_argument("--debug", action="store_true", help=tr("show the traceback of an error"))
