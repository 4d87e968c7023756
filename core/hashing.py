"""SHA-256 of files, with a cache by path, size and modification time."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from pathlib import Path

BLOCK = 1 << 18  # bytes that are read and hashed at once
HASHES = 1000  # that are remembered in one transaction: one for each takes as long as hashing a picture
YOUNG_NS = 2_000_000_000  # a file changed this recently may change again within the clock's own step


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file, read in pieces."""
    digest = hashlib.sha256()
    # hashlib.file_digest clears a buffer of its own for each file, half of the time for a picture.
    with path.open("rb", buffering=0) as stream:
        while piece := stream.read(BLOCK):
            digest.update(piece)
    return digest.hexdigest()


def stat_key(status: os.stat_result) -> str:
    """What changes with a file's content: size, mtime_ns and inode."""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"


class HashCache:
    """Remembers the SHA-256 of files by path, size, mtime_ns and inode, in one SQLite file; safe between threads.

    A file that changed within the last two seconds is hashed but not remembered: a second change in the same tick of
    the file system's clock would go unseen.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._lock = path, threading.Lock()
        self._new: list[tuple[str, str, str]] = []  # not in the file yet
        self._db = self._opened()

    def _opened(self) -> sqlite3.Connection:
        """The database; one that is damaged is made anew: it holds nothing that cannot be hashed again."""
        try:
            return self._connected()
        except sqlite3.OperationalError:  # locked, no room, no rights
            raise
        except sqlite3.DatabaseError:
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)
            return self._connected()

    def _connected(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=30, check_same_thread=False, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = OFF")  # what is lost is hashed again
            db.execute("CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, stat TEXT, sha256 TEXT) WITHOUT ROWID")
            # Reads every page: 0.02 s for 100,000 files, and what is damaged shows here and not in the middle of a push.
            if (found := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(found)
        except BaseException:
            db.close()
            raise
        return db

    def close(self) -> None:
        """Write what is new, and let go of the file."""
        self._remember()
        self._db.close()

    def sha256(self, path: Path) -> str:
        """The SHA-256 (hex) of a file, from memory where its stat is the one remembered."""
        status = path.stat()
        key, stat = str(path.absolute()), stat_key(status)
        with self._lock:
            row = self._db.execute("SELECT sha256 FROM files WHERE path = ? AND stat = ?", (key, stat)).fetchone()
        return str(row[0]) if row else self._hashed(path, key, stat, status)

    def _hashed(self, path: Path, key: str, stat: str, status: os.stat_result) -> str:
        sha256 = file_sha256(path)
        if time.time_ns() - status.st_mtime_ns > YOUNG_NS:
            with self._lock:
                self._new.append((key, stat, sha256))
                if len(self._new) >= HASHES:
                    self._remember()
        return sha256

    def _remember(self) -> None:
        if not self._new:
            return
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany("REPLACE INTO files VALUES (?, ?, ?)", self._new)
        self._db.execute("COMMIT")
        self._new.clear()
