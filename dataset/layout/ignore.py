"""Rules of `.lakefsignore`: which files of a data directory are neither versioned nor part of the data.

The syntax is that of `.gitignore`. There is one file, at the top of the directory; it is versioned with the data, so that
every clone, and every commit, is read by the rules that it was made with.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import UsageError, describe_error
from core.files import read_regular
from core.i18n import tr

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILE = ".lakefsignore"


@dataclass(frozen=True)
class IgnoreRules:
    """Parsed rules."""

    spec: GitIgnoreSpec

    def ignores(self, path: str) -> bool:
        """Return whether the file at a relative '/' path is ignored; the file of the rules itself never is."""
        return path != IGNORE_FILE and self.spec.match_file(path)


def read_ignore_rules(root: Path) -> IgnoreRules | None:
    """Return the rules of a data directory, or None. Raises UsageError for an invalid file."""
    path = root / IGNORE_FILE
    try:
        content = read_regular(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _invalid(path, error) from error
    return parse_ignore_rules(content, path)


def parse_ignore_rules(content: bytes, where: object) -> IgnoreRules:
    """Return the rules of a file's content. Raises UsageError naming `where` it was read."""
    from pathspec import GitIgnoreSpec

    try:
        return IgnoreRules(GitIgnoreSpec.from_lines(content.decode("utf-8-sig").splitlines()))
    except ValueError as error:  # not UTF-8, or an invalid pattern
        raise _invalid(where, error) from error


def _invalid(where: object, error: Exception) -> UsageError:
    return UsageError(
        tr("{file}: expected patterns of .gitignore's syntax, found {reason}", file=where, reason=describe_error(error))
    )
