"""Hashes of files: SHA-256, with a cache by path, size and modification time, and MD5."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from pathlib import Path

from core.files import open_regular
from core.safety.private_database import open_cache_database
from core.safety.private_files import make_directory

BLOCK = 1 << 18  # bytes read and hashed at a time
BATCH = 1000  # hashes per transaction: one transaction takes as long as hashing an image
SCHEMA = "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, stat TEXT, sha256 TEXT) WITHOUT ROWID"
YOUNG_NS = 2_000_000_000  # a file changed this recently may change again within the resolution of the clock


def file_sha256(path: Path) -> str:
    """Return the SHA-256 (hex) of a regular file, read in blocks. Raises OSError for a special file."""
    digest = hashlib.sha256()
    # hashlib.file_digest clears its own buffer for each file: half of the time for an image.
    with open_regular(path) as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def file_md5(path: Path) -> str:
    """Return the MD5 (hex) of a file: lakeFS knows only that of objects which other clients wrote."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "md5").hexdigest()


def stat_key(status: os.stat_result) -> str:
    """Return the facts that change with a file's content: size, mtime_ns and inode."""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"


class HashCache:
    """Cache of the SHA-256 of files by path, size, mtime_ns and inode, in one SQLite file; thread-safe.

    A file that changed within the last two seconds is hashed but not cached: a second change in the same tick of the
    file system's clock would not be detected.
    """

    def __init__(self, path: Path) -> None:
        make_directory(path.parent)
        self._path, self._lock = path, threading.Lock()
        self._new: list[tuple[str, str, str]] = []  # not written yet
        self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        """Open the database; recreate a damaged one, as everything in it can be hashed again."""
        try:
            return self._connect()
        except sqlite3.OperationalError:  # locked, disk full, no permission
            raise
        except sqlite3.DatabaseError:
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        return open_cache_database(self._path, 30, SCHEMA)

    def close(self) -> None:
        """Write new entries and close the database."""
        self._write_new()
        self._db.close()

    def sha256(self, path: Path) -> str:
        """Return the SHA-256 (hex) of a file, from the cache if its stat is unchanged."""
        status = path.stat()
        key, stat = str(path.absolute()), stat_key(status)
        with self._lock:
            row = self._db.execute("SELECT sha256 FROM files WHERE path = ? AND stat = ?", (key, stat)).fetchone()
        return str(row[0]) if row else self._hash_and_cache(path, key, stat, status)

    def _hash_and_cache(self, path: Path, key: str, stat: str, status: os.stat_result) -> str:
        sha256 = file_sha256(path)
        if time.time_ns() - status.st_mtime_ns > YOUNG_NS:
            with self._lock:
                self._new.append((key, stat, sha256))
                if len(self._new) >= BATCH:
                    self._write_new()
        return sha256

    def _write_new(self) -> None:
        if not self._new:
            return
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany("REPLACE INTO files VALUES (?, ?, ?)", self._new)
        self._db.execute("COMMIT")
        self._new.clear()
