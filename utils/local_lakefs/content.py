"""Object content: named by its SHA-256, small pieces inside the database, large ones as files beside it."""

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

from .database import Database

INLINE_BYTES = 64 * 1024  # content up to this size lives in the database

SCHEMA = """
CREATE TABLE blobs(sha256 TEXT PRIMARY KEY, size INTEGER NOT NULL, data BLOB, synced INTEGER NOT NULL,
    used INTEGER NOT NULL); -- data is NULL where it lies in a file; used: when it last came, in seconds since 1970
"""


class Blob(NamedTuple):
    """Received content; `data` is None when it lies in a file, `synced` says whether that has reached the disk."""

    sha256: str
    md5: str
    size: int  # bytes
    data: bytes | None
    synced: bool


class ContentFiles:
    """The folder of large content. A file there is whole from the moment it has its name; `sync` makes it durable.

    It has no folders below it, of which a commit would have to sync each.
    """

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder = folder
        self._db = database
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.with_name("objects").glob("*/*"):  # a store from before: it had such folders
            path.replace(folder / path.name)

    def path(self, sha256: str) -> Path:
        return self.folder / sha256

    def receive(self, chunks: Iterable[bytes]) -> Blob:
        """Hashes and keeps `chunks` as they come: memory does not grow with their number."""
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
        """Lets a part become the content, unless that is there already, whole and known to be on disk: says whether."""
        if self._db("SELECT 1 FROM blobs WHERE sha256=? AND synced=1", sha256).fetchone() and not self.fault(sha256):
            return True
        os.replace(part, self.path(sha256))
        return False

    def fault(self, sha256: str) -> str:
        """What is wrong with stored content, read again; "" where nothing is."""
        try:
            with self.open(sha256) as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != sha256:  # type: ignore[arg-type]
                    return "does not match its hash"
        except OSError as error:
            return f"cannot be read: {error}"
        return ""

    def record(self, blob: Blob) -> bool:
        """Enters `blob` into the database, in the caller's transaction; False if gc took its file meanwhile."""
        query = """INSERT INTO blobs VALUES(?, ?, ?, ?, ?) ON CONFLICT DO UPDATE
                   SET data=excluded.data, synced=excluded.synced, used=excluded.used"""
        self._db(query, blob.sha256, blob.size, blob.data, blob.synced, int(time.time()))
        return blob.data is not None or self.path(blob.sha256).exists()

    def open(self, sha256: str) -> BinaryIO:
        """The content, to be read from any place. Raises FileNotFoundError where it is lost."""
        row = self._db("SELECT data FROM blobs WHERE sha256=?", sha256).fetchone()
        return io.BytesIO(row[0]) if row and row[0] is not None else self.path(sha256).open("rb")

    def sync(self, blobs: list[tuple[str, int]]) -> None:
        """Puts the files of `blobs` (SHA-256, bytes) on disk. Raises OSError if a power cut lost or tore one."""
        if not blobs:
            return
        paths = [self.path(sha256) for sha256, _ in blobs]
        for path, (_, size) in zip(paths, blobs, strict=True):
            if not path.exists() or path.stat().st_size != size:
                raise OSError(f"{path} was lost before it reached the disk: upload it again, or reset the branch")
        # Many at once: the file system writes its journal once for all of them.
        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(_fsync, paths))
        _fsync(self.folder)
        names = json.dumps([sha256 for sha256, _ in blobs])
        self._db("UPDATE blobs SET synced=1 WHERE sha256 IN (SELECT value FROM json_each(?))", names)


def _fsync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows cannot open a folder, and needs no such call
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
