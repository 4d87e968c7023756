"""Object content: named by its SHA-256, small pieces inside the database, large ones as files beside it."""

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from .database import Database

INLINE_BYTES = 64 * 1024  # content up to this size lives in the database
STALE_SECONDS = 24 * 3600  # a part file this old belongs to an upload that died

SCHEMA = """
CREATE TABLE blobs(sha256 TEXT PRIMARY KEY, size INTEGER NOT NULL, data BLOB, synced INTEGER NOT NULL);
"""


class Blob(NamedTuple):
    """Received content; `data` is None when it lies in a file."""

    sha256: str
    md5: str
    size: int  # bytes
    data: bytes | None


class ContentFiles:
    """The folder of large content. A file there is whole from the moment it has its name; `sync` makes it durable."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder = folder
        self._db = database
        folder.mkdir(parents=True, exist_ok=True)
        for part in folder.glob("*.part"):
            with contextlib.suppress(FileNotFoundError):  # another process may clean at the same moment
                if time.time() - part.stat().st_mtime > STALE_SECONDS:
                    part.unlink()

    def path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256

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
            digest = sha256.hexdigest()
            if file is None:
                return Blob(digest, md5.hexdigest(), size, bytes(head))
            file.close()
            self._keep(part, digest)
        return Blob(digest, md5.hexdigest(), size, None)

    def _keep(self, part: Path, sha256: str) -> None:
        # A file that is not known to be on disk is replaced: after a power cut it may be torn.
        if self._db("SELECT 1 FROM blobs WHERE sha256=? AND synced=1", sha256).fetchone():
            return
        final = self.path(sha256)
        final.parent.mkdir(exist_ok=True)
        os.replace(part, final)

    def record(self, blob: Blob) -> None:
        """Enters `blob` into the database, in the caller's transaction."""
        inline = blob.data is not None
        self._db("INSERT OR IGNORE INTO blobs VALUES(?, ?, ?, ?)", blob.sha256, blob.size, blob.data, inline)

    def open(self, sha256: str) -> bytes | Path:
        """The content itself, or the file that holds it."""
        (data,) = self._db("SELECT data FROM blobs WHERE sha256=?", sha256).fetchone()
        return self.path(sha256) if data is None else bytes(data)

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
            list(pool.map(_fsync_folder, {path.parent for path in paths} | {self.folder}))
        names = json.dumps([sha256 for sha256, _ in blobs])
        self._db("UPDATE blobs SET synced=1 WHERE sha256 IN (SELECT value FROM json_each(?))", names)


def _fsync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _fsync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder, and needs no such call
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
