"""Content of objects: files, checksums, content types and the errors of a transfer."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from core.errors import AppError
from core.i18n import tr
from core.threads.workers import ServerUnavailable, raise_if_cancelled
from utils.identifiers import Checksum, ObjectPath, Sha256

CHUNK = 1 << 20  # bytes read at a time
BUSY = (429, 502, 503, 504)  # HTTP statuses that other requests would get too
# Fixed: Python's own table differs between its versions (`.webp`), and the type is part of an object's identity. Other
# suffixes are octet-stream.
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
    """Local file to publish, with the SHA-256 (hex) of its content."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class RemoteFile:
    """Object of a version. `sha256` is None if another client uploaded it without one."""

    path: ObjectPath
    size_bytes: int
    sha256: Sha256 | None
    checksum: Checksum
    link: str | None = None  # presigned link to the object storage; valid for some minutes
    mtime: int | None = None  # seconds since 1970
    link_expiry: int | None = None  # of `link`, in seconds since 1970; None: unknown


def content_type(path: str) -> str:
    """Return the type of a suffix; it is part of an object's identity, so it must not vary between machines."""
    return CONTENT_TYPES.get(PurePosixPath(path).suffix.lower(), "application/octet-stream")


class PresignedRequestRefused(AppError):
    """Presigned request that the object storage refused with HTTP status `status`."""

    def __init__(self, status: int, text: str) -> None:
        # Only code and message: the response of S3 contains the access key and the signed text, too.
        match = re.search("<Code>(.*?)</Code>\\s*<Message>(.*?)</Message>", text)
        super().__init__(f"{status} {': '.join(match.groups()) if match else text}")
        self.status = status


class ServerBusy(AppError, ServerUnavailable):
    """Server that answered all retries with a status of `BUSY`."""


class ChecksumMismatch(AppError):
    """Content that differs from its recorded checksum or size."""


def response_error(status: int, where: str, text: str) -> AppError:
    """Return the error for an unexpected HTTP status; `where` is a prefix of the message."""
    return (ServerBusy if status in BUSY else AppError)(f"{where}{status} {text}")


class Digests:
    """Running SHA-256, size (bytes) and, optionally, MD5 of a stream."""

    def __init__(self, md5: bool = True) -> None:
        self.sha256, self.size = hashlib.sha256(), 0
        self.md5 = hashlib.md5(usedforsecurity=False) if md5 else None

    def update(self, chunk: bytes) -> None:
        self.sha256.update(chunk)
        self.size += len(chunk)
        if self.md5:
            self.md5.update(chunk)


def verify_digests(remote: RemoteFile, digests: Digests) -> None:
    """Compare with the recorded SHA-256, else with the MD5, else with the size. Raises ChecksumMismatch."""
    expected: str
    if remote.sha256:
        expected, found = remote.sha256, digests.sha256.hexdigest()
    elif digests.md5 and re.fullmatch(r"[0-9a-f]{32}", remote.checksum):
        expected, found = remote.checksum, digests.md5.hexdigest()
    else:
        expected, found = str(remote.size_bytes), str(digests.size)
    if expected != found:
        raise ChecksumMismatch(
            tr(
                "{path}: checksum mismatch (expected {expected}, found {found})",
                path=remote.path,
                expected=expected,
                found=found,
            )
        )


def verified_md5(file: LocalFile, stream: Any, size: int) -> str:
    """Return the MD5 (hex) of an open file. Raises AppError if its size or SHA-256 has changed."""
    md5, sha256, read = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0
    while chunk := stream.read(CHUNK):
        raise_if_cancelled()
        md5.update(chunk)
        sha256.update(chunk)
        read += len(chunk)
    if read != size or sha256.hexdigest() != file.sha256:
        raise AppError(tr("{path}: changed since its checksum was computed; run again", path=file.path))
    return md5.hexdigest()
