"""Local files: hashes that are remembered, replacement at once, paths that stay in their folder, a bounded pool."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import queue
import re
import secrets
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TypeVar

from utils.console import AppError, t

WORKERS = 32  # transfers at once: each waits for its server most of the time
BLOCK = 1 << 18  # bytes that are read and hashed at once
HASHES = 1000  # that are remembered in one transaction: one for each takes as long as hashing a picture
YOUNG_NS = 2_000_000_000  # a file changed this recently may change again within the clock's own step
T = TypeVar("T")
R = TypeVar("R")


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
        import time

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


def inside(folder: Path, relative: str) -> Path:
    """`folder`/`relative`. Raises AppError for a path, of a server or a listing, that would leave the folder."""
    parts = PurePosixPath(relative).parts
    if (
        not parts
        or relative.startswith("/")
        or ".." in parts
        or "\\" in relative
        or "\0" in relative
        or ":" in parts[0]
    ):
        raise AppError(
            t(
                f"경로 '{relative}' 은(는) '{folder}' 밖을 가리킵니다: 쓰지 않았습니다",
                f"the path '{relative}' leaves '{folder}': not used",
            )
        )
    return folder.joinpath(*parts)


def _beginning(name: str) -> str:
    """So much of a name that a file system, which allows 255 bytes, has room for more behind it."""
    return os.fsencode(name)[:100].decode(errors="ignore")


@contextlib.contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[Path]:
    """A temporary name beside `path` to write to; after the block it takes the place of `path`, flushed to disk first."""
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{_beginning(path.name)}.{secrets.token_hex(16)}.part")
    try:
        yield part
        if durable:
            with part.open("rb") as stream:
                os.fsync(stream.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def remove_parts(folder: Path) -> None:
    """Remove what a kill has left of `replacing` in a folder and below it."""
    for part in folder.rglob(".*.part"):
        if re.search(r"\.[0-9a-f]{32}\.part$", part.name):
            part.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a kill at any moment leaves the old content or the new."""
    with replacing(path) as part:
        part.write_bytes(content)


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link where the file system can, else a copy; replaces what is there at once."""
    with contextlib.suppress(OSError):
        return os.link(source, target)
    if target.exists() and target.samefile(source):
        return  # renaming one name of a file to another does nothing, and would leave the temporary name behind
    with replacing(target, durable=False) as part:
        try:
            os.link(source, part)
        except OSError:
            shutil.copyfile(source, part)


def succeeded(
    results: Iterable[tuple[T, R | Exception]],
    words: Callable[[int], str],
    error: type[AppError] = AppError,
    where: Callable[[T], object] = str,
) -> Iterator[tuple[T, R]]:
    """Pass on what `parallel` did; after the last one, raise an `error` with `words` that names every item that failed."""
    failed: list[tuple[str, Exception]] = []
    for item, result in results:
        if isinstance(result, Exception):
            failed.append((str(where(item)), result))
        else:
            yield item, result
    if failed:
        lines = "".join(f"\n  {name}: {result}" for name, result in sorted(failed, key=lambda pair: pair[0]))
        raise error(f"{words(len(failed))}:{lines}")


def parallel(work: Callable[[T], R], items: Iterable[T], workers: int = WORKERS) -> Iterator[tuple[T, R | Exception]]:
    """Yield (item, result or exception) as they finish; never more than 4 x `workers` items are in the air."""
    done: queue.SimpleQueue[Future[R]] = queue.SimpleQueue()  # `concurrent.futures.wait` looks at every one each time
    pending: dict[Future[R], T] = {}
    with ThreadPoolExecutor(workers) as pool:
        source = iter(items)
        try:
            while True:
                for item in itertools.islice(source, 4 * workers - len(pending)):
                    future = pool.submit(work, item)
                    pending[future] = item
                    future.add_done_callback(done.put)
                if not pending:
                    return
                future = done.get()
                error = future.exception()
                if error is not None and not isinstance(error, Exception):
                    raise error
                yield pending.pop(future), error if error is not None else future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
