"""Upload a large file in parts through presigned links, with a journal for resuming."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from core.errors import AppError
from core.files import read_regular, write_atomically
from core.i18n import tr
from core.threads.workers import parallel, raise_if_cancelled
from utils.identifiers import Branch, ObjectPath, Repository
from utils.lakefs_client.content import LocalFile, PresignedRequestRefused, content_type, verified_md5
from utils.lakefs_client.http import RetriesExhausted
from utils.network.limits import check_link

if TYPE_CHECKING:
    from lakefs_sdk.client import LakeFSClient

PART = 16 << 20  # bytes of a part; fixed, because the checksum of an object depends on it
MULTIPART = 4 * PART  # bytes: files from this size on are uploaded in parts
CONCURRENT_PARTS = 4  # per file
IDLE_S = 3600  # seconds without a part after which an upload of other content to the same path counts as abandoned
JOURNAL_S = 20 * 3600  # seconds after which an upload is restarted; lakeFS forgets its address after 24 hours
EXPIRED = 403  # HTTP status of the object storage for an expired link (or if the clocks differ)


class UploadContext(Protocol):
    """Interface of the transfer that a multipart upload belongs to."""

    sdk: LakeFSClient
    api: str
    parts: threading.BoundedSemaphore

    def disable_presigned_links(self, url: str, reason: Exception) -> None:
        """Stop using presigned links, as they are unreachable."""

    def post(self, repo: str, branch: str, path: str, file: LocalFile, size: int) -> None:
        """Upload a whole file through the lakeFS server."""

    def put(self, url: str, body: Any, size: int, kind: str | None = None) -> str:
        """Upload a body to a presigned link; return the ETag."""


class MultipartUpload:
    """Upload of one file in parts of `PART` bytes by presigned links, with a journal of the uploaded parts."""

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
        self.transfer = transfer
        self.repo = repo
        self.branch = branch
        self.path = path
        self.file = file
        self.size = size
        self.target = [transfer.api, repo, branch, path]
        identity = "\n".join((*self.target, file.sha256))
        self.journal = journals / f"{hashlib.sha256(identity.encode()).hexdigest()}.json" if journals else None
        self.lock = threading.Lock()

    def run(self) -> None:
        """Upload the missing parts and add the object to the branch. Raises AppError."""
        state = self._load_state() or self._start()
        count = -(-self.size // PART)
        missing = [number for number in range(1, count + 1) if str(number) not in state["etags"]]
        try:
            for _, result in parallel(lambda number: self._upload_part(state, number), missing, CONCURRENT_PARTS):
                if isinstance(result, Exception):
                    raise result
            self._complete(state, count)
        except RetriesExhausted as error:  # of the object storage; an unavailable lakeFS server is another error
            self.transfer.disable_presigned_links(state["url"], error)
            self._abort(state)
            self.transfer.post(self.repo, self.branch, self.path, self.file, self.size)
        self._delete_journal()

    def _start(self) -> dict[str, Any]:
        """Start a multipart upload and return its state."""
        self._abort_abandoned()
        begun = self.transfer.sdk.experimental_api.create_presign_multipart_upload(
            self.repo, self.branch, self.path, parts=1
        )
        state = {
            "target": self.target,
            "upload_id": str(begun.upload_id),
            "physical_address": str(begun.physical_address),
            "url": check_link(begun.presigned_urls[0], self.transfer.api).split("?")[0],
            "began": time.time(),
            "etags": {},
        }
        self._write_journal(state)
        return state

    def _load_state(self) -> dict[str, Any] | None:
        """Return the state of an interrupted call; None if there is none or it is too old."""
        with contextlib.suppress(FileNotFoundError):
            state = _read(self.journal) if self.journal else {}
            if state and time.time() - state["began"] < JOURNAL_S:
                return state
        return None

    def _abort_abandoned(self) -> None:
        """Abort uploads that will not be resumed: old ones, and those of a file that has changed since."""
        for journal in self.journal.parent.glob("*.json") if self.journal else []:
            with contextlib.suppress(FileNotFoundError):  # another process deleted it
                state, idle = _read(journal), time.time() - journal.stat().st_mtime
                api, repo, _, path = state.get("target", [None] * 4)
                same_path = [api, repo, path] == [self.transfer.api, self.repo, self.path]
                if journal == self.journal or idle > JOURNAL_S or (same_path and idle > IDLE_S):
                    if api == self.transfer.api:
                        self._abort(state)
                    journal.unlink()

    def _abort(self, state: dict[str, Any]) -> None:
        """Delete the parts in the object storage; unknown uploads are ignored, as the storage deletes them itself."""
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
        """Upload one part when fewer than the maximum of all files are in progress. Raises AppError."""
        with self.transfer.parts:
            self._upload_verified_part(state, number)

    def _upload_verified_part(self, state: dict[str, Any], number: int) -> None:
        """Upload one part with a new link, as links expire after 15 minutes; verify it and record it in the journal."""
        raise_if_cancelled()
        with self.file.path.open("rb") as stream:
            part = _Part(stream, (number - 1) * PART, min(PART, self.size - (number - 1) * PART))
            try:
                etag = self._put(state, number, part)
            except PresignedRequestRefused as error:
                if error.status == 404:  # the upload is unknown to the storage: the next call starts again
                    self._delete_journal()
                if error.status != EXPIRED:
                    raise
                etag = self._put(state, number, part)
        if etag != part.md5.hexdigest():
            raise AppError(tr("checksum mismatch after upload: run again"))
        with self.lock:
            state["etags"][str(number)] = etag
            self._write_journal(state)

    def _put(self, state: dict[str, Any], number: int, part: _Part) -> str:
        """Upload a part with a new link; return its ETag."""
        import lakefs_sdk

        source = lakefs_sdk.UploadPartFrom(physical_address=state["physical_address"])
        signed = self.transfer.sdk.experimental_api.upload_part(
            self.repo, self.branch, state["upload_id"], self.path, number, upload_part_from=source
        )
        part.seek(0)
        return self.transfer.put(signed.presigned_url, part, part.size)

    def _complete(self, state: dict[str, Any], count: int) -> None:
        """Complete the upload; hash the file again first, so that parts of two versions are not combined."""
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
    """File-like object of `size` bytes of a file from byte `start` on, hashed as it is read.

    `seek` always goes to its first byte and resets the hash.
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
        chunk = self.stream.read(min(count, self.left))
        if self.left and not chunk:
            raise AppError(tr("the file was truncated during the upload: run again"))
        self.left -= len(chunk)
        self.md5.update(chunk)
        return chunk


def _read(journal: Path) -> dict[str, Any]:
    """Return the state in a journal; empty for a damaged, incomplete or invalid one."""
    try:
        state = json.loads(read_regular(journal))
        return state if _is_state(state) else {}
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):  # InvalidValue is a ValueError
        return {}


def _is_state(state: dict[str, Any]) -> bool:
    """Return whether this is the state of an upload. Raises ValueError, KeyError or TypeError if not."""
    api, repo, branch, path = state["target"]
    Repository(repo), Branch(branch), ObjectPath(path)
    texts = [api, *(state[key] for key in ("upload_id", "physical_address", "url"))]
    etags = {int(number): re.fullmatch("[0-9a-f]{32}", etag) for number, etag in state["etags"].items()}
    return all(isinstance(text, str) for text in texts) and math.isfinite(state["began"]) and all(etags.values())
