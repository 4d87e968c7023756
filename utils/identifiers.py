"""Names, paths and hashes from servers, files and users, as types whose constructors refuse everything else.

Each type is a `str`, so a value is checked once, where it enters, and used as text from then on. What is accepted is what
lakeFS and MLflow accept (`pkg/validator` and `pkg/graveler/validate.go` of lakeFS), without names that could be a path.
"""

from __future__ import annotations

import re
import reprlib
from typing import ClassVar, Self

from core.errors import AppError
from core.i18n import mark, tr

MAX_NAME_BYTES = 1024  # of a branch, tag or reference; and of an object's path, as in lakeFS
MAX_SIZE_BYTES = 1 << 50  # of one object
MAX_TIME_S = 253_402_000_000  # since 1970: in the year 9999, the last one that datetime knows, in every time zone
NONE = "none"  # recorded for a missing value, such as the commit where there is no Git
_SEGMENT = r"(?!\.{1,2}(?:/|\Z))(?![A-Za-z]:)[^/\\\x00]+"  # not '.' or '..', and no drive letter
_PATH = rf"{_SEGMENT}(?:/{_SEGMENT})*"
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 80


class InvalidValue(AppError, ValueError):
    """Value that its type does not allow; the message names what was expected and what was found."""

    def __init__(self, kind: str, expected: str, found: object) -> None:
        shown = _SHOWN.repr(found)
        super().__init__(
            tr("{kind}: expected {expected}, found {found}", kind=tr(kind), expected=expected, found=shown)
        )


class Identifier(str):
    """Text that matches the pattern of its class. Raises InvalidValue for anything else."""

    __slots__ = ()
    kind: ClassVar[str]
    rule: ClassVar[str]
    pattern: ClassVar[re.Pattern[str]]

    def __new__(cls, value: object) -> Self:
        if isinstance(value, cls):
            return value
        if not isinstance(value, str) or not cls.accepts(value):
            raise InvalidValue(cls.kind, tr(cls.rule), value)
        return super().__new__(cls, value)

    @classmethod
    def accepts(cls, value: str) -> bool:
        """Return whether a text is a value of this type."""
        return _is_short_utf8(value) and cls.pattern.fullmatch(value) is not None


def _is_short_utf8(value: str) -> bool:
    """Return whether a text has at most `MAX_NAME_BYTES`, and no lone surrogates, which no URL and no file can have."""
    if len(value) > MAX_NAME_BYTES:
        return False
    try:
        return value.isascii() or len(value.encode()) <= MAX_NAME_BYTES
    except UnicodeEncodeError:
        return False


class Repository(Identifier):
    """Name of a lakeFS repository."""

    kind = mark("repository")
    rule = mark("3 to 63 lower-case letters, digits and '-'")
    pattern = re.compile(r"[a-z0-9][a-z0-9-]{2,62}")


class Ref(Identifier):
    """Reference of lakeFS: a branch, a tag, a full or abbreviated commit ID, or an expression such as `main~1`."""

    kind = mark("reference")
    rule = mark("a branch, tag or commit ID without blanks, '..', / \\ : ? * and [")
    pattern = re.compile(r"(?!.*\.\.)(?!\.\Z)[^\x00-\x20/\\:?*\[]+")


class CommitId(Ref):
    """Full ID of a lakeFS commit, as servers return it; what a user abbreviates is a `Ref`."""

    kind = mark("commit ID")
    rule = mark("64 hex digits")
    pattern = re.compile(r"[0-9a-f]{64}")


class Branch(Ref):
    """Name of a lakeFS branch."""

    kind = mark("branch")
    rule = mark("letters, digits, '_' and '-'")
    pattern = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")


class Tag(Ref):
    """Name of a lakeFS tag."""

    kind = mark("tag")
    rule = mark("no blanks, '..', '@{', / \\ ^ : ? * or [, and no '.' or '.lock' at the end")
    pattern = re.compile(r"(?!@\Z)(?!.*\.\.)(?!.*@\{)[^\x00-\x20/\\^:?*\[]+(?<!\.)(?<!\.lock)")


class PathPrefix(Identifier):
    """Beginning of object paths: a path, which may end with '/', or nothing."""

    kind = mark("object path")
    rule = mark("a relative path with /, without empty, '.' and '..' parts, \\ and drive letters, at most 1,024 bytes")
    pattern = re.compile(rf"(?:{_PATH}/?)?")


class ObjectPath(PathPrefix):
    """Path of an object in a lakeFS version: joined to a directory, it stays inside."""

    pattern = re.compile(_PATH)


class Sha256(Identifier):
    """SHA-256 of a content."""

    kind = mark("SHA-256")
    rule = mark("64 hex digits")
    pattern = re.compile(r"[0-9a-f]{64}")


class Checksum(Identifier):
    """Checksum by which a server knows an object: MD5, or another text of the object storage."""

    kind = mark("checksum")
    rule = mark("printable ASCII characters")
    pattern = re.compile(r"[\x20-\x7e]*")


class RecordedRun(Identifier):
    """ID of the MLflow run that a record names, or `none`."""

    kind = mark("run ID")
    rule = mark("32 hex digits")
    pattern = re.compile(rf"[0-9a-f]{{32}}|{NONE}")


class RunId(RecordedRun):
    """ID of an MLflow run."""

    pattern = re.compile(r"[0-9a-f]{32}")


class GitCommit(Identifier):
    """Full ID of a Git commit, or `none`."""

    kind = mark("Git commit")
    rule = mark("40 or 64 hex digits, or 'none'")
    pattern = re.compile(rf"[0-9a-f]{{40}}|[0-9a-f]{{64}}|{NONE}")


def parse_size(value: object) -> int:
    """Return the size of an object in bytes; unset: 0. Raises InvalidValue."""
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value <= MAX_SIZE_BYTES:
        raise InvalidValue(mark("size"), tr("a number of bytes"), value)
    return value


def parse_time(value: object) -> int | None:
    """Return seconds since 1970, or None if unset. Raises InvalidValue."""
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= MAX_TIME_S:
        raise InvalidValue(mark("time"), tr("seconds since 1970"), value)
    return value
