"""Bytes between files and lakeFS: one object up or down, streamed, tried again, resumed, and compared by hash.

Small files go straight to the server. Large ones go by presigned links to the object storage behind it, where the
server offers them and they can be reached; very large ones in parts, with a journal, so that a call after a kill goes on.
"""

from __future__ import annotations

import io
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote, urlencode

import urllib3

from core.errors import AppError
from core.files import atomic_replace
from core.hashing import YOUNG_NS
from core.i18n import tr
from core.locks import open_exclusive
from core.reporting import warn
from core.workers import raise_if_cancelled
from utils.lakefs_client.content import (
    CHUNK,
    ChecksumMismatch,
    Digests,
    LocalFile,
    PresignedRequestRefused,
    RemoteFile,
    content_type,
    response_error,
    verified_md5,
    verify_digests,
)
from utils.lakefs_client.http import HttpClient, RetriesExhausted
from utils.lakefs_client.multipart import EXPIRED, MULTIPART, MultipartUpload

if TYPE_CHECKING:
    from lakefs_sdk.client import LakeFSClient

SMALL = 8 << 20  # bytes: up to here a file is read whole and sent straight to the server
MAX_CONCURRENT_PARTS = 16  # of all files
CONNECT_S, READ_S = 5.0, 60.0  # seconds before a silent server counts as broken
RETRIES = 6  # tries again, after 0, 0.8, 1.6, ... seconds: half a minute of trouble is ridden out
RETRY_AFTER_S = 60.0  # seconds; a server that asks for more (Retry-After) is asked again after these
RETRY_STATUS = (429, 500, 502, 503, 504)


class CappedRetry(urllib3.Retry):
    """Retries that wait for as long as a server asks, within reason."""

    def get_retry_after(self, response: urllib3.BaseHTTPResponse) -> float | None:
        asked = super().get_retry_after(response)
        return asked and min(asked, RETRY_AFTER_S)


class TimedPoolManager(urllib3.PoolManager):
    """lakefs-sdk says timeout=None for each request, which would wait for ever."""

    def urlopen(  # type: ignore[override]
        self, method: str, url: str, redirect: bool = True, **kw: Any
    ) -> urllib3.BaseHTTPResponse:
        kw["timeout"] = kw.get("timeout") or urllib3.Timeout(connect=CONNECT_S, read=READ_S)
        return super().urlopen(method, url, redirect=redirect, **kw)


def make_pool() -> TimedPoolManager:
    """Connections with time limits and retries (backoff, jitter) on broken connections, 429 and 5xx.

    POST is tried again too: uploads are idempotent, and a lost answer to a commit or merge is settled at the branch head.
    """
    retries = CappedRetry(
        total=RETRIES,
        backoff_factor=0.4,
        backoff_jitter=0.4,
        status_forcelist=RETRY_STATUS,
        allowed_methods=None,
        raise_on_status=False,
    )
    return TimedPoolManager(retries=retries)


