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
CREATE TABLE ranges(id TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE trees(id TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
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
    """A reference to a run of entries whose paths lie between `first` and `last`, both included."""

    id: str
    first: str
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


def _pack(value: object) -> bytes:
    return zlib.compress(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(), 1)


class Trees:
    """Reads and writes trees by their id; every id is a hash of what it names, so nothing here is ever changed."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._ranges = lru_cache(maxsize=64)(self._read_tree)
        self._rows = lru_cache(maxsize=64)(self._read_range)

    def get(self, tree: str, path: str) -> Entry | None:
        for found, entry in self.scan(tree, path):
            return entry if found == path else None
        return None

    def scan(self, tree: str, start: str = "") -> Iterator[tuple[str, Entry]]:
        """The entries from path `start` on, in byte order of their paths."""
        ranges = self._ranges(tree)
        first = bisect.bisect_left(ranges, start, key=lambda r: r.last)
        return self._scan_ranges(ranges[first:], start)

    def diff(self, left: str, right: str, start: str = "") -> Iterator[tuple[str, Entry | None, Entry | None]]:
        """(path, left entry, right entry) of what differs from path `start` on; ranges that both have are not read."""
        mine, theirs = self._ranges(left), self._ranges(right)
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
        ranges = self._ranges(tree) or [Range("", "", "")]
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
                    result.append(self._write_range(rows))
                    rows = []
        if rows:
            result.append(self._write_range(rows))
        return self._write_tree([r for r in result if r.id])

    def _scan_ranges(self, ranges: list[Range], start: str) -> Iterator[tuple[str, Entry]]:
        for reference in ranges:
            rows = self._rows(reference.id)
            yield from rows[bisect.bisect_left(rows, start, key=itemgetter(0)) :] if start else rows

    def _read(self, table: str, key: str) -> list[list[Any]]:
        if not key:
            return []
        row = self._db(f"SELECT data FROM {table} WHERE id=?", key).fetchone()
        if not row:
            raise LookupError(f"{table} {key} is lost")
        found: list[list[Any]] = json.loads(zlib.decompress(row[0]))
        return found

    def _read_tree(self, tree: str) -> list[Range]:
        return [Range(*row) for row in self._read("trees", tree)]

    def _read_range(self, range_id: str) -> list[tuple[str, Entry]]:
        return [(path, Entry(*fields)) for path, *fields in self._read("ranges", range_id)]

    def _write_range(self, rows: list[tuple[str, Entry]]) -> Range:
        # The id leaves the times out: the same content uploaded again is the same range, as it is for lakeFS.
        content = json.dumps([(path, identity(entry)) for path, entry in rows], sort_keys=True)
        range_id = hashlib.sha256(content.encode()).hexdigest()
        data = _pack([(path, *entry) for path, entry in rows])
        self._db("INSERT OR IGNORE INTO ranges VALUES(?, ?)", range_id, data)
        return Range(range_id, rows[0][0], rows[-1][0])

    def _write_tree(self, ranges: list[Range]) -> str:
        tree = hashlib.sha256("\n".join(r.id for r in ranges).encode()).hexdigest()
        self._db("INSERT OR IGNORE INTO trees VALUES(?, ?)", tree, _pack(ranges))
        return tree
