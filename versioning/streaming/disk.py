"""A cache of files by content that several processes share, and that never takes more than a number of bytes.

The limit includes the decoded images beside it (`*.pictures`). SQLite holds what is kept: a file is entered before it
is written and removed from the disk before its entry, so that the entries never name less than what the disk holds,
whenever a process is killed. Which files stay is decided by the time of their next use, which a training knows.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from core.i18n import mark, tr
from core.locks import file_lock
from core.reporting import warn
from core.safety.private_database import open_cache_database
from core.safety.private_files import make_directory

SUFFIX = ".pictures"  # of decoded images
WAITING = mark("waiting for another process that decodes images")
FOLDER = "files"  # below that of the decoded images
DATABASE = "files.db"
UNKNOWN = 1 << 62  # the next use of a file of which none is known: it gives way to all others
LIVE_S = 2.0  # seconds between two looks for processes that have ended
SCHEMA = """
CREATE TABLE IF NOT EXISTS files(sha256 TEXT PRIMARY KEY, size INTEGER, timeline TEXT, next_use INTEGER, writer TEXT)
    WITHOUT ROWID; -- writer: the process that is still writing the file, else ''
CREATE INDEX IF NOT EXISTS by_use ON files(timeline, writer, next_use);
CREATE TABLE IF NOT EXISTS totals(timeline TEXT PRIMARY KEY, bytes INTEGER) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS added AFTER INSERT ON files BEGIN
    INSERT INTO totals VALUES(NEW.timeline, NEW.size) ON CONFLICT(timeline) DO UPDATE SET bytes = bytes + NEW.size; END;
CREATE TRIGGER IF NOT EXISTS removed AFTER DELETE ON files BEGIN
    UPDATE totals SET bytes = bytes - OLD.size WHERE timeline = OLD.timeline; END;
CREATE TRIGGER IF NOT EXISTS moved AFTER UPDATE OF timeline ON files WHEN OLD.timeline <> NEW.timeline BEGIN
    UPDATE totals SET bytes = bytes - OLD.size WHERE timeline = OLD.timeline;
    INSERT INTO totals VALUES(NEW.timeline, NEW.size) ON CONFLICT(timeline) DO UPDATE SET bytes = bytes + NEW.size; END;
