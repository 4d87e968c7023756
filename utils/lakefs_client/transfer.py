"""Upload or download single objects: streamed, retried, resumed and verified by checksum.

Small files are uploaded to the lakeFS server. Large ones use presigned links to its object storage, if the server
offers them and they are reachable; very large ones are uploaded in parts, with a journal for resuming after a kill.
"""

from __future__ import annotations

import io
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote, urlencode

import urllib3

from core.errors import AppError
from core.files import atomic_replace
from core.hashing import YOUNG_NS
from core.i18n import tr, trn
from core.locks import open_exclusive
from core.reporting import warn
from core.threads.workers import raise_if_cancelled
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
from utils.lakefs_client.responses import parse_checksum
from utils.network.certificates import LAKEFS, STORE
from utils.network.failures import explain_failure
from utils.network.limits import check_link
from utils.network.policy import NetworkPolicy, PolicyPool

if TYPE_CHECKING:
    from lakefs_sdk.client import LakeFSClient

SMALL = 8 << 20  # bytes: files up to this size are read into memory and uploaded to the server
MAX_CONCURRENT_PARTS = 16  # of all files together
CONNECT_S, READ_S = 5.0, 60.0  # timeouts in seconds
RETRIES = 6  # after 0, 0.8, 1.6, ... seconds: an outage of half a minute is tolerated
RETRY_AFTER_S = 60.0  # seconds; upper limit for the server's Retry-After
RETRY_STATUS = (429, 500, 502, 503, 504)


class CappedRetry(urllib3.Retry):
    """Retry policy that follows Retry-After up to `RETRY_AFTER_S`."""

    def get_retry_after(self, response: urllib3.BaseHTTPResponse) -> float | None:
        asked = super().get_retry_after(response)
        return asked and min(asked, RETRY_AFTER_S)


class TimedPoolManager(PolicyPool):
    """Pool with default timeouts: lakefs-sdk passes timeout=None, which would wait forever."""

    def urlopen(  # type: ignore[override]
        self, method: str, url: str, redirect: bool = True, **kw: Any
    ) -> urllib3.BaseHTTPResponse:
        kw["timeout"] = kw.get("timeout") or urllib3.Timeout(connect=CONNECT_S, read=READ_S)
        return super().urlopen(method, url, redirect=redirect, **kw)


def make_pool() -> TimedPoolManager:
    """Return a connection pool with timeouts and retries (backoff, jitter) for broken connections, 429 and 5xx.

    POST is retried too: uploads are idempotent, and after a lost response to a commit or merge the branch head is read.
    """
    retries = CappedRetry(
        total=RETRIES,
        backoff_factor=0.4,
        backoff_jitter=0.4,
        status_forcelist=RETRY_STATUS,
        allowed_methods=None,
        raise_on_status=False,
    )
    return TimedPoolManager(NetworkPolicy.from_environment(), LAKEFS, retries=retries)


