"""Reporting of library code: messages, warnings and progress go to the reporter that the program has installed.

Without one, messages go to the logger `reporting`, so that a library call prints nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class ByteCount:
    """Bytes that were sent or received, those of repeated requests included; thread-safe."""

    def __init__(self) -> None:
        self.value = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self.value += count


class Reporter(Protocol):
    """Interface of a reporter; all texts are translated already."""

    def notify(self, text: str) -> None:
        """Report a message."""

    def result(self, text: str) -> None:
        """Report what the program was asked for."""

    def record(self, value: object) -> None:
        """Report the result for a program, as plain values; shown instead of `result` if a program reads the output."""

    def warn(self, text: str) -> None:
        """Report a warning."""

    def progress(
        self, items: Iterable[T], total: int | None, description: str, unit: str, moved: ByteCount | None
    ) -> Iterator[T]:
        """Yield the items while reporting progress; `unit` is a plural such as "images"; `moved`: bytes of a transfer."""


class LoggingReporter:
    """Reporter that logs messages and warnings and shows no progress."""

    log = logging.getLogger("reporting")

    def notify(self, text: str) -> None:
        self.log.info(text)

    def result(self, text: str) -> None:
        self.log.info(text)

    def record(self, value: object) -> None:
        self.log.debug(value)

    def warn(self, text: str) -> None:
        self.log.warning(text)

    def progress(
        self, items: Iterable[T], total: int | None, description: str, unit: str, moved: ByteCount | None
    ) -> Iterator[T]:
        return iter(items)


_reporter: Reporter = LoggingReporter()


def use_reporter(reporter: Reporter) -> None:
    """Install the reporter of this process."""
    global _reporter
    _reporter = reporter


def notify(text: str) -> None:
    """Report a message."""
    _reporter.notify(text)


def result(text: str) -> None:
    """Report what the program was asked for, which --quiet does not suppress."""
    _reporter.result(text)


def record(value: object) -> None:
    """Report the result for a program, as plain values: with --json, it is all that standard output contains."""
    _reporter.record(value)


def warn(text: str) -> None:
    """Report a warning."""
    _reporter.warn(text)


def progress(
    items: Iterable[T], total: int | None, description: str, unit: str, moved: ByteCount | None = None
) -> Iterator[T]:
    """Yield the items while reporting progress; `unit` is a plural such as "images"; `moved`: bytes of a transfer."""
    return _reporter.progress(items, total, description, unit, moved)
