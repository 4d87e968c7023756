"""Bytes between files and lakeFS: one object up or down, streamed, tried again, resumed, and compared by hash.

Small files go straight to the server. Large ones go by presigned links to the object storage behind it, where the
server offers them and they can be reached; very large ones in parts, with a journal, so that a call after a kill goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import mimetypes
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import urllib3

from utils.console import AppError, t, warn
from utils.files import YOUNG_NS, parallel, replacing, write_atomically
from utils.wire import Wire

if TYPE_CHECKING:
    from lakefs_sdk.client import LakeFSClient

CHUNK = 1 << 20  # bytes read at once
SMALL = 8 << 20  # bytes: up to here a file is read whole and sent straight to the server
PART = 16 << 20  # bytes of a part; fixed, because another size would give equal content another checksum
MULTIPART = 4 * PART  # bytes: from here a file goes in parts
PARTS_AT_ONCE = 4
JOURNAL_S = 20 * 3600  # seconds after which a multipart upload is begun anew; lakeFS forgets its address after 24 hours
EXPIRED = 403  # what object storage answers to a link that is too old (or whose signature is of another clock)
CONNECT_S, READ_S = 5.0, 60.0  # seconds before a silent server counts as broken
RETRIES = 6  # tries again, after 0, 0.8, 1.6, ... seconds: half a minute of trouble is ridden out
RETRY_STATUS = (429, 500, 502, 503, 504)


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
    retries = urllib3.Retry(
        total=RETRIES,
        backoff_factor=0.4,
        backoff_jitter=0.4,
        status_forcelist=RETRY_STATUS,
        allowed_methods=None,
        raise_on_status=False,
    )
    return TimedPoolManager(retries=retries)


def content_type(path: str) -> str:
    """A fixed type per suffix: it is part of an object's identity, so it must not vary between machines."""
    return _content_types().get(PurePosixPath(path).suffix.lower(), "application/octet-stream")


@functools.cache
def _content_types() -> dict[str, str]:
    """Python's own list, without what this machine adds to it."""
    fixed = {".json": "application/json", ".txt": "text/plain", ".png": "image/png", ".jpg": "image/jpeg"}
    return mimetypes.MimeTypes().types_map[1] | fixed