class Transfer:
    """Uploads and downloads of single objects; thread-safe."""

    def __init__(self, sdk: LakeFSClient, pool: TimedPoolManager, api: str, auth: dict[str, str]) -> None:
        self.sdk, self.pool, self.api, self.auth = sdk, pool, api, auth
        self.http = HttpClient(pool.connection_pool_kw["retries"], CONNECT_S, READ_S, api)
        self.parts = threading.BoundedSemaphore(MAX_CONCURRENT_PARTS)
        self._lock = threading.Lock()
        self._presign_support: tuple[bool, bool] | None = (
            None  # supported by the server: single PUT, multipart; None: unknown
        )

    def _url(self, repo: str, kind: str, ref: str, path: str) -> str:
        return f"{self.api}/repositories/{quote(repo)}/{kind}/{quote(ref, safe='')}/objects?{urlencode({'path': path})}"

    # --- upload -------------------------------------------------------------------------------------------------------

    def upload(self, repo: str, branch: str, path: str, file: LocalFile, journals: Path | None = None) -> None:
        """Upload one file to a branch with its SHA-256 as user metadata. Raises AppError.

        The MD5 of the stored object and the SHA-256 of the file are verified. With `journals` (a directory), an
        interrupted multipart upload is resumed.
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
        """Return whether presigned single PUTs and multipart uploads can be used; the server is asked once."""
        with self._lock:
            if self._presign_support is None:
                storage = self.sdk.config_api.get_config().storage_config
                put = bool(storage and storage.pre_sign_support)
                self._presign_support = (put, put and bool(storage.pre_sign_multipart_upload))
            return self._presign_support

    def disable_presigned_links(self, url: str, reason: Exception) -> None:
        """Stop using presigned links, as they are unreachable; warn once."""
        with self._lock:
            if self._presign_support != (False, False):
                host = urllib3.util.parse_url(url).netloc
                network = explain_failure(reason, url, self.http.policy, STORE)
                warn(
                    tr("presigned links are unreachable, using lakeFS instead: {reason}", reason=network)
                    if network
                    else tr(
                        "presigned links ({host}) are unreachable ({error_type}), using "
                        "lakeFS instead: check the server's LAKEFS_BLOCKSTORE_S3_PRE_SIGNED_ENDPOINT",
                        host=host,
                        error_type=type(reason).__name__,
                    )
                )
            self._presign_support = (False, False)

    def post(self, repo: str, branch: str, path: str, file: LocalFile, size: int) -> None:
        """Upload a file to the lakeFS server and compare the MD5 of its response. Raises AppError."""
        headers = {
            **self.auth,
            "Content-Length": str(size),
            "Content-Type": content_type(path),
            "x-lakefs-meta-sha256": file.sha256,
        }
        url = self._url(repo, "branches", branch, path)
        with file.path.open("rb") as opened:
            # A small file is read once, so that the uploaded bytes are those that were hashed.
            stream: Any = io.BytesIO(opened.read()) if size <= SMALL else opened
            md5 = verified_md5(file, stream, size)
            stream.seek(0)
            with self.http.request("POST", url, headers, stream) as response:
                data = response.read()
        if response.status != 201:
            raise response_error(response.status, "", data[:300].decode(errors="replace"))
        if parse_checksum(data) != md5:
            self.sdk.objects_api.delete_object(repo, branch, path)  # its recorded hash is wrong
            raise AppError(tr("checksum mismatch after upload: run again"))

    def post_raw(
        self, repo: str, branch: str, path: str, file: Path, headers: dict[str, str]
    ) -> urllib3.BaseHTTPResponse:
        """Upload a file with these headers and return the response, whatever its status."""
        with file.open("rb") as stream:
            size = {"Content-Length": str(file.stat().st_size)}
            url = self._url(repo, "branches", branch, path)
            return self.pool.request("POST", url, body=stream, headers={**self.auth, **headers, **size})

    def _put_presigned(self, repo: str, branch: str, path: str, file: LocalFile, size: int) -> None:
        """PUT a file to the object storage, verify it, as lakeFS does not, and link it to the branch. Raises AppError."""
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
            raise AppError(tr("checksum mismatch after upload: run again"))
        staged = lakefs_sdk.StagingMetadata(
            staging=location,
            checksum=etag,
            size_bytes=size,
            user_metadata={"sha256": file.sha256},
            content_type=content_type(path),
        )
        self.sdk.staging_api.link_physical_address(repo, branch, path, staged)

    def put(self, url: str, body: Any, size: int, kind: str | None = None) -> str:
        """PUT to a presigned link; return the ETag. Raises PresignedRequestRefused, or HTTPError for an unreachable host."""
        check_link(url, self.api)
        headers = {"Content-Length": str(size), **({"Content-Type": kind} if kind else {})}
        # Connecting is retried only once: an unreachable host stays unreachable. Other errors are retried as usual.
        with self.http.request("PUT", url, headers, body, self.http.retries.new(connect=1)) as response:
            data = response.read()
        if response.status != 200:
            raise PresignedRequestRefused(response.status, data[:300].decode(errors="replace"))
        return str(response.headers.get("ETag", "")).strip('"')

    # --- download -----------------------------------------------------------------------------------------------------

    def download(self, repo: str, ref: str, remote: RemoteFile, target: Path) -> None:
        """Download to a temporary file, verify it and rename it to `target`, which is read-only.

        Broken connections are resumed by range requests; a large file also after a kill, as its temporary name is its
        hash. Files are not flushed to disk, which would take 20 % of the time: after a power failure they may be missing
        or truncated, which readers must detect. Raises AppError, for example ChecksumMismatch.
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
        """Complete a partial file; if it belongs to other content, download it from the start. Raises AppError, OSError."""
        part, digests = Path(stream.name), Digests(md5=False)
        stream.seek(0)
        while chunk := stream.read(CHUNK):
            digests.update(chunk)
        resumed = digests.size > 0
        try:
            try:
                self._receive(repo, ref, remote, stream, digests)
            except ChecksumMismatch:
                if not resumed:
                    raise
                stream.truncate(0)
                self._receive(repo, ref, remote, stream, Digests(md5=False))
            stream.flush()
        except (ChecksumMismatch, OSError):  # useless, or the disk is full; after other errors the next call resumes
            part.unlink()
            raise
        _mark_verified(part)
        os.replace(part, target)

    def _receive(self, repo: str, ref: str, remote: RemoteFile, stream: BinaryIO, digests: Digests) -> None:
        """Append the bytes of an object that `digests` lacks, and verify it. Raises ChecksumMismatch."""
        if not digests.size or digests.size < remote.size_bytes:
            for chunk in self.read(repo, ref, remote, digests.size):
                stream.write(chunk)
                digests.update(chunk)
        verify_digests(remote, digests)

    def read(
        self,
        repo: str,
        ref: str,
        remote: RemoteFile,
        offset: int = 0,
        stop: int | None = None,
        renew: Callable[[], str | None] | None = None,
    ) -> Iterator[bytes]:
        """Yield the bytes of an object from `offset` to `stop` in chunks of at most `CHUNK` bytes. Raises AppError.

        A connection that breaks during the response is resumed from there; `HttpClient` retries only until it starts.
        `renew` returns another link for one that was refused; without it, or after it, the server is asked.
        """
        link, breaks, end = remote.link, 0, remote.size_bytes if stop is None else stop
        while True:
            link = link if self._presign_support != (False, False) else None
            try:
                for chunk in self._read_from(repo, ref, remote.path, link, offset, stop):
                    raise_if_cancelled()
                    offset, breaks = offset + len(chunk), 0
                    if offset > end:
                        raise _too_long(remote)
                    yield chunk
                return
            except PresignedRequestRefused:  # expired
                link, renew = renew() if renew is not None else None, None
            except urllib3.exceptions.HTTPError as error:
                if offset and offset == end:
                    return  # the connection broke after the last byte
                breaks += 1
                if link and isinstance(error, RetriesExhausted):
                    self.disable_presigned_links(link, error)
                elif isinstance(error, RetriesExhausted) or breaks > RETRIES:
                    cause = getattr(error, "reason", None) or error
                    raise AppError(
                        tr("connection lost repeatedly: {cause}; run again to continue", cause=cause)
                    ) from error
                else:
                    time.sleep(0.1 * 2**breaks)

    def _read_from(
        self, repo: str, ref: str, path: str, link: str | None, offset: int, stop: int | None
    ) -> Iterator[bytes]:
        """Yield an object from byte `offset` on. Raises HTTPError, or PresignedRequestRefused for an expired link."""
        url, headers = (
            (check_link(link, self.api), {}) if link else (self._url(repo, "refs", ref, path), dict(self.auth))
        )
        if offset or stop is not None:
            headers["Range"] = f"bytes={offset}-{'' if stop is None else stop - 1}"
        retries = self.http.retries.new(connect=1) if link else None
        with self.http.request("GET", url, headers, retries=retries) as response:
            if response.status != (206 if "Range" in headers else 200):
                text = response.read()[:300].decode(errors="replace")
                raise (
                    PresignedRequestRefused(response.status, text)
                    if link
                    else response_error(response.status, f"{path}: ", text)
                )
            yield from response.stream()


def _too_long(remote: RemoteFile) -> ChecksumMismatch:
    return ChecksumMismatch(
        trn(
            "{path}: more than the {count} byte of its listing",
            "{path}: more than the {count} bytes of its listing",
            remote.size_bytes,
            path=remote.path,
        )
    )


def _mark_verified(part: Path) -> None:
    """Make a verified file read-only and set its mtime back a little, so that any later write changes it.

    Otherwise a change within the same tick of the file system's clock would not be detected.
    """
    part.chmod(0o444)
    before = time.time_ns() - YOUNG_NS
    os.utime(part, ns=(before, before))
