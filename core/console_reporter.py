"""The reporter of the scripts: messages, results, warnings and progress on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

from core.console import print_error, print_json, print_text
from core.i18n import Message, tr
from core.progress import show_progress
from core.reporting import ByteCount

T = TypeVar("T")


class ConsoleReporter:
    """Reporter for the terminal: messages on standard output, warnings and progress bars on standard error.

    With `to_stderr`, messages go to standard error too, because standard output is read by a program. With `quiet`, there
    are no messages and no progress: only results, warnings and errors.
    """

    def __init__(self, to_stderr: bool = False, quiet: bool = False) -> None:
        self.to_stderr, self.quiet = to_stderr, quiet

    def notify(self, text: str) -> None:
        """Print a message."""
        if not self.quiet:
            print_text(text, self._output())

    def result(self, text: str) -> None:
        """Print what the script was asked for; with `to_stderr`, `record` does that."""
        if not self.to_stderr:
            print_text(text)

    def record(self, value: object) -> None:
        """With `to_stderr`, print the result as JSON on standard output."""
        if self.to_stderr:
            print_json(value)

    def warn(self, text: str) -> None:
        """Print a warning to standard error."""
        print_error(tr("warning: {text}", text=Message(text)))

    def progress(
        self, items: Iterable[T], total: int | None, description: str, unit: str, moved: ByteCount | None
    ) -> Iterator[T]:
        """Yield the items with a tqdm bar (rate, ETA) on a terminal, otherwise with plain lines; nothing for short steps."""
        if self.quiet:
            return iter(items)
        return show_progress(items, total, description, unit, self._output(), moved)

    def _output(self) -> TextIO:
        return sys.stderr if self.to_stderr else sys.stdout
