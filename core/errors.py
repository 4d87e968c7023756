"""The errors that a user sees, and the exit codes of the scripts."""

from __future__ import annotations

EXIT_DONE, EXIT_FAILED, EXIT_WRONG_USE, EXIT_BELOW_THRESHOLD, EXIT_INTERRUPTED = 0, 1, 2, 3, 130


class AppError(Exception):
    """Something a person can understand and mend: what, where, expected, found, what to do. Exit code 1."""

    exit_code = EXIT_FAILED


class UsageError(AppError):
    """Wrong use or bad data. Exit code 2."""

    exit_code = EXIT_WRONG_USE


class BelowThreshold(AppError):
    """A model that is not good enough to be registered. Exit code 3."""

    exit_code = EXIT_BELOW_THRESHOLD


def one_line(error: BaseException) -> str:
    """The error's own words on one line, its type first when it is not one of ours."""
    text = " ".join(str(error).split())
    return text if isinstance(error, AppError) else f"{type(error).__name__}: {text}"
