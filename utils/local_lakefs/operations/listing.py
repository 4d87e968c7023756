"""Pages of sorted listings, and how entries and changes look in lakeFS's API."""

import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from ..store import Commit, Json
from ..trees import Entry, identity

T = TypeVar("T")
Change = tuple[Entry | None, Entry | None, bool]  # before, after, whether it is a conflict

MAX_PAGE = 1000
COMMON_PREFIX = {
    "path_type": "common_prefix", "type": "prefix_changed", "checksum": "", "mtime": 0, "physical_address": "",
}  # fmt: skip


class Page(NamedTuple):
    """Which part of a listing to return."""

    prefix: str = ""
    after: str = ""
    amount: int = 100
    delimiter: str = ""

    def select(self, scan: Callable[[str], Iterable[tuple[str, T]]], render: Callable[[str, T], Json]) -> Json:
        """Return this page of a sorted listing as JSON.

        `scan(start)` yields the listing's (path, value) pairs from path `start` on. Paths that are equal up to a
        delimiter after the prefix become one common prefix.
        """
        results: list[Json] = []
        seek, name, more = max(self.prefix, self.after), "", True
        while more:  # once per common prefix, whose other paths are skipped by a new scan
            more = False
            for path, value in scan(seek):
                if not path.startswith(self.prefix):
                    break
                group = self._common_prefix(path)
                if (group or path) != self.after:
                    if len(results) == self.amount:
                        return make_page(results, name)
                    name = group or path
                    results.append({"path": group, **COMMON_PREFIX} if group else render(path, value))
                if group:
                    seek = _first_after(group)
                    more = bool(seek)
                    break
        return make_page(results)

    def _common_prefix(self, path: str) -> str:
        """Return the path up to the first delimiter after the prefix, "" where there is none."""
        end = path.find(self.delimiter, len(self.prefix)) if self.delimiter else -1
        return path[: end + len(self.delimiter)] if end >= 0 else ""


def _first_after(prefix: str) -> str:
    """Return the first text after all texts with this prefix, "" if there is none."""
    prefix = prefix.rstrip(chr(sys.maxunicode))
    if not prefix:
        return ""
    following = ord(prefix[-1]) + 1
    return prefix[:-1] + chr(0xE000 if following == 0xD800 else following)  # no halves of surrogate pairs


def make_page(results: list[Json], next_offset: str = "") -> Json:
    """Return one page as JSON; `next_offset` is the last result's name where more results follow."""
    page = {"has_more": bool(next_offset), "next_offset": next_offset, "results": len(results)}
    return {"pagination": page | {"max_per_page": MAX_PAGE}, "results": results}


def render_commit(commit: Commit) -> Json:
    """Return a commit as lakeFS shows it."""
    return {name: value for name, value in commit.items() if name != "creation_ns"}


def render_entry(path: str, entry: Entry) -> Json:
    """Return an object's metadata as lakeFS shows it."""
    place = {"path": path, "path_type": "object", "physical_address": f"local://{entry.sha256}"}
    return {**place, **entry._asdict(), "size_bytes": entry.size}


def render_change(path: str, change: Change) -> Json:
    """Return a difference as lakeFS shows it; a removed object has the size that it had."""
    before, after, conflict = change
    if conflict:
        kind = "conflict"
    elif not identity(after):
        kind = "removed"
    else:
        kind = "changed" if before else "added"
    size = (after.size if after else 0) or (before.size if before and kind == "removed" else 0)
    return {"path": path, "path_type": "object", "type": kind, "size_bytes": size}
