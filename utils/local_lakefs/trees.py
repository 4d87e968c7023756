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
    """One object of a tree. `mtime` in seconds since 1970; `checksum` is the MD5 that lakeFS shows."""

    sha256: str
    checksum: str
    size: int
    mtime: int
    content_type: str
    metadata: dict[str, str]


class Range(NamedTuple):
    """A reference to a run of entries, the last of which has the path `last`."""

    id: str
    last: str


GONE = Entry("", "", 0, 0, "", {})  # stands in changes where a path is deleted


def identity(entry: Entry | None) -> object:
    """What makes two entries the same for lakeFS: everything but the time. None where there is none."""
    return (entry.sha256, entry.size, entry.content_type, entry.metadata) if entry and entry.sha256 else None


def outer_join(*sides: Iterable[tuple[str, Entry]]) -> Iterator[tuple[str, list[Entry | None]]]:
    """(path, its entry or None on each side) for every path of sorted sequences."""
    numbered = (zip(side, itertools.repeat(number), strict=False) for number, side in enumerate(sides))
    merged = heapq.merge(*numbered, key=lambda row: row[0][0])
    for path, group in itertools.groupby(merged, key=lambda row: row[0][0]):
        found: list[Entry | None] = [None] * len(sides)
        for (_, entry), number in group:
            found[number] = entry
        yield path, found


def _ends_range(path: str) -> bool:
    """Ranges end after 1 path in 1,024, by its hash: where they end depends on nothing else, so that the same entries
    make the same ranges whatever their history, and one change touches one or two of them."""
    return int.from_bytes(hashlib.blake2b(path.encode(), digest_size=2).digest(), "big") % 1024 == 0


def range_id(rows: list[tuple[str, Entry]]) -> str:
    """Leaves the times out: the same content uploaded again is the same range, as it is for lakeFS."""
    content = json.dumps([(path, identity(entry)) for path, entry in rows], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def tree_id(ranges: list[Range]) -> str:
    return hashlib.sha256("\n".join(["tree", *(r.id for r in ranges)]).encode()).hexdigest()


class Trees:
    """Reads and writes trees by their id; every id is a hash of what it names, so nothing here is ever changed."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self.ranges = lru_cache(64)(lambda tree: [Range(*row) for row in self._read(tree)])
        self.rows = lru_cache(64)(lambda key: [(path, Entry(*fields)) for path, *fields in self._read(key)])

    def get(self, tree: str, path: str) -> Entry | None:
        for found, entry in self.scan(tree, path):
            return entry if found == path else None
        return None

    def scan(self, tree: str, start: str = "") -> Iterator[tuple[str, Entry]]:
        """The entries from path `start` on, in byte order of their paths."""
        ranges = self.ranges(tree)
        first = bisect.bisect_left(ranges, start, key=lambda r: r.last)
        return self._scan_ranges(ranges[first:], start)

    def diff(self, left: str, right: str, start: str = "") -> Iterator[tuple[str, Entry | None, Entry | None]]:
        """(path, left entry, right entry) of what differs from path `start` on; ranges that both have are not read."""
        mine, theirs = self.ranges(left), self.ranges(right)
        shared = set(mine) & set(theirs)
        sides = [[r for r in ranges if r not in shared and r.last >= start] for ranges in (mine, theirs)]
        for path, (a, b) in outer_join(*(self._scan_ranges(side, start) for side in sides)):
            if identity(a) != identity(b):
                yield path, a, b

    def apply(self, tree: str, changes: Iterable[tuple[str, Entry]]) -> str:
        """The id of `tree` ("" is empty) with sorted `changes` made. Only ranges that change are rewritten."""
        queue = iter(changes)
        change = next(queue, None)
        result: list[Range] = []
        rows: list[tuple[str, Entry]] = []  # read, and not yet part of a finished range
        ranges = self.ranges(tree) or [Range("", "")]

        def finish() -> None:
            key = self._write(range_id(rows), [(path, *entry) for path, entry in rows])
            result.append(Range(key, rows[-1][0]))
            rows.clear()

        for reference in ranges:
            due: list[tuple[str, Entry]] = []
            while change and (change[0] <= reference.last or reference is ranges[-1]):
                due.append(change)
                change = next(queue, None)
            if not due and not rows:
                result.append(reference)
                continue
            for path, (old, new) in outer_join(self._scan_ranges([reference], ""), due):
                entry = old if new is None or identity(old) == identity(new) else new
                if entry and entry.sha256:
                    rows.append((path, entry))
                if _ends_range(path) and rows and rows[-1][0] == path:
                    finish()
        if rows:
            finish()
        ranges = [r for r in result if r.id]
        return self._write(tree_id(ranges), ranges)

    def _scan_ranges(self, ranges: list[Range], start: str) -> Iterator[tuple[str, Entry]]:
        for reference in ranges:
            rows = self.rows(reference.id)
            yield from rows[bisect.bisect_left(rows, start, key=itemgetter(0)) :] if start else rows

    def _read(self, key: str) -> list[list[Any]]:
        row = self._db("SELECT data FROM nodes WHERE id=?", key).fetchone() if key else (zlib.compress(b"[]"),)
        if not row:
            raise LookupError(f"node {key} is lost")
        return list(json.loads(zlib.decompress(row[0])))

    def _write(self, key: str, value: object) -> str:
        data = zlib.compress(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(), 1)
        self._db("INSERT OR IGNORE INTO nodes VALUES(?, ?)", key, data)
        return key
