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
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Generic, TypeVar

from utils.console import AppError, say, t

WORKERS = 32  # transfers at once: each waits for its server most of the time
BLOCK = 1 << 18  # bytes that are read and hashed at once
HASHES = 1000  # that are remembered in one transaction: one for each takes as long as hashing a picture
YOUNG_NS = 2_000_000_000  # a file changed this recently may change again within the clock's own step
GIVE_UP = 3  # items in a row that find the server gone, before the rest is left alone
LEAVE_S = 2.0  # seconds that work in the air gets to end when nobody waits for it any more
IDLE_S = 7 * 86_400  # seconds after which what a kill has left of a download is not gone on with
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


def remove_idle_parts(folder: Path) -> None:
    """Remove temporary files right in a folder that nobody has written to for `IDLE_S`: a kill has left them."""
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") and entry.name.endswith(".part"):
                path = Path(entry.path)
                if path.stat().st_mtime < time.time() - IDLE_S:
                    path.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Remove what a kill has left of `replacing` in a folder and below it."""
    for part in folder.rglob(".*.part"):
        if re.search(r"\.[0-9a-f]{32}\.part$", part.name):
            part.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a kill at any moment leaves the old content or the new."""
    with replacing(path) as part:
        part.write_bytes(content)


@contextlib.contextmanager
def claimed(part: Path) -> Iterator[BinaryIO | None]:
    """A file that belongs to this block alone, with what an earlier process wrote before it was killed.

    None where somebody else is at it, or where the system has no such locks; a lock ends with its process.
    """
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        opened = part.open("a+b")
    except PermissionError:  # another user's, in a folder that several share
        yield None
        return
    with opened as stream:
        yield stream if _locked(stream) and _is_at(part, stream) else None


def _locked(stream: BinaryIO) -> bool:
    try:
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):  # Windows; a network folder, or somebody else
        return False
    return True


def _is_at(path: Path, stream: BinaryIO) -> bool:
    """Whether an open file is the one at a path still: who held it before may have renamed it."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def held(path: Path, korean: str, english: str) -> Iterator[None]:
    """Hold a lock file, which ends with its process; where another process has it, say so and wait."""
    import filelock

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=1)
    except filelock.Timeout:
        say(korean, english)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


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


class Gone(Exception):
    """A server that stayed away for all of the patience that there is: what other work would meet too."""


class NotTried(Exception):
    """Work that `parallel` left alone, because the server was gone."""

    def __str__(self) -> str:
        return t("서버가 응답하지 않아 시도하지 않음", "not tried: the server is gone")


def succeeded(
    results: Iterable[tuple[T, R | Exception]],
    words: Callable[[int], str],
    error: type[AppError] = AppError,
    where: Callable[[T], object] = str,
) -> Iterator[tuple[T, R]]:
    """Pass on what `parallel` did; after the last one, raise an `error` with `words` that names every item that failed."""
    failed: list[tuple[str, Exception]] = []
    left = 0
    for item, result in results:
        if isinstance(result, NotTried):
            left += 1
        elif isinstance(result, Exception):
            failed.append((str(where(item)), result))
        else:
            yield item, result
    if failed:
        lines = "".join(f"\n  {name}: {result}" for name, result in sorted(failed, key=lambda pair: pair[0]))
        more = t(f"\n  … 외 {left}개: {NotTried()}", f"\n  … and {left} more {NotTried()}") if left else ""
        raise error(f"{words(len(failed) + left)}:{lines}{more}")


def parallel(work: Callable[[T], R], items: Iterable[T], workers: int = WORKERS) -> Iterator[tuple[T, R | Exception]]:
    """Yield (item, result or exception) as they finish; never more than 4 x `workers` items are in the air.

    When `GIVE_UP` of them have found the server gone and none has found it there since, the rest is not tried. Who
    leaves before the end, by Ctrl-C or an error, does not wait for those in the air: they stop where they `heed`.
    """
    pool, source = _Pool(work), iter(items)
    try:
        while True:
            for item in itertools.islice(source, 4 * workers - pool.pending):
                pool.put(item, workers)
            if not pool.pending:
                return
            item, result = pool.take()
            if isinstance(result, BaseException) and not isinstance(result, Exception):
                raise result
            yield item, result
    finally:
        pool.leave()


def heed() -> None:
    """In work for which nobody waits any more, raise KeyboardInterrupt; long work asks now and then."""
    pool = getattr(_here, "pool", None)
    if pool and pool.is_left():
        raise KeyboardInterrupt


_here = threading.local()  # the pool that this thread works for


class _Pool(Generic[T, R]):
    """Threads that a process does not wait for when it ends, as it would for those of concurrent.futures."""

    def __init__(self, work: Callable[[T], R]) -> None:
        self.work, self.pending, self.left, self.gone = work, 0, False, 0
        self.todo: queue.SimpleQueue[tuple[T] | None] = queue.SimpleQueue()
        self.done: queue.SimpleQueue[tuple[T, R | BaseException]] = queue.SimpleQueue()
        self.threads: list[threading.Thread] = []
        self.above: _Pool[Any, Any] | None = getattr(_here, "pool", None)

    def put(self, item: T, workers: int) -> None:
        self.pending += 1
        self.todo.put((item,))
        if len(self.threads) < workers:
            self.threads.append(threading.Thread(target=self._run, daemon=True))
            self.threads[-1].start()

    def take(self) -> tuple[T, R | BaseException]:
        item, result = self.done.get()
        self.pending -= 1
        return item, result

    def leave(self) -> None:
        """Send the threads home: at once where they wait for work, in `LEAVE_S` seconds at most where they do some."""
        self.left = True
        for _ in self.threads:
            self.todo.put(None)
        end = time.monotonic() + LEAVE_S
        for thread in self.threads:
            thread.join(max(0.0, end - time.monotonic()))

    def is_left(self) -> bool:
        return self.left or (self.above is not None and self.above.is_left())

    def _run(self) -> None:
        _here.pool = self
        while (box := self.todo.get()) is not None:
            try:
                heed()  # an answer all the same: who waits for it may not know yet
                result: R | BaseException = self._tried(box[0])
            except BaseException as error:  # the one who takes it decides
                result = error
            self.done.put((box[0], result))

    def _tried(self, item: T) -> R:
        if self.gone >= GIVE_UP:
            raise NotTried
        try:
            result = self.work(item)
        except Exception as error:
            self.gone = self.gone + 1 if is_gone(error) else 0
            raise
        self.gone = 0
        return result


def is_gone(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, is that the server is gone."""
    while error is not None and not isinstance(error, Gone):
        error = error.__cause__
    return error is not None
