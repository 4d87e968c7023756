"""Names of the Git tags of results, such as v1.0-acc85."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from core.git import list_tags
from versioning.naming.results import RESULT_TAG


def next_result_tag(folder: Path, accuracy_percent: int, others: Iterable[str] = ()) -> str:
    """Return `v<major>.<minor>-acc<percent>` after the newest such tag: v1.0 first and after v0.x, then v1.1, v1.2, ...

    `others` are further existing names: those of lakeFS, where a colleague's tag may appear first.
    """
    last = _newest([*list_tags(folder), *others])
    major, minor = _version(last) if last else (0, 0)
    major, minor = (1, 0) if major == 0 else (major, minor + 1)
    return f"v{major}.{minor}-acc{accuracy_percent}"


def last_result_tag(folder: Path) -> str | None:
    """Return the newest tag of the form `v1.0-acc85` or `v0.1-initial`, by its numbers."""
    return _newest(list_tags(folder))


def _newest(names: Iterable[str]) -> str | None:
    return max((name for name in names if RESULT_TAG.fullmatch(name)), key=_version, default=None)


def _version(tag: str) -> tuple[int, int]:
    match = RESULT_TAG.fullmatch(tag)
    return (int(match[1]), int(match[2])) if match else (0, 0)
