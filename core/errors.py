"""Errors that are shown to the user, and the exit codes of the scripts.

AppError (exit code 1)
  UsageError (2): wrong use or invalid data
  BelowThreshold (3): a model that is not good enough to be registered
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the scripts. They are part of the stability promise; docs/options.md has their meanings."""

    DONE = 0
    FAILED = 1
    WRONG_USE = 2
    BELOW_THRESHOLD = 3
    INTERRUPTED = 130


class AppError(Exception):
    """Error that the user can fix; its message states problem, location, expected, found and how to fix it. Exit code 1."""

    exit_code = ExitCode.FAILED


class UsageError(AppError):
    """Wrong use or invalid data. Exit code 2."""

    exit_code = ExitCode.WRONG_USE


class BelowThreshold(AppError):
    """Model that is not good enough to be registered. Exit code 3."""

    exit_code = ExitCode.BELOW_THRESHOLD


def one_line(message: object, limit: int | None = None) -> str:
    """Return the text of an error or of a program's message on one line, at most `limit` characters of it."""
    return " ".join(str(message).split())[:limit]


def describe_error(error: BaseException) -> str:
    """Return the error's message on one line, prefixed with its type if it is not an AppError."""
    text = one_line(error)
    return text if isinstance(error, AppError) else f"{type(error).__name__}: {text}"
