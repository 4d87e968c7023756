"""Bytes between files and lakeFS: one object up or down, streamed, tried again, resumed, and compared by hash.

Small files go straight to the server. Large ones go by presigned links to the object storage behind it, where the
server offers them and they can be reached; very large ones in parts, with a journal, so that a call after a kill goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote, urlencode

import urllib3

from utils.console import AppError, t, warn
from utils.files import YOUNG_NS, Gone, claimed, heed, parallel, replacing, write_atomically
from utils.wire import Unanswered, Wire

if TYPE_CHECKING:
    from lakefs_sdk.client import LakeFSClient

CHUNK = 1 << 20  # bytes read at once
SMALL = 8 << 20  # bytes: up to here a file is read whole and sent straight to the server
PART = 16 << 20  # bytes of a part; fixed, because another size would give equal content another checksum
MULTIPART = 4 * PART  # bytes: from here a file goes in parts
PARTS_AT_ONCE = 4  # of one file
PARTS_IN_AIR = 16  # of all files
IDLE_S = 3600  # seconds without a part after which an upload of another content to the same path counts as given up
JOURNAL_S = 20 * 3600  # seconds after which a multipart upload is begun anew; lakeFS forgets its address after 24 hours
EXPIRED = 403  # what object storage answers to a link that is too old (or whose signature is of another clock)
CONNECT_S, READ_S = 5.0, 60.0  # seconds before a silent server counts as broken
RETRIES = 6  # tries again, after 0, 0.8, 1.6, ... seconds: half a minute of trouble is ridden out
RETRY_AFTER_S = 60.0  # seconds; a server that asks for more (Retry-After) is asked again after these
RETRY_STATUS = (429, 500, 502, 503, 504)
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


class Patience(urllib3.Retry):
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
    retries = Patience(
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
    return CONTENT_TYPES.get(PurePosixPath(path).suffix.lower(), "application/octet-stream")


class Transfer:
    """Moves objects of one repository; threads may share it."""

    def __init__(self, sdk: LakeFSClient, pool: TimedPoolManager, api: str, auth: dict[str, str]) -> None:
        self.sdk, self.api, self.auth = sdk, api, auth
        self.wire = Wire(pool.connection_pool_kw["retries"], CONNECT_S, READ_S)
        self.parts = threading.BoundedSemaphore(PARTS_IN_AIR)
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
            raise refusal(answer.status, "", data[:300].decode(errors="replace"))
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

        A large file goes on after a kill, too: its temporary name is its hash.
        It is not flushed to disk, which would take a fifth of the time: after a power cut files are missing or cut
        short, which their reader must see. Raises AppError where the content is not the one of the record.
        """
        if remote.size_bytes > SMALL and re.fullmatch("[0-9a-f]{64}", remote.sha256 or ""):
            with claimed(target.with_name(f".{remote.sha256}.part")) as stream:
                if stream is not None:
                    return self._go_on(repo, ref, remote, stream, target)
        with replacing(target, durable=False) as part:
            with part.open("wb") as stream:
                self._receive(repo, ref, remote, stream, Digests(md5=remote.sha256 is None))
            _finish(part)

    def _go_on(self, repo: str, ref: str, remote: RemoteFile, stream: BinaryIO, target: Path) -> None:
        """Receive what is missing behind the beginning that a killed process has left, if that is the right one."""
        part, had = Path(stream.name), Digests(md5=False)
        stream.seek(0)
        while chunk := stream.read(CHUNK):
            had.update(chunk)
        begun = had.size
        try:
            try:
                self._receive(repo, ref, remote, stream, had)
            except Differs:
                if not begun:
                    raise
                stream.truncate(0)
                self._receive(repo, ref, remote, stream, Digests(md5=False))
            stream.flush()
        except (Differs, OSError):  # a full disk needs the room; all else leaves a beginning for the next call
            part.unlink()
            raise
        _finish(part)
        os.replace(part, target)

    def _receive(self, repo: str, ref: str, remote: RemoteFile, stream: BinaryIO, digests: Digests) -> None:
        """Append the bytes of an object that the digests have not seen. Raises Differs for a wrong content."""
        if not digests.size or digests.size < remote.size_bytes:
            for chunk in self.read(repo, ref, remote, digests.size):
                stream.write(chunk)
                digests.update(chunk)
        verify(remote, digests)

    def read(self, repo: str, ref: str, remote: RemoteFile, offset: int = 0) -> Iterator[bytes]:
        """The content of an object from byte `offset` on, in pieces of at most `CHUNK` bytes.

        A connection that breaks in the middle is taken up there; the wire has tried again all that can be before that.
        """
        link, breaks = remote.link, 0
        while True:
            link = link if self._presign != (False, False) else None
            try:
                for chunk in self._read_from(repo, ref, remote.path, link, offset):
                    heed()
                    offset, breaks = offset + len(chunk), 0
                    yield chunk
                return
            except Refused:
                link = None  # it has expired: through the server then
            except urllib3.exceptions.HTTPError as error:
                if offset and offset == remote.size_bytes:
                    return  # it broke after the last byte
                breaks += 1
                if link and isinstance(error, Unanswered):
                    self.unreachable(link, error)
                elif isinstance(error, Unanswered) or breaks > RETRIES:
                    cause = getattr(error, "reason", None) or error
                    raise AppError(
                        t(f"연결이 계속 끊깁니다: {cause}", f"the connection keeps breaking: {cause}")
                    ) from error
                else:
                    time.sleep(0.1 * 2**breaks)

    def _read_from(self, repo: str, ref: str, path: str, link: str | None, offset: int) -> Iterator[bytes]:
        """An object from byte `offset` to its end. Raises HTTPError when the connection breaks, Refused for a dead link."""
        url, headers = (link, {}) if link else (self._url(repo, "refs", ref, path), dict(self.auth))
        if offset:
            headers["Range"] = f"bytes={offset}-"
        retries = self.wire.retries.new(connect=1) if link else None
        with self.wire.request("GET", url, headers, retries=retries) as answer:
            if answer.status != (206 if offset else 200):
                text = answer.read()[:300].decode(errors="replace")
                raise Refused(answer.status, text) if link else refusal(answer.status, f"{path}: ", text)
            yield from answer.stream()