class Transfer:
    """Moves objects of one repository; threads may share it."""

    def __init__(self, sdk: LakeFSClient, pool: TimedPoolManager, api: str, auth: dict[str, str]) -> None:
        self.sdk, self.api, self.auth = sdk, api, auth
        self.wire = Wire(pool.connection_pool_kw["retries"], CONNECT_S, READ_S)
        self._lock = threading.Lock()
        self._presign: tuple[bool, bool] | None = None  # what the server offers: one PUT, parts; None: not asked yet

    def _url(self, repo: str, kind: str, ref: str, path: str) -> str:
        return f"{self.api}/repositories/{quote(repo)}/{kind}/{quote(ref, safe='')}/objects?{urlencode({'path': path})}"

    # --- up -------------------------------------------------------------------------------------------------------

    def upload(self, repo: str, branch: str, path: str, file: LocalFile, journals: Path | None = None) -> None:
        """Send one file to a branch with its SHA-256 as user metadata. Raises AppError.

        What arrived is compared by MD5, and the file must still have the SHA-256 that it is published under. With
        `journals` (a folder), a multipart upload that was cut off goes on where it stopped.
        """
        size = file.path.stat().st_size
        put, parts = self.presign() if size > SMALL else (False, False)
        if parts and size >= MULTIPART:
            _Multipart(self, repo, branch, path, file, size, journals).run()
        elif put:
            self._put_presigned(repo, branch, path, file, size)
        else:
            self._post(repo, branch, path, file, size)

    def presign(self) -> tuple[bool, bool]:
        """Whether presigned PUTs, and parts, can be used: the server says what it offers, one request whether it is in reach."""
        with self._lock:
            if self._presign is None:
                storage = self.sdk.config_api.get_config().storage_config
                put = bool(storage and storage.pre_sign_support)
                self._presign = (put, put and bool(storage.pre_sign_multipart_upload))
            return self._presign

    def unreachable(self, url: str, reason: Exception) -> None:
        """Remember that presigned links cannot be reached from here, and say so once."""
        with self._lock:
            if self._presign != (False, False):
                host = urllib3.util.parse_url(url).netloc
                warn(
                    f"저장소의 링크({host})에 닿지 않아 lakeFS 를 거칩니다 ({type(reason).__name__}): "
                    "서버의 LAKEFS_BLOCKSTORE_S3_PRE_SIGNED_ENDPOINT 를 확인하세요",
                    f"presigned links ({host}) cannot be reached ({type(reason).__name__}), going through lakeFS: "
                    "check the server's LAKEFS_BLOCKSTORE_S3_PRE_SIGNED_ENDPOINT",
                )
            self._presign = (False, False)

    def _post(self, repo: str, branch: str, path: str, file: LocalFile, size: int) -> None:
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
            md5 = _checked_md5(file, stream, size)
            stream.seek(0)
            with self.wire.request("POST", url, headers, stream) as answer:
                data = answer.read()
        if answer.status != 201:
            raise AppError(f"{answer.status} {data[:300].decode(errors='replace')}")
        if json.loads(data)["checksum"] != md5:
            self.sdk.objects_api.delete_object(repo, branch, path)  # it carries a hash that it does not have
            raise AppError(t("전송 중에 내용이 달라졌습니다", "the content changed on its way"))

    def _put_presigned(self, repo: str, branch: str, path: str, file: LocalFile, size: int) -> None:
        """One PUT to the object storage, then the link to it: lakeFS does not check what lies there, so we do."""
        import lakefs_sdk

        with file.path.open("rb") as stream:
            md5 = _checked_md5(file, stream, size)
            location = self.sdk.staging_api.get_physical_address(repo, branch, path, presign=True)
            stream.seek(0)
            try:
                etag = self.put(location.presigned_url, stream, size, content_type(path))
            except urllib3.exceptions.HTTPError as error:
                self.unreachable(location.presigned_url, error)
                return self._post(repo, branch, path, file, size)
            except Refused as error:
                if error.status != EXPIRED:
                    raise
                return self._post(repo, branch, path, file, size)
        if etag != md5:
            raise AppError(t("전송 중에 내용이 달라졌습니다", "the content changed on its way"))
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
        with self.wire.request("PUT", url, headers, body, self.wire.retries.new(connect=1)) as answer:
            data = answer.read()
        if answer.status != 200:
            raise Refused(answer.status, data[:300].decode(errors="replace"))
        return str(answer.headers.get("ETag", "")).strip('"')

    # --- down -----------------------------------------------------------------------------------------------------

    def download(self, repo: str, ref: str, remote: RemoteFile, target: Path) -> None:
        """Stream to a temporary file, going on by ranges after a break; compare; rename. The file is read-only.

        It is not flushed to disk, which would take a fifth of the time: after a power cut files are missing or cut
        short, which their reader must see. Raises AppError where the content is not the one of the record.
        """
        sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
        with replacing(target, durable=False) as part:
            with part.open("wb") as stream:
                for chunk in self.read(repo, ref, remote):
                    stream.write(chunk)
                    sha256.update(chunk)
                    size += len(chunk)
                    if remote.sha256 is None:
                        md5.update(chunk)
            verify(remote, sha256.hexdigest(), md5.hexdigest(), size)
            finish(part)

    def read(self, repo: str, ref: str, remote: RemoteFile) -> Iterator[bytes]:
        """The content of an object in pieces of at most `CHUNK` bytes; a broken connection is taken up where it broke."""
        offset, attempt = 0, 0
        while True:
            try:
                for chunk in self._read_from(repo, ref, remote, offset):
                    offset, attempt = offset + len(chunk), 0
                    yield chunk
                return
            except Refused:
                remote = dataclasses.replace(remote, link=None)  # the link has expired: through the server then
            except urllib3.exceptions.HTTPError as error:
                if remote.link and not offset:
                    self.unreachable(remote.link, error)
                    remote = dataclasses.replace(remote, link=None)
                    continue
                if offset and offset == remote.size_bytes:
                    return  # it broke after the last byte
                attempt += 1
                if attempt > RETRIES:
                    raise AppError(
                        t(f"연결이 계속 끊깁니다: {error}", f"the connection keeps breaking: {error}")
                    ) from error
                time.sleep(0.1 * 2**attempt)

    def _read_from(self, repo: str, ref: str, remote: RemoteFile, offset: int) -> Iterator[bytes]:
        """An object from byte `offset` to its end. Raises HTTPError when the connection breaks, Refused for a dead link."""
        link = remote.link if self._presign != (False, False) else None
        url, headers = (link, {}) if link else (self._url(repo, "refs", ref, remote.path), dict(self.auth))
        if offset:
            headers["Range"] = f"bytes={offset}-"
        retries = self.wire.retries.new(connect=1) if link else None
        with self.wire.request("GET", url, headers, retries=retries) as answer:
            if answer.status != (206 if offset else 200):
                text = answer.read()[:300].decode(errors="replace")
                raise Refused(answer.status, text) if link else AppError(f"{remote.path}: {answer.status} {text}")
            yield from answer.stream()