class Transfer:
    """Moves objects of one repository; threads may share it."""

    def __init__(self, sdk: LakeFSClient, pool: TimedPoolManager, api: str, auth: dict[str, str]) -> None:
        self.sdk, self.pool, self.api, self.auth = sdk, pool, api, auth
        self.http = HttpClient(pool.connection_pool_kw["retries"], CONNECT_S, READ_S)
        self.parts = threading.BoundedSemaphore(MAX_CONCURRENT_PARTS)
        self._lock = threading.Lock()
        self._presign_support: tuple[bool, bool] | None = (
            None  # what the server offers: one PUT, parts; None: not asked yet
        )

    def _url(self, repo: str, kind: str, ref: str, path: str) -> str:
        return f"{self.api}/repositories/{quote(repo)}/{kind}/{quote(ref, safe='')}/objects?{urlencode({'path': path})}"

    # --- up -------------------------------------------------------------------------------------------------------

    def upload(self, repo: str, branch: str, path: str, file: LocalFile, journals: Path | None = None) -> None:
        """Send one file to a branch with its SHA-256 as user metadata. Raises AppError.

        What arrived is compared by MD5, and the file must still have the SHA-256 that it is published under. With
        `journals` (a folder), a multipart upload that was cut off goes on where it stopped.
        """
        size = file.path.stat().st_size
        put, parts = self.presign_support() if size > SMALL else (False, False)
        if parts and size >= MULTIPART:
            MultipartUpload(self, repo, branch, path, file, size, journals).run()
        elif put:
            self._put_presigned(repo, branch, path, file, size)
        else:
            self.post(repo, branch, path, file, size)

    def presign_support(self) -> tuple[bool, bool]:
        """Whether presigned PUTs, and parts, can be used: the server says what it offers, one request whether it is in reach."""
        with self._lock:
            if self._presign_support is None:
                storage = self.sdk.config_api.get_config().storage_config
                put = bool(storage and storage.pre_sign_support)
                self._presign_support = (put, put and bool(storage.pre_sign_multipart_upload))
            return self._presign_support

    def disable_presigned_links(self, url: str, reason: Exception) -> None:
        """Remember that presigned links cannot be reached from here, and say so once."""
        with self._lock:
            if self._presign_support != (False, False):
                host = urllib3.util.parse_url(url).netloc
                warn(
                    tr(
                        "presigned links ({host}) cannot be reached ({error_type}), going through "
                        "lakeFS: check the server's LAKEFS_BLOCKSTORE_S3_PRE_SIGNED_ENDPOINT",
                        host=host,
                        error_type=type(reason).__name__,
                    )
                )
            self._presign_support = (False, False)

    def post(self, repo: str, branch: str, path: str, file: LocalFile, size: int) -> None:
        """Straight to the server, which answers with the MD5 of what it got."""
        headers = {
            **self.auth,
            "Content-Length": str(size),
            "Content-Type": content_type(path),
            "x-lakefs-meta-sha256": file.sha256,
        }
        url = self._url(repo, "branches", branch, path)
        with file.path.open("rb") as opened:
            # A small file is read once: what is hashed is what is sent.
            stream: Any = io.BytesIO(opened.read()) if size <= SMALL else opened
            md5 = verified_md5(file, stream, size)
            stream.seek(0)
            with self.http.request("POST", url, headers, stream) as answer:
                data = answer.read()
        if answer.status != 201:
            raise response_error(answer.status, "", data[:300].decode(errors="replace"))
        if json.loads(data)["checksum"] != md5:
            self.sdk.objects_api.delete_object(repo, branch, path)  # it carries a hash that it does not have
            raise AppError(tr("the content changed on its way"))

    def post_raw(
        self, repo: str, branch: str, path: str, file: Path, headers: dict[str, str]
    ) -> urllib3.BaseHTTPResponse:
        """Upload a file with these headers and return the response, whatever its status."""
        with file.open("rb") as stream:
            size = {"Content-Length": str(file.stat().st_size)}
            url = self._url(repo, "branches", branch, path)
            return self.pool.request("POST", url, body=stream, headers={**self.auth, **headers, **size})

    def _put_presigned(self, repo: str, branch: str, path: str, file: LocalFile, size: int) -> None:
        """One PUT to the object storage, then the link to it: lakeFS does not check what lies there, so we do."""
        import lakefs_sdk

        with file.path.open("rb") as stream:
            md5 = verified_md5(file, stream, size)
            location = self.sdk.staging_api.get_physical_address(repo, branch, path, presign=True)
            stream.seek(0)
            try:
                etag = self.put(location.presigned_url, stream, size, content_type(path))
            except urllib3.exceptions.HTTPError as error:
                self.disable_presigned_links(location.presigned_url, error)
                return self.post(repo, branch, path, file, size)
            except PresignedRequestRefused as error:
                if error.status != EXPIRED:
                    raise
                return self.post(repo, branch, path, file, size)
        if etag != md5:
            raise AppError(tr("the content changed on its way"))
        staged = lakefs_sdk.StagingMetadata(
            staging=location,
            checksum=etag,
            size_bytes=size,
            user_metadata={"sha256": file.sha256},
            content_type=content_type(path),
        )
        self.sdk.staging_api.link_physical_address(repo, branch, path, staged)

    def put(self, url: str, body: Any, size: int, kind: str | None = None) -> str:
        """PUT to a presigned link; returns the ETag. Raises AppError for a refusal, HTTPError for an unreachable host."""
        headers = {"Content-Length": str(size), **({"Content-Type": kind} if kind else {})}
        # A host that cannot be reached will not appear by waiting; a busy one is tried again as any other.
        with self.http.request("PUT", url, headers, body, self.http.retries.new(connect=1)) as answer:
            data = answer.read()
        if answer.status != 200:
            raise PresignedRequestRefused(answer.status, data[:300].decode(errors="replace"))
        return str(answer.headers.get("ETag", "")).strip('"')

    # --- down -----------------------------------------------------------------------------------------------------

    def download(self, repo: str, ref: str, remote: RemoteFile, target: Path) -> None:
        """Stream to a temporary file, going on by ranges after a break; compare; rename. The file is read-only.

        A large file goes on after a kill, too: its temporary name is its hash.
        It is not flushed to disk, which would take a fifth of the time: after a power cut files are missing or cut
        short, which their reader must see. Raises AppError where the content is not the one of the record.
        """
        if remote.size_bytes > SMALL and re.fullmatch("[0-9a-f]{64}", remote.sha256 or ""):
            with open_exclusive(target.with_name(f".{remote.sha256}.part")) as stream:
                if stream is not None:
                    return self._resume_download(repo, ref, remote, stream, target)
        with atomic_replace(target, durable=False) as part:
            with part.open("wb") as stream:
                self._receive(repo, ref, remote, stream, Digests(md5=remote.sha256 is None))
            _mark_verified(part)

    def _resume_download(self, repo: str, ref: str, remote: RemoteFile, stream: BinaryIO, target: Path) -> None:
        """Receive what is missing behind the beginning that a killed process has left, if that is the right one."""
        part, had = Path(stream.name), Digests(md5=False)
        stream.seek(0)
        while chunk := stream.read(CHUNK):
            had.update(chunk)
        begun = had.size
        try:
            try:
                self._receive(repo, ref, remote, stream, had)
            except ChecksumMismatch:
                if not begun:
                    raise
                stream.truncate(0)
                self._receive(repo, ref, remote, stream, Digests(md5=False))
            stream.flush()
        except (ChecksumMismatch, OSError):  # a full disk needs the room; all else leaves a beginning for the next call
            part.unlink()
            raise
        _mark_verified(part)
        os.replace(part, target)

    def _receive(self, repo: str, ref: str, remote: RemoteFile, stream: BinaryIO, digests: Digests) -> None:
        """Append the bytes of an object that the digests have not seen. Raises Differs for a wrong content."""
        if not digests.size or digests.size < remote.size_bytes:
            for chunk in self.read(repo, ref, remote, digests.size):
                stream.write(chunk)
                digests.update(chunk)
        verify_digests(remote, digests)

    def read(self, repo: str, ref: str, remote: RemoteFile, offset: int = 0) -> Iterator[bytes]:
        """The content of an object from byte `offset` on, in pieces of at most `CHUNK` bytes.

        A connection that breaks in the middle is taken up there; the wire has tried again all that can be before that.
        """
        link, breaks = remote.link, 0
        while True:
            link = link if self._presign_support != (False, False) else None
            try:
                for chunk in self._read_from(repo, ref, remote.path, link, offset):
                    raise_if_cancelled()
                    offset, breaks = offset + len(chunk), 0
                    yield chunk
                return
            except PresignedRequestRefused:
                link = None  # it has expired: through the server then
            except urllib3.exceptions.HTTPError as error:
                if offset and offset == remote.size_bytes:
                    return  # it broke after the last byte
                breaks += 1
                if link and isinstance(error, RetriesExhausted):
                    self.disable_presigned_links(link, error)
                elif isinstance(error, RetriesExhausted) or breaks > RETRIES:
                    cause = getattr(error, "reason", None) or error
                    raise AppError(tr("the connection keeps breaking: {cause}", cause=cause)) from error
                else:
                    time.sleep(0.1 * 2**breaks)

    def _read_from(self, repo: str, ref: str, path: str, link: str | None, offset: int) -> Iterator[bytes]:
        """An object from byte `offset` to its end. Raises HTTPError when the connection breaks, Refused for a dead link."""
        url, headers = (link, {}) if link else (self._url(repo, "refs", ref, path), dict(self.auth))
        if offset:
            headers["Range"] = f"bytes={offset}-"
        retries = self.http.retries.new(connect=1) if link else None
        with self.http.request("GET", url, headers, retries=retries) as answer:
            if answer.status != (206 if offset else 200):
                text = answer.read()[:300].decode(errors="replace")
                raise (
                    PresignedRequestRefused(answer.status, text)
                    if link
                    else response_error(answer.status, f"{path}: ", text)
                )
            yield from answer.stream()


def _mark_verified(part: Path) -> None:
    """Make a file that was verified read-only, and a little older: whoever writes to it later changes its mtime.

    Within one tick of the file system's clock a change would go unseen otherwise.
    """
    part.chmod(0o444)
    before = time.time_ns() - YOUNG_NS
    os.utime(part, ns=(before, before))