class Refused(AppError):
    """The object storage refused a presigned request, with this HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        # Only what is meant for people: S3 answers with the key and the text that was signed, too.
        words = re.search("<Code>(.*?)</Code>\\s*<Message>(.*?)</Message>", text)
        super().__init__(f"{status} {': '.join(words.groups()) if words else text}")
        self.status = status


class Busy(AppError, Gone):
    """A server that answered all tries with 'later'."""


class Differs(AppError):
    """Content that is not the one of its record."""


def refusal(status: int, where: str, text: str) -> AppError:
    """What the server answered instead of doing it."""
    return (Busy if status in BUSY else AppError)(f"{where}{status} {text}")


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


def verify(remote: RemoteFile, digests: Digests) -> None:
    """Compare with the SHA-256 of the metadata, else with the MD5, else with the size (bytes). Raises Differs."""
    if remote.sha256:
        expected, found = remote.sha256, digests.sha256.hexdigest()
    elif digests.md5 and re.fullmatch(r"[0-9a-f]{32}", remote.checksum):
        expected, found = remote.checksum, digests.md5.hexdigest()
    else:
        expected, found = str(remote.size_bytes), str(digests.size)
    if expected != found:
        raise Differs(
            t(
                f"{remote.path}: 내용이 기록과 다릅니다 (기대 {expected}, 실제 {found})",
                f"{remote.path}: content differs from its record (expected {expected}, found {found})",
            )
        )


def _finish(part: Path) -> None:
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
        heed()
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
        self.target = [transfer.api, repo, branch, path]
        identity = "\n".join((*self.target, file.sha256))
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
        except Unanswered as error:  # of the object storage: the server's own silence is another error
            self.transfer.unreachable(state["url"], error)
            self._abort(state)
            self.transfer._post(self.repo, self.branch, self.path, self.file, self.size)
        self._forget()

    def _begun(self) -> dict[str, Any]:
        self._sweep()
        begun = self.transfer.sdk.experimental_api.create_presign_multipart_upload(
            self.repo, self.branch, self.path, parts=1
        )
        state = {
            "target": self.target,
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
        with contextlib.suppress(FileNotFoundError):
            state = _read(self.journal) if self.journal else {}
            if state and time.time() - state["began"] < JOURNAL_S:
                return state
        return None

    def _sweep(self) -> None:
        """Give up the uploads that nobody will go on with: of long ago, and of a file that has changed since."""
        for journal in self.journal.parent.glob("*.json") if self.journal else []:
            with contextlib.suppress(FileNotFoundError):  # another process is at it
                state, idle = _read(journal), time.time() - journal.stat().st_mtime
                api, repo, _, path = state.get("target", [None] * 4)
                same_path = [api, repo, path] == [self.transfer.api, self.repo, self.path]
                if journal == self.journal or idle > JOURNAL_S or (same_path and idle > IDLE_S):
                    if api == self.transfer.api:
                        self._abort(state)
                    journal.unlink()

    def _abort(self, state: dict[str, Any]) -> None:
        """Have the object storage drop the parts; it forgets them some day where the server does not know them any more."""
        import lakefs_sdk
        from lakefs_sdk.exceptions import ApiException

        _, repo, branch, path = state["target"]
        address = lakefs_sdk.AbortPresignMultipartUpload(physical_address=state["physical_address"])
        with contextlib.suppress(ApiException):
            self.transfer.sdk.experimental_api.abort_presign_multipart_upload(
                repo, branch, state["upload_id"], path, abort_presign_multipart_upload=address
            )

    def _remember(self, state: dict[str, Any]) -> None:
        if self.journal:
            write_atomically(self.journal, json.dumps(state).encode())

    def _forget(self) -> None:
        if self.journal:
            self.journal.unlink(missing_ok=True)

    def _send(self, state: dict[str, Any], number: int) -> None:
        """One part, by a link signed just now: links live for 15 minutes, a slow upload for longer."""
        with self.transfer.parts:
            self._send_part(state, number)

    def _send_part(self, state: dict[str, Any], number: int) -> None:
        heed()
        with self.file.path.open("rb") as stream:
            part = _Part(stream, (number - 1) * PART, min(PART, self.size - (number - 1) * PART))
            try:
                etag = self._put(state, number, part)
            except Refused as error:
                if error.status == 404:  # the storage has forgotten the upload: the next call begins anew
                    self._forget()
                if error.status != EXPIRED:
                    raise
                etag = self._put(state, number, part)
        if etag != part.md5.hexdigest():
            raise AppError(t("전송 중에 내용이 달라졌습니다", "the content changed on its way"))
        with self.lock:
            state["etags"][str(number)] = etag
            self._remember(state)

    def _put(self, state: dict[str, Any], number: int, part: _Part) -> str:
        """Send a part by a fresh link; its ETag."""
        import lakefs_sdk

        source = lakefs_sdk.UploadPartFrom(physical_address=state["physical_address"])
        signed = self.transfer.sdk.experimental_api.upload_part(
            self.repo, self.branch, state["upload_id"], self.path, number, upload_part_from=source
        )
        part.seek(0)
        return self.transfer.put(signed.presigned_url, part, part.size)

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
            self._abort(state)
            self._forget()
            raise


class _Part:
    """`size` bytes of a file from byte `start` on, hashed as they are sent: none of them has to wait in memory.

    It is read as a file is; each way through it begins at its first byte.
    """

    def __init__(self, stream: BinaryIO, start: int, size: int) -> None:
        self.stream, self.start, self.size = stream, start, size
        self.seek(0)

    def tell(self) -> int:
        return self.size - self.left

    def seek(self, _start: int) -> None:
        self.stream.seek(self.start)
        self.left, self.md5 = self.size, hashlib.md5(usedforsecurity=False)

    def read(self, count: int) -> bytes:
        piece = self.stream.read(min(count, self.left))
        if self.left and not piece:
            raise AppError(t("보내는 중에 파일이 짧아졌습니다", "the file became shorter while it was sent"))
        self.left -= len(piece)
        self.md5.update(piece)
        return piece


def _read(journal: Path) -> dict[str, Any]:
    """The state that a journal holds; empty for one that is damaged, or was written before it named its target."""
    try:
        state = json.loads(journal.read_text())
        whole = state.keys() >= {"target", "upload_id", "physical_address", "url", "began", "etags"}
    except (ValueError, AttributeError):
        return {}
    return state if whole else {}