class Refused(AppError):
    """The object storage refused a presigned request, with this HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status} {text}")
        self.status = status


def verify(remote: RemoteFile, sha256: str, md5: str, size: int) -> None:
    """Compare with the SHA-256 of the metadata, else with the MD5, else with the size (bytes). Raises AppError."""
    if remote.sha256:
        expected, found = remote.sha256, sha256
    elif re.fullmatch(r"[0-9a-f]{32}", remote.checksum):
        expected, found = remote.checksum, md5
    else:
        expected, found = str(remote.size_bytes), str(size)
    if expected != found:
        raise AppError(
            t(
                f"{remote.path}: 내용이 기록과 다릅니다 (기대 {expected}, 실제 {found})",
                f"{remote.path}: content differs from its record (expected {expected}, found {found})",
            )
        )


def finish(part: Path) -> None:
    """Make a file that was verified read-only, and a little older: whoever writes to it later changes its mtime.

    Within one tick of the file system's clock a change would go unseen otherwise.
    """
    part.chmod(0o444)
    before = time.time_ns() - YOUNG_NS
    os.utime(part, ns=(before, before))


def _checked_md5(file: LocalFile, stream: Any, size: int) -> str:
    """MD5 (hex) of an open file that must still have its size and SHA-256. Raises AppError."""
    md5, sha256, read = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0
    while chunk := stream.read(CHUNK):
        md5.update(chunk)
        sha256.update(chunk)
        read += len(chunk)
    if read != size or sha256.hexdigest() != file.sha256:
        raise AppError(t(f"{file.path}: 확인한 뒤에 내용이 바뀌었습니다", f"{file.path}: changed since it was checked"))
    return md5.hexdigest()


class _Multipart:
    """One file in parts of `PART` bytes by presigned links, with a journal of the parts that have arrived."""

    def __init__(
        self, transfer: Transfer, repo: str, branch: str, path: str, file: LocalFile, size: int, journals: Path | None
    ) -> None:
        self.transfer, self.repo, self.branch, self.path, self.file, self.size = (
            transfer,
            repo,
            branch,
            path,
            file,
            size,
        )
        identity = "\n".join((transfer.api, repo, branch, path, file.sha256))
        self.journal = journals / f"{hashlib.sha256(identity.encode()).hexdigest()}.json" if journals else None
        self.lock = threading.Lock()

    def run(self) -> None:
        """Send what is missing and put the object on the branch. Raises AppError."""
        state = self._resumed() or self._begun()
        count = -(-self.size // PART)
        missing = [number for number in range(1, count + 1) if str(number) not in state["etags"]]
        try:
            for _, result in parallel(lambda number: self._send(state, number), missing, PARTS_AT_ONCE):
                if isinstance(result, Exception):
                    raise result
            self._completed(state, count)
        except urllib3.exceptions.HTTPError as error:
            self.transfer.unreachable(state["url"], error)
            self.transfer._post(self.repo, self.branch, self.path, self.file, self.size)
        self._forget()

    def _begun(self) -> dict[str, Any]:
        begun = self.transfer.sdk.experimental_api.create_presign_multipart_upload(
            self.repo, self.branch, self.path, parts=1
        )
        state = {
            "upload_id": begun.upload_id,
            "physical_address": begun.physical_address,
            "url": begun.presigned_urls[0].split("?")[0],
            "began": time.time(),
            "etags": {},
        }
        self._remember(state)
        return state

    def _resumed(self) -> dict[str, Any] | None:
        """The state of an earlier call that is young enough."""
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
            if self.journal:
                state: dict[str, Any] = json.loads(self.journal.read_text())
                if time.time() - state["began"] < JOURNAL_S:
                    return state
        return None

    def _remember(self, state: dict[str, Any]) -> None:
        if self.journal:
            write_atomically(self.journal, json.dumps(state).encode())

    def _forget(self) -> None:
        if self.journal:
            self.journal.unlink(missing_ok=True)

    def _send(self, state: dict[str, Any], number: int) -> None:
        """One part, by a link signed just now: links live for 15 minutes, a slow upload for longer."""
        with self.file.path.open("rb") as stream:
            stream.seek((number - 1) * PART)
            content = stream.read(PART)
        try:
            etag = self._put(state, number, content)
        except Refused as error:
            if error.status == 404:  # the storage has forgotten the upload: the next call begins anew
                self._forget()
            if error.status != EXPIRED:
                raise
            etag = self._put(state, number, content)
        if etag != hashlib.md5(content, usedforsecurity=False).hexdigest():
            raise AppError(t("전송 중에 내용이 달라졌습니다", "the content changed on its way"))
        with self.lock:
            state["etags"][str(number)] = etag
            self._remember(state)

    def _put(self, state: dict[str, Any], number: int, content: bytes) -> str:
        """Send a part by a fresh link; its ETag."""
        import lakefs_sdk

        source = lakefs_sdk.UploadPartFrom(physical_address=state["physical_address"])
        signed = self.transfer.sdk.experimental_api.upload_part(
            self.repo, self.branch, state["upload_id"], self.path, number, upload_part_from=source
        )
        return self.transfer.put(signed.presigned_url, content, len(content))

    def _completed(self, state: dict[str, Any], count: int) -> None:
        """Join the parts; the whole file is hashed once more first: parts of two contents must not become an object."""
        import lakefs_sdk
        from lakefs_sdk.exceptions import ApiException

        with self.file.path.open("rb") as stream:
            _checked_md5(self.file, stream, self.size)
        completion = lakefs_sdk.CompletePresignMultipartUpload(
            physical_address=state["physical_address"],
            parts=[lakefs_sdk.UploadPart(part_number=n, etag=state["etags"][str(n)]) for n in range(1, count + 1)],
            user_metadata={"sha256": self.file.sha256},
            content_type=content_type(self.path),
        )
        try:
            self.transfer.sdk.experimental_api.complete_presign_multipart_upload(
                self.repo, self.branch, state["upload_id"], self.path, complete_presign_multipart_upload=completion
            )
        except ApiException:
            self._forget()
            raise
