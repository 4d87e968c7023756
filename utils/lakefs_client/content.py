"""Content of objects: checksums, content types and the errors of a transfer."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from core.errors import AppError
from core.i18n import tr
from core.workers import ServerUnavailable, raise_if_cancelled

CHUNK = 1 << 20  # bytes read at once
BUSY = (429, 502, 503, 504)  # of those, what other objects would meet too
# Python's own table differs between its versions (`.webp`). What is missing here goes as octet-stream; a type that
# changes would make equal content another object.
CONTENT_TYPES = {
    ".avi": "video/x-msvideo",
    ".bmp": "image/bmp",
    ".csv": "text/csv",
    ".gif": "image/gif",
    ".html": "text/html",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".mov": "video/quicktime",
    ".mp4": "video/mp4",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".py": "text/x-python",
    ".svg": "image/svg+xml",
    ".tar": "application/x-tar",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".tsv": "text/tab-separated-values",
    ".txt": "text/plain",
    ".webm": "video/webm",
    ".xml": "text/xml",
    ".zip": "application/zip",
}


@dataclass(frozen=True)
class LocalFile:
    """A file to publish and the SHA-256 (hex) of its content."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class RemoteFile:
    """An object of a version. `sha256` is None where somebody else's client stored none."""

    path: str
    size_bytes: int
    sha256: str | None
    checksum: str
    link: str | None = None  # presigned, straight to the object storage; lives for some minutes


def content_type(path: str) -> str:
    """A fixed type per suffix: it is part of an object's identity, so it must not vary between machines."""
    return CONTENT_TYPES.get(PurePosixPath(path).suffix.lower(), "application/octet-stream")


class PresignedRequestRefused(AppError):
    """The object storage refused a presigned request, with this HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        # Only what is meant for people: S3 answers with the key and the text that was signed, too.
        words = re.search("<Code>(.*?)</Code>\\s*<Message>(.*?)</Message>", text)
        super().__init__(f"{status} {': '.join(words.groups()) if words else text}")
        self.status = status


class ServerBusy(AppError, ServerUnavailable):
    """A server that answered all tries with 'later'."""


class ChecksumMismatch(AppError):
    """Content that is not the one of its record."""


def response_error(status: int, where: str, text: str) -> AppError:
    """What the server answered instead of doing it."""
    return (ServerBusy if status in BUSY else AppError)(f"{where}{status} {text}")


class Digests:
    """SHA-256, size (bytes), and if asked for MD5, of bytes as they pass."""

    def __init__(self, md5: bool = True) -> None:
        self.sha256, self.size = hashlib.sha256(), 0
        self.md5 = hashlib.md5(usedforsecurity=False) if md5 else None

    def update(self, chunk: bytes) -> None:
        self.sha256.update(chunk)
        self.size += len(chunk)
        if self.md5:
            self.md5.update(chunk)


def verify_digests(remote: RemoteFile, digests: Digests) -> None:
    """Compare with the SHA-256 of the metadata, else with the MD5, else with the size (bytes). Raises Differs."""
    if remote.sha256:
        expected, found = remote.sha256, digests.sha256.hexdigest()
    elif digests.md5 and re.fullmatch(r"[0-9a-f]{32}", remote.checksum):
        expected, found = remote.checksum, digests.md5.hexdigest()
    else:
        expected, found = str(remote.size_bytes), str(digests.size)
    if expected != found:
        raise ChecksumMismatch(
            tr(
                "{path}: content differs from its record (expected {expected}, found {found})",
                path=remote.path,
                expected=expected,
                found=found,
            )
        )


def verified_md5(file: LocalFile, stream: Any, size: int) -> str:
    """MD5 (hex) of an open file that must still have its size and SHA-256. Raises AppError."""
    md5, sha256, read = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0
    while chunk := stream.read(CHUNK):
        raise_if_cancelled()
        md5.update(chunk)
        sha256.update(chunk)
        read += len(chunk)
    if read != size or sha256.hexdigest() != file.sha256:
        raise AppError(tr("{path}: changed since it was checked", path=file.path))
    return md5.hexdigest()