"""


class BoundedCache:
    """Files below `folder`/files, by SHA-256; thread-safe.

    A timeline is one training, in one or more processes, in whose time the next uses are counted. Files that no
    running training owns ('') give way first, then those of a training that has more than its share.
    """

    def __init__(self, folder: Path, limit: float, timeline: str) -> None:
        """Open the cache of decoded images and files in `folder`; `limit` is in bytes, for both together."""
        self.pictures, self.folder, self.limit, self.timeline = folder, folder / FOLDER, int(limit), timeline
        self._lock = threading.RLock()
        self._process = f"{timeline}.{secrets.token_hex(8)}"
        make_directory(self.folder / "running")
        self._running = FileLock(self.folder / "running" / self._process)
        self._running.acquire(timeout=0)
        self._looked = -LIVE_S
        self._live: set[str] = {timeline}
        self._db = self._open()
        with self._transaction():
            self._reconcile()
            self._make_room(0, -1)  # an earlier limit may have been larger

    def close(self) -> None:
        """Let go of this process's files, which stay as long as nobody needs their room."""
        with self._lock:
            self._db.close()
        self._running.release()
        Path(self._running.lock_file).unlink(missing_ok=True)

    # --- use ---

    def read(self, sha256: str) -> bytes | None:
        """Return a file's content, or None; one that is damaged is removed."""
        path = self._path(sha256)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        if hashlib.sha256(content).hexdigest() == sha256:
            return content
        warn(tr("{file}: damaged in the cache: downloading again", file=path))
        with self._transaction():
            self._remove(sha256)
        return None

    def plan(self, uses: Iterable[tuple[str, int]]) -> None:
        """State when files (SHA-256, time) are used next; those that nobody owns, or of this training, are meant."""
        with self._transaction():
            self._db.executemany(
                "UPDATE files SET timeline = ?, next_use = ? WHERE sha256 = ? AND timeline IN (?, '')",
                ((self.timeline, next_use, sha256, self.timeline) for sha256, next_use in uses),
            )

    def offer(self, sha256: str, content: bytes, next_use: int | None) -> None:
        """Keep a file if there is room, or if it is used earlier than others that then make room."""
        time_of_use = UNKNOWN if next_use is None else next_use
        if len(content) > self.limit:
            return
        with self._transaction():
            self._look_for_ended()
            known = self._db.execute("SELECT 1 FROM files WHERE sha256 = ?", (sha256,)).fetchone()
            if known or not self._make_room(len(content), time_of_use):
                return
            entry = (sha256, len(content), self.timeline, time_of_use, self._process)
            self._db.execute("INSERT INTO files VALUES(?, ?, ?, ?, ?)", entry)
        self._write(sha256, content)

    @contextlib.contextmanager
    def reserving(self, size: int) -> Iterator[bool]:
        """Yield whether this many bytes are free for a file of decoded images, which the block must create in full size.

        Files that nobody owns, and those of this training, make room for it.
        """
        with self._transaction():
            self._look_for_ended()
            yield self._make_room(size, -1)

    def _write(self, sha256: str, content: bytes) -> None:
        path = self._path(sha256)
        make_directory(path.parent)
        part = self._part(sha256, self._process)
        try:
            part.write_bytes(content)
            part.replace(path)
            with self._transaction():
                self._db.execute("UPDATE files SET writer = '' WHERE sha256 = ?", (sha256,))
        except BaseException:  # a full disk, or Ctrl-C
            part.unlink(missing_ok=True)
            with self._transaction():
                self._remove(sha256)
            raise

    def _path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256

    def _part(self, sha256: str, process: str) -> Path:
        return self.folder / sha256[:2] / f".{sha256}.{process}.part"

    # --- room ---

    def _make_room(self, size: int, next_use: int) -> bool:
        """Remove files until `size` bytes are free; return whether they are. A file used before `next_use` stays."""
        limit = self.limit - decoded_bytes(self.pictures)
        totals = dict(self._db.execute("SELECT timeline, bytes FROM totals"))
        while sum(totals.values()) + size > limit:
            victim = self._victim(totals, size, next_use, limit / len(self._live))
            if victim is None:
                return False
            sha256, freed, timeline = victim
            try:
                self._remove(sha256)
            except PermissionError:  # Windows: another process is reading it
                return False
            totals[timeline] -= freed
        return True

    def _victim(self, totals: dict[str, int], size: int, next_use: int, share: float) -> tuple[str, int, str] | None:
        """Return (SHA-256, bytes, timeline) of the file that gives way; None if all others are more useful."""
        farthest = "SELECT sha256, size, timeline FROM files WHERE timeline = ? AND writer = '' {} ORDER BY next_use DESC LIMIT 1"
        owners = [""] if totals.get("") else []
        if totals.get(self.timeline, 0) + size <= share:
            greedy = max(totals.keys() - {"", self.timeline}, key=lambda name: totals[name], default="")
            owners += [greedy] if totals.get(greedy, 0) > share else []
        for owner in owners:
            if found := self._db.execute(farthest.format(""), (owner,)).fetchone():
                return tuple(found)
        later = self._db.execute(farthest.format("AND next_use > ?"), (self.timeline, next_use)).fetchone()
        return tuple(later) if later else None

    def _remove(self, sha256: str) -> None:
        self._path(sha256).unlink(missing_ok=True)
        self._db.execute("DELETE FROM files WHERE sha256 = ?", (sha256,))

    # --- other processes ---

    def _look_for_ended(self) -> None:
        """Take the files of trainings that have ended from them, and remove what a killed process was writing."""
        if time.monotonic() - self._looked < LIVE_S:
            return
        self._looked, processes = time.monotonic(), self._live_processes()
        self._live = {process.partition(".")[0] for process in processes}
        owners = [name for (name,) in self._db.execute("SELECT timeline FROM totals WHERE timeline <> ''")]
        for name in set(owners) - self._live:
            self._db.execute("UPDATE files SET timeline = '' WHERE timeline = ?", (name,))
            self._db.execute("DELETE FROM totals WHERE timeline = ?", (name,))
        unfinished = self._db.execute("SELECT sha256, writer FROM files WHERE writer <> ''").fetchall()
        for sha256, writer in unfinished:
            if writer not in processes:
                self._part(sha256, writer).unlink(missing_ok=True)
                self._remove(sha256)

    def _live_processes(self) -> set[str]:
        """Return the names of running processes that use the cache; a lock that can be taken is that of an ended one."""
        found = {self._process}
        for path in (self.folder / "running").iterdir():
            lock = FileLock(path)
            try:
                if path.name not in found:
                    lock.acquire(timeout=0)
                    path.unlink(missing_ok=True)
                    lock.release()
            except Timeout:
                found.add(path.name)
        return found

    def _reconcile(self) -> None:
        """Make entries and files agree again, also after a power failure: remove each that has no counterpart."""
        self._look_for_ended()
        there = {path.name: path for path in self.folder.glob("??/*")}
        written = {sha256 for (sha256,) in self._db.execute("SELECT sha256 FROM files WHERE writer = ''")}
        for sha256 in written - there.keys():
            self._remove(sha256)
        expected = written.copy()
        for sha256, writer in self._db.execute("SELECT sha256, writer FROM files WHERE writer <> ''"):
            expected |= {sha256, self._part(sha256, writer).name}
        for name in there.keys() - expected:
            there[name].unlink(missing_ok=True)

    # --- the database ---

    def _open(self) -> sqlite3.Connection:
        """Open the database; a damaged one is made again, and the files that it named are removed."""
        path = self.folder / DATABASE
        try:
            return _connect(path)
        except sqlite3.OperationalError:  # locked, disk full, no permission
            raise
        except sqlite3.DatabaseError:
            for suffix in ("", "-wal", "-shm"):
                Path(f"{path}{suffix}").unlink(missing_ok=True)
            return _connect(path)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Hold the database exclusively, also against other processes. An error of the block leaves what it has done.

        A file that it removed does not come back: its entry would keep the room, and keep the file from being stored.
        """
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            finally:
                self._commit()

    def _commit(self) -> None:
        """End the transaction, also where that fails; with some errors, SQLite has ended it already."""
        try:
            if self._db.in_transaction:
                self._db.execute("COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise


@contextlib.contextmanager
def bounded_cache(folder: Path, limit: float) -> Iterator[BoundedCache | None]:
    """Yield the cache that trainings have made beside these decoded images; None if nothing was ever streamed here."""
    if not (folder / FOLDER / DATABASE).exists():
        yield None
        return
    cache = BoundedCache(folder, limit, secrets.token_hex(8))
    try:
        yield cache
    finally:
        cache.close()


def remove_least_recently_used(folder: Path, limit: float, keep: Sequence[Path]) -> None:
    """Remove incomplete files of killed processes, then the least recently used files until the rest fits `limit` bytes."""
    for part in folder.glob(".*.part"):  # no process is writing: the caller has the lock
        part.unlink(missing_ok=True)
    used = {file: file.stat() for file in folder.glob("*" + SUFFIX)}
    total = sum(status.st_size for status in used.values())
    for file in sorted(used.keys() - set(keep), key=lambda file: used[file].st_mtime):
        if total <= limit:
            return
        file.unlink()  # a training that has it open keeps its content
        total -= used[file].st_size


def make_room(folder: Path, limit: float) -> None:
    """Leave half of the limit to streamed files: remove the least recently used decoded images beyond it."""
    if folder.exists():
        with file_lock(folder / ".lock", tr(WAITING)):
            remove_least_recently_used(folder, limit / 2, keep=())


def decoded_bytes(folder: Path) -> int:
    """Return the bytes of the decoded images in a directory, those that are being written included."""
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith((SUFFIX, ".part")):
                with contextlib.suppress(FileNotFoundError):  # another training has just removed or renamed it
                    total += entry.stat().st_size
    return total


def _connect(path: Path) -> sqlite3.Connection:
    db = open_cache_database(path, 60, SCHEMA)
    db.execute("PRAGMA wal_autocheckpoint = 64")  # pages: the log stays small
    return db
