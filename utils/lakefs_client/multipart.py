"""Upload a large file in parts through presigned links, with a journal for resuming."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from core.errors import AppError
from core.files import write_atomically
from core.i18n import tr
from core.workers import parallel, raise_if_cancelled
from utils.lakefs_client.content import LocalFile, PresignedRequestRefused, content_type, verified_md5
from utils.lakefs_client.http import RetriesExhausted

if TYPE_CHECKING:
    from lakefs_sdk.client import LakeFSClient

PART = 16 << 20  # bytes of a part; fixed, because another size would give equal content another checksum
MULTIPART = 4 * PART  # bytes: from here a file goes in parts
CONCURRENT_PARTS = 4  # of one file
IDLE_S = 3600  # seconds without a part after which an upload of another content to the same path counts as given up
JOURNAL_S = 20 * 3600  # seconds after which a multipart upload is begun anew; lakeFS forgets its address after 24 hours
EXPIRED = 403  # what object storage answers to a link that is too old (or whose signature is of another clock)


class UploadContext(Protocol):
    """What a multipart upload needs of the transfer that it belongs to."""

    sdk: LakeFSClient
    api: str
    parts: threading.BoundedSemaphore

    def disable_presigned_links(self, url: str, reason: Exception) -> None:
        """Remember that presigned links cannot be reached."""

    def post(self, repo: str, branch: str, path: str, file: LocalFile, size: int) -> None:
        """Upload a whole file through the lakeFS server."""

    def put(self, url: str, body: Any, size: int, kind: str | None = None) -> str:
        """Upload a body to a presigned link; return the ETag."""


class MultipartUpload:
    """One file in parts of `PART` bytes by presigned links, with a journal of the parts that have arrived."""

    def __init__(
        self,
        transfer: UploadContext,
        repo: str,
        branch: str,
        path: str,
        file: LocalFile,
        size: int,
        journals: Path | None,
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
        state = self._load_state() or self._start()
        count = -(-self.size // PART)
        missing = [number for number in range(1, count + 1) if str(number) not in state["etags"]]
        try:
            for _, result in parallel(lambda number: self._upload_part(state, number), missing, CONCURRENT_PARTS):
                if isinstance(result, Exception):
                    raise result
            self._complete(state, count)
        except RetriesExhausted as error:  # of the object storage: the server's own silence is another error
            self.transfer.disable_presigned_links(state["url"], error)
            self._abort(state)
            self.transfer.post(self.repo, self.branch, self.path, self.file, self.size)
        self._delete_journal()

    def _start(self) -> dict[str, Any]:
        self._abort_abandoned()
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
        self._write_journal(state)
        return state

    def _load_state(self) -> dict[str, Any] | None:
        """The state of an earlier call that is young enough."""
        with contextlib.suppress(FileNotFoundError):
            state = _read(self.journal) if self.journal else {}
            if state and time.time() - state["began"] < JOURNAL_S:
                return state
        return None

    def _abort_abandoned(self) -> None:
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

    def _write_journal(self, state: dict[str, Any]) -> None:
        if self.journal:
            write_atomically(self.journal, json.dumps(state).encode())

    def _delete_journal(self) -> None:
        if self.journal:
            self.journal.unlink(missing_ok=True)

    def _upload_part(self, state: dict[str, Any], number: int) -> None:
        """One part, by a link signed just now: links live for 15 minutes, a slow upload for longer."""
        with self.transfer.parts:
            self._upload_verified_part(state, number)

    def _upload_verified_part(self, state: dict[str, Any], number: int) -> None:
        raise_if_cancelled()
        with self.file.path.open("rb") as stream:
            part = _Part(stream, (number - 1) * PART, min(PART, self.size - (number - 1) * PART))
            try:
                etag = self._put(state, number, part)
            except PresignedRequestRefused as error:
                if error.status == 404:  # the storage has forgotten the upload: the next call begins anew
                    self._delete_journal()
                if error.status != EXPIRED:
                    raise
                etag = self._put(state, number, part)
        if etag != part.md5.hexdigest():
            raise AppError(tr("the content changed on its way"))
        with self.lock:
            state["etags"][str(number)] = etag
            self._write_journal(state)

    def _put(self, state: dict[str, Any], number: int, part: _Part) -> str:
        """Send a part by a fresh link; its ETag."""
        import lakefs_sdk

        source = lakefs_sdk.UploadPartFrom(physical_address=state["physical_address"])
        signed = self.transfer.sdk.experimental_api.upload_part(
            self.repo, self.branch, state["upload_id"], self.path, number, upload_part_from=source
        )
        part.seek(0)
        return self.transfer.put(signed.presigned_url, part, part.size)

    def _complete(self, state: dict[str, Any], count: int) -> None:
        """Join the parts; the whole file is hashed once more first: parts of two contents must not become an object."""
        import lakefs_sdk
        from lakefs_sdk.exceptions import ApiException

        with self.file.path.open("rb") as stream:
            verified_md5(self.file, stream, self.size)
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
            self._delete_journal()
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
            raise AppError(tr("the file became shorter while it was sent"))
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
