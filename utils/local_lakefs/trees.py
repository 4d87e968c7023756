"""Committed trees: sorted entries in content-addressed, compressed ranges, so equal parts are stored and read once."""

import bisect
import hashlib
import heapq
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

from .database import Database

SCHEMA = """
CREATE TABLE nodes(id TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID; -- trees, and the ranges they name
"""


class Entry(NamedTuple):
    """One object of a tree; `size` in bytes, `mtime` in seconds since 1970, `checksum` is the MD5 that lakeFS shows."""

    sha256: str
    checksum: str
    size: int
    mtime: int
    content_type: str
    metadata: dict[str, str]


class Range(NamedTuple):
    """A reference to a sequence of entries, the last of which has the path `last`."""

    id: str
    last: str


DELETED = Entry("", "", 0, 0, "", {})  # a change that deletes its path


def identity(entry: Entry | None) -> object:
    """Return what makes two entries equal for lakeFS: everything but the time. None for no entry or a deleted one."""
    return (entry.sha256, entry.size, entry.content_type, entry.metadata) if entry and entry.sha256 else None


def outer_join(*sides: Iterable[tuple[str, Entry]]) -> Iterator[tuple[str, list[Entry | None]]]:
    """Yield (path, its entry or None on each side) for every path of sorted sequences."""
    numbered = (zip(side, itertools.repeat(number), strict=False) for number, side in enumerate(sides))
    merged = heapq.merge(*numbered, key=lambda row: row[0][0])
    for path, group in itertools.groupby(merged, key=lambda row: row[0][0]):
        found: list[Entry | None] = [None] * len(sides)
        for (_, entry), number in group:
            found[number] = entry
        yield path, found


def _ends_range(path: str) -> bool:
    """Return whether a range ends after `path`: after 1 path in 1,024, by its hash.

    That depends on nothing else, so equal entries make equal ranges whatever their history, and one change touches one
    or two ranges.
    """
    return int.from_bytes(hashlib.blake2b(path.encode(), digest_size=2).digest(), "big") % 1024 == 0


def range_id(rows: list[tuple[str, Entry]]) -> str:
    """Return the id of a range: a hash without the times, so the same content uploaded again is the same range."""
    content = json.dumps([(path, identity(entry)) for path, entry in rows], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def tree_id(ranges: list[Range]) -> str:
    """Return the id of a tree: a hash of the ids of its ranges."""
    return hashlib.sha256("\n".join(["tree", *(r.id for r in ranges)]).encode()).hexdigest()


def _assign_changes(
    ranges: list[Range], changes: Iterable[tuple[str, Entry]]
) -> Iterator[tuple[Range, list[tuple[str, Entry]]]]:
    """Yield each range with the sorted changes that fall into it; those after the last range belong to it."""
    queue = iter(changes)
    change = next(queue, None)
    for reference in ranges:
        due: list[tuple[str, Entry]] = []
        while change and (change[0] <= reference.last or reference is ranges[-1]):
            due.append(change)
            change = next(queue, None)
        yield reference, due


class Trees:
    """Trees by their id, which is a hash of their content: nothing that is written is ever changed."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self.ranges = lru_cache(64)(lambda tree: [Range(*row) for row in self._read(tree)])
        self.rows = lru_cache(64)(lambda key: [(path, Entry(*fields)) for path, *fields in self._read(key)])

    def get(self, tree: str, path: str) -> Entry | None:
        """Return the entry of a path, None if the tree has none."""
        for found, entry in self.scan(tree, path):
            return entry if found == path else None
        return None

    def scan(self, tree: str, start: str = "") -> Iterator[tuple[str, Entry]]:
        """Yield the entries from path `start` on, in byte order of their paths."""
        ranges = self.ranges(tree)
        first = bisect.bisect_left(ranges, start, key=lambda r: r.last)
        return self._scan_ranges(ranges[first:], start)

    def diff(self, left: str, right: str, start: str = "") -> Iterator[tuple[str, Entry | None, Entry | None]]:
        """Yield (path, left entry, right entry) for differences from path `start` on; ranges that both have are not read."""
        mine, theirs = self.ranges(left), self.ranges(right)
        shared = set(mine) & set(theirs)
        sides = [[r for r in ranges if r not in shared and r.last >= start] for ranges in (mine, theirs)]
        for path, (a, b) in outer_join(*(self._scan_ranges(side, start) for side in sides)):
            if identity(a) != identity(b):
                yield path, a, b

    def apply(self, tree: str, changes: Iterable[tuple[str, Entry]]) -> str:
        """Return the id of `tree` ("" is the empty one) after sorted changes. Only ranges that change are rewritten."""
        result: list[Range] = []
        rows: list[tuple[str, Entry]] = []  # read, and not yet part of a written range
        for reference, due in _assign_changes(self.ranges(tree) or [Range("", "")], changes):
            if not due and not rows:
                result.append(reference)
                continue
            for path, (old, new) in outer_join(self._scan_ranges([reference], ""), due):
                entry = old if new is None or identity(old) == identity(new) else new
                if entry and entry.sha256:
                    rows.append((path, entry))
                if _ends_range(path) and rows and rows[-1][0] == path:
                    result.append(self._write_range(rows))
                    rows = []
        if rows:
            result.append(self._write_range(rows))
        ranges = [reference for reference in result if reference.id]
        if not ranges and not tree:
            return ""  # still the empty tree
        return self._write(tree_id(ranges), ranges)

    def _write_range(self, rows: list[tuple[str, Entry]]) -> Range:
        key = self._write(range_id(rows), [(path, *entry) for path, entry in rows])
        return Range(key, rows[-1][0])

    def _scan_ranges(self, ranges: list[Range], start: str) -> Iterator[tuple[str, Entry]]:
        for reference in ranges:
            rows = self.rows(reference.id)
            yield from rows[bisect.bisect_left(rows, start, key=itemgetter(0)) :] if start else rows

    def _read(self, key: str) -> list[list[Any]]:
        row = self._db("SELECT data FROM nodes WHERE id=?", key).fetchone() if key else (zlib.compress(b"[]"),)
        if not row:
            raise LookupError(f"node {key} is missing")
        return list(json.loads(zlib.decompress(row[0])))

    def _write(self, key: str, value: object) -> str:
        data = zlib.compress(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(), 1)
        self._db("INSERT OR IGNORE INTO nodes VALUES(?, ?)", key, data)
        return key
