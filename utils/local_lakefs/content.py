"""Object content by its SHA-256: up to 64 KiB in the database, larger content in files beside it."""

import contextlib
import hashlib
import io
import json
import os
import secrets
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

from core.i18n import tr
from core.safety.private_files import create_private_file, make_directory

from .database import Database

INLINE_BYTES = 64 * 1024  # content up to this size lives in the database

SCHEMA = """
CREATE TABLE blobs(sha256 TEXT PRIMARY KEY, size INTEGER NOT NULL, data BLOB, synced INTEGER NOT NULL,
    used INTEGER NOT NULL); -- data is NULL where it is in a file; used: last upload, in seconds since 1970
"""


class Blob(NamedTuple):
    """Received content; `data` is None if it is in a file, `synced` whether that file has reached the disk."""

    sha256: str
    md5: str
    size: int  # bytes
    data: bytes | None
    synced: bool


class ContentFiles:
    """The directory of large content. A file is complete from the moment it has its name; `sync` makes it durable.

    There are no subdirectories: a commit would have to sync each of them.
    """

    def __init__(self, folder: Path, database: Database, read_only: bool = False) -> None:
        self.folder = folder
        self._db = database
        if read_only:
            return
        make_directory(folder)
        for path in folder.with_name("objects").glob("*/*"):  # older stores had subdirectories
            path.replace(folder / path.name)

    def path(self, sha256: str) -> Path:
        """Return where content in a file is stored."""
        return self.folder / sha256

    def receive(self, chunks: Iterable[bytes]) -> Blob:
        """Hash and store content from `chunks`; memory does not grow with their number."""
        sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
        head = bytearray()
        part = self.folder / f"{secrets.token_hex(16)}.part"
        with contextlib.ExitStack() as stack:
            file = None
            for chunk in chunks:
                sha256.update(chunk)
                md5.update(chunk)
                size += len(chunk)
                if file is None and size > INLINE_BYTES:
                    stack.callback(part.unlink, missing_ok=True)
                    create_private_file(part)
                    file = stack.enter_context(part.open("wb"))
                    file.write(head)
                if file is None:
                    head += chunk
                else:
                    file.write(chunk)
            if file is not None:
                file.close()
            synced = file is None or self._keep(part, sha256.hexdigest())
        return Blob(sha256.hexdigest(), md5.hexdigest(), size, None if file else bytes(head), synced)

    def _keep(self, part: Path, sha256: str) -> bool:
        """Turn a part file into content; return True if that is on disk already, undamaged, and the part is not needed."""
        if self._db("SELECT 1 FROM blobs WHERE sha256=? AND synced=1", sha256).fetchone() and not self.find_fault(
            sha256
        ):
            return True
        os.replace(part, self.path(sha256))
        return False

    def find_fault(self, sha256: str) -> str:
        """Read stored content and return what is wrong with it, "" if nothing."""
        try:
            with self.open(sha256) as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != sha256:  # type: ignore[arg-type]
                    return tr("does not match its hash")
        except OSError as error:
            return tr("cannot be read: {error}", error=error)
        return ""

    def record(self, blob: Blob) -> bool:
        """Insert `blob` into the database, in the caller's transaction; return False if gc deleted its file meanwhile."""
        query = """INSERT INTO blobs VALUES(?, ?, ?, ?, ?) ON CONFLICT DO UPDATE
                   SET data=excluded.data, synced=excluded.synced, used=excluded.used"""
        self._db(query, blob.sha256, blob.size, blob.data, blob.synced, int(time.time()))
        return blob.data is not None or self.path(blob.sha256).exists()

    def open(self, sha256: str) -> BinaryIO:
        """Return the content as a seekable stream. Raise FileNotFoundError if it is missing."""
        row = self._db("SELECT data FROM blobs WHERE sha256=?", sha256).fetchone()
        return io.BytesIO(row[0]) if row and row[0] is not None else self.path(sha256).open("rb")

    def sync(self, blobs: list[tuple[str, int]]) -> None:
        """Make the files of `blobs` (SHA-256, bytes) durable. Raise OSError if a power cut lost or truncated one."""
        if not blobs:
            return
        paths = [self.path(sha256) for sha256, _ in blobs]
        for path, (_, size) in zip(paths, blobs, strict=True):
            if not path.exists() or path.stat().st_size != size:
                raise OSError(
                    f"{path} is missing or incomplete, lost before it reached the disk: upload it again, or reset the branch"
                )
        # Many at once, so that the file system writes its journal once for all of them.
        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(_fsync, paths))
        _fsync(self.folder)
        names = json.dumps([sha256 for sha256, _ in blobs])
        self._db("UPDATE blobs SET synced=1 WHERE sha256 IN (SELECT value FROM json_each(?))", names)


def _fsync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows cannot open a directory, and needs no such call
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
