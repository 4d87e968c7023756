"""Data and model versions in lakeFS: publish, commit, merge, list, and verified download, over lakefs-sdk.

Every call speaks the lakeFS REST API: to the server of LAKEFS_ENDPOINT, or to the embedded one that `connect` starts.
Nothing is ever staged on the target branch: a publication has a private branch, whose name comes from what is
published, so that a call after a kill finds what the first one had sent and goes on from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mimetypes
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from config import Settings
from utils.console import AppError, UsageError, progress, say, t

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

WORKERS = 16  # transfers at once: both servers are the limit beyond that
CHUNK = 1 << 20  # bytes read at once when hashing and streaming
CONNECT_S, READ_S = 5.0, 60.0  # seconds before a silent server counts as broken
RETRIES = 6  # tries again, after 0, 0.8, 1.6, ... seconds: half a minute of trouble is ridden out
RETRY_STATUS = (429, 500, 502, 503, 504)
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class LakePath:
    """`lakefs://<repo>/<ref>/<path>`; what is stored anywhere has a full commit id as its ref."""

    repo: str
    ref: str
    path: str

    def __str__(self) -> str:
        return f"lakefs://{self.repo}/{self.ref}/{self.path}"

    @classmethod
    def parse(cls, uri: str) -> LakePath:
        """Raises UsageError for anything but lakefs://<repo>/<ref>/<path>."""
        match = re.fullmatch(r"lakefs://([^/]+)/([^/]+)/(.*)", uri)
        if not match:
            raise UsageError(
                t(
                    f"lakeFS 경로가 아닙니다: '{uri}' (기대한 형식: lakefs://저장소/커밋/경로)",
                    f"not a lakeFS path: '{uri}' (expected lakefs://<repo>/<commit>/<path>)",
                )
            )
        return cls(*match.groups())


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


@dataclass(frozen=True)
class Published:
    """What `LakeFS.publish` did: the commit that holds the files, and how many were sent and removed."""

    commit_id: str
    uploaded: int
    removed: int


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def manifest_sha256(files: Mapping[str, LocalFile]) -> str:
    """One hash for a set of files, equal on every server: SHA-256 over the sorted lines `<sha256>  <path>`."""
    lines = "".join(f"{file.sha256}  {path}\n" for path, file in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def content_type(path: str) -> str:
    """A fixed type per suffix: it is part of an object's identity, so it must not vary between machines."""
    fixed = {".json": "application/json", ".txt": "text/plain", ".png": "image/png", ".jpg": "image/jpeg"}
    suffix = PurePosixPath(path).suffix.lower()
    return fixed.get(suffix) or mimetypes.MimeTypes().types_map[1].get(suffix, "application/octet-stream")


def inside(folder: Path, relative: str) -> Path:
    """`folder`/`relative`. Raises AppError for a path from a server that would leave the folder."""
    parts = PurePosixPath(relative).parts
    if (
        not parts
        or relative.startswith("/")
        or ".." in parts
        or "\\" in relative
        or "\0" in relative
        or ":" in parts[0]
    ):
        raise AppError(
            t(
                f"서버가 준 경로 '{relative}' 은(는) '{folder}' 밖을 가리킵니다: 내려받지 않았습니다",
                f"the server's path '{relative}' leaves '{folder}': not downloaded",
            )
        )
    return folder.joinpath(*parts)


def _at_or_below(path: str, wanted: str) -> bool:
    """Whether an object is the wanted one, or below it as a folder: `a` must not bring `ab`."""
    return path == wanted or not wanted or path.startswith(wanted.rstrip("/") + "/")


def parallel(work: Callable[[T], R], items: Iterable[T], workers: int = WORKERS) -> Iterator[tuple[T, R | Exception]]:
    """Yield (item, result or exception) as they finish; never more than 4 x `workers` items are in the air."""
    with ThreadPoolExecutor(workers) as pool:
        pending: dict[Future[R], T] = {}
        source = iter(items)
        try:
            while True:
                for item in source:
                    pending[pool.submit(work, item)] = item
                    if len(pending) >= 4 * workers:
                        break
                if not pending:
                    return
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    error = future.exception()
                    if error is not None and not isinstance(error, Exception):
                        raise error
                    yield pending.pop(future), error if error is not None else future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def connect(settings: Settings, create: bool = False) -> Iterator[LakeFS]:
    """The repository of the settings on the named server or the embedded one; with `create`, made if it is not there.

    Raises AppError when a named server is down, refuses the keys, or has no place for the repository.
    """
    with contextlib.ExitStack() as stack:
        if settings.lakefs_endpoint:
            endpoint, key, secret = (
                settings.lakefs_endpoint,
                settings.lakefs_access_key_id,
                settings.lakefs_secret_access_key,
            )
        else:
            from utils import local_lakefs

            server = stack.enter_context(local_lakefs.start(settings.lakefs_local_dir))
            endpoint, key, secret = server.endpoint, server.access_key_id, server.secret_access_key
        lake = LakeFS(endpoint, str(key), str(secret), settings.lakefs_repo, settings.lakefs_branch)
        stack.callback(lake.close)
        lake.check()
        if create:
            lake.ensure_repository(settings)
        yield lake


class LakeFS:
    """One repository on one server, and the branch that results are merged into."""

    def __init__(self, endpoint: str, access_key_id: str, secret_access_key: str, repo: str, branch: str) -> None:
        import lakefs_sdk
        import urllib3
        from lakefs_sdk.client import LakeFSClient

        class TimedPoolManager(urllib3.PoolManager):
            """lakefs-sdk says timeout=None for each request, which would wait for ever."""

            def urlopen(self, method: str, url: str, redirect: bool = True, **kw: Any) -> BaseHTTPResponse:  # type: ignore[override]
                kw["timeout"] = kw.get("timeout") or urllib3.Timeout(connect=CONNECT_S, read=READ_S)
                return super().urlopen(method, url, redirect=redirect, **kw)

        self.endpoint, self.repo, self.branch = endpoint.rstrip("/"), repo, branch
        self.api = f"{self.endpoint}/api/v1"
        config = lakefs_sdk.Configuration(host=self.api, username=access_key_id, password=secret_access_key)
        self.sdk = LakeFSClient(configuration=config)
        self.pool = TimedPoolManager(
            maxsize=WORKERS,
            # POST too: uploads are idempotent, and a lost answer to a commit or merge is settled at the branch head
            retries=urllib3.Retry(
                total=RETRIES,
                backoff_factor=0.4,
                backoff_jitter=0.4,
                status_forcelist=RETRY_STATUS,
                allowed_methods=None,
                raise_on_status=False,
            ),
        )
        self.sdk._api.rest_client.pool_manager = self.pool  # the SDK's own neither waits nor tries again
        self.auth = urllib3.make_headers(basic_auth=f"{access_key_id}:{secret_access_key}")

    def close(self) -> None:
        """Let go of the connections."""
        self.pool.clear()

    def __repr__(self) -> str:
        return f"LakeFS({self.endpoint}, {self.repo}, {self.branch})"

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turn the SDK's and urllib3's exceptions into one line: what, which server, what came back, what to do."""
        import urllib3
        from lakefs_sdk.exceptions import ApiException

        where = f"lakeFS {self.endpoint}, {self.repo}"
        try:
            yield
        except ApiException as error:
            if error.status in (401, 403):
                hint = t(
                    "LAKEFS_ACCESS_KEY_ID 와 LAKEFS_SECRET_ACCESS_KEY 를 확인하세요",
                    "check LAKEFS_ACCESS_KEY_ID and LAKEFS_SECRET_ACCESS_KEY",
                )
            else:
                hint = _message(error)
            raise AppError(f"{what} ({where}): {error.status} {error.reason or ''}: {hint}") from error
        except urllib3.exceptions.HTTPError as error:
            cause = getattr(error, "reason", None) or error
            raise AppError(
                t(
                    f"{what} ({where}): 서버가 응답하지 않습니다 ({type(cause).__name__}): "
                    "서버를 시작하거나 LAKEFS_ENDPOINT 를 고치세요 (비우면 내장 서버를 씁니다)",
                    f"{what} ({where}): the server does not answer ({type(cause).__name__}): "
                    "start it or mend LAKEFS_ENDPOINT (unset: the embedded server)",
                )
            ) from error

    # --- the repository -------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Ask for the server's health, with a short patience, and for its configuration with the keys."""
        import urllib3

        with self._explained(t("서버 확인", "looking for the server")):
            self.pool.request(
                "GET", f"{self.api}/healthcheck", retries=urllib3.Retry(2, backoff_factor=0.3), timeout=CONNECT_S
            )
            self.sdk.config_api.get_config()

    def ensure_repository(self, settings: Settings) -> None:
        """Make the repository and the branch where they are missing; two processes may do so at once."""
        import lakefs_sdk
        from lakefs_sdk.exceptions import ApiException, NotFoundException

        with self._explained(t("저장소 준비", "preparing the repository")):
            try:
                repository = self.sdk.repositories_api.get_repository(self.repo)
            except NotFoundException:
                namespace = f"{self._namespace_prefix(settings)}/{self.repo}/{uuid.uuid4().hex[:8]}"
                creation = lakefs_sdk.RepositoryCreation(
                    name=self.repo, storage_namespace=namespace, default_branch=self.branch
                )
                try:
                    repository = self.sdk.repositories_api.create_repository(creation)
                    say(f"lakeFS 저장소를 만들었습니다: {self.repo}", f"made the lakeFS repository {self.repo}")
                except ApiException as error:
                    if error.status != 409:
                        raise
                    repository = self.sdk.repositories_api.get_repository(self.repo)
            if self.branch != repository.default_branch:
                self._create_branch(self.branch, repository.default_branch)

    def _namespace_prefix(self, settings: Settings) -> str:
        """Where a new repository's files go; makes the bucket where MinIO's settings are given."""
        storage = self.sdk.config_api.get_config().storage_config
        kind = storage.blockstore_type if storage else None
        prefix = settings.lakefs_storage_namespace or (storage.default_namespace_prefix if storage else None)
        if not settings.lakefs_endpoint or (not prefix and kind == "local"):
            return "local:/"
        if not prefix and settings.minio_bucket:
            prefix = f"s3://{settings.minio_bucket}"
        if not prefix:
            raise UsageError(
                t(
                    f"새 저장소 '{self.repo}' 을(를) 둘 곳이 없습니다: LAKEFS_STORAGE_NAMESPACE=s3://버킷 을 설정하세요",
                    f"no place for the new repository '{self.repo}': set LAKEFS_STORAGE_NAMESPACE=s3://BUCKET",
                )
            )
        if prefix.startswith("s3://") and settings.minio_endpoint:
            from utils import minio_utils

            minio_utils.ensure_bucket(settings, prefix.removeprefix("s3://").split("/")[0])
        return prefix.rstrip("/")

    def _create_branch(self, name: str, source: str) -> None:
        """Make a branch; one that is there already is taken as it is."""
        import lakefs_sdk
        from lakefs_sdk.exceptions import ApiException

        try:
            self.sdk.branches_api.create_branch(self.repo, lakefs_sdk.BranchCreation(name=name, source=source))
        except ApiException as error:
            if error.status != 409:
                raise

    def _has_branch(self, name: str) -> bool:
        from lakefs_sdk.exceptions import NotFoundException

        with self._explained(t(f"브랜치 {name}", f"branch {name}")):
            try:
                self.sdk.branches_api.get_branch(self.repo, name)
            except NotFoundException:
                return False
            return True

    # --- reading --------------------------------------------------------------------------------------------------

    def head(self, branch: str | None = None) -> str:
        """Full id of a branch's newest commit."""
        with self._explained(t(f"브랜치 {branch or self.branch}", f"branch {branch or self.branch}")):
            return str(self.sdk.branches_api.get_branch(self.repo, branch or self.branch).commit_id)

    def objects(self, ref: str, prefix: str, repo: str | None = None) -> Iterator[RemoteFile]:
        """Objects under a prefix in the order of their paths' bytes, one page of 1,000 in memory at a time."""
        after = ""
        while True:
            with self._explained(t(f"목록 {ref[:12]}/{prefix}", f"listing {ref[:12]}/{prefix}")):
                page = self.sdk.objects_api.list_objects(
                    repo or self.repo, ref, prefix=prefix, after=after, amount=1000, user_metadata=True, presign=False
                )
            for found in page.results:
                metadata = found.metadata or {}
                yield RemoteFile(found.path, found.size_bytes or 0, metadata.get("sha256"), found.checksum)
            if not page.pagination.has_more:
                return
            after = page.pagination.next_offset

    def commit_metadata(self, commit_id: str) -> dict[str, str]:
        """The metadata of one commit."""
        with self._explained(t(f"커밋 {commit_id[:12]}", f"commit {commit_id[:12]}")):
            return dict(self.sdk.commits_api.get_commit(self.repo, commit_id).metadata or {})

    def _commit_with(self, head: str, key: str, value: str) -> str:
        """The newest commit behind `head` with this metadata, or `head` itself."""
        log = self.sdk.refs_api.log_commits(self.repo, head, amount=1000)
        return next((str(c.id) for c in log.results if (c.metadata or {}).get(key) == value), head)

    # --- publishing -----------------------------------------------------------------------------------------------

    def publish(
        self, files: Mapping[str, LocalFile], prefix: str, message: str, metadata: Mapping[str, str], mirror: bool
    ) -> Published:
        """Bring files to the target branch as one commit and return the commit that holds exactly these files.

        `files` maps paths below `prefix` ("data/") to local files; with `mirror`, other objects below it are removed.
        Unchanged files are not sent, and where nothing changed the existing commit is returned. A failure leaves the
        target as it was and says which files failed; the next call goes on. Raises AppError.
        """
        wanted = {prefix + path: file for path, file in files.items()}
        key, digest = f"{prefix.rstrip('/')}_manifest_sha256", manifest_sha256(wanted)
        work, metadata = f"sync-{prefix.rstrip('/')}-{digest[:24]}", {**metadata, key: digest}
        for _ in range(5):  # somebody else may change the same files on the target meanwhile: then start from theirs
            head = self.head()
            send, remove = self._changes(head, prefix, wanted, mirror)
            if not send and not remove:
                with self._explained(t("기록 읽기", "reading the log")):
                    return Published(self._commit_with(head, key, digest), 0, 0)
            with self._explained(t("작업 브랜치", "private branch")):
                self._create_branch(work, head)
            try:
                self._stage(work, prefix, wanted, mirror)
                commit_id = self._commit(work, message, metadata)
                merged = self._merge(work, message, metadata)
            except AppError:
                if self._has_branch(work):
                    raise
                continue  # another process with the same files merged it and took the branch away
            with contextlib.suppress(AppError):  # already gone, or left behind: it holds nothing that is not merged
                self._delete_branch(work)
            if merged is not None:
                # The commit of the target, unless somebody else's files were merged in between.
                exact = not any(self._changes(merged, prefix, wanted, mirror))
                return Published(merged if exact else commit_id, len(send), len(remove))
        raise AppError(
            t(
                f"{self.branch} 브랜치의 {prefix} 이(가) 계속 바뀌어 병합하지 못했습니다: 잠시 뒤 다시 실행하세요",
                f"could not merge {prefix} into {self.branch}, which keeps changing: run again in a while",
            )
        )

    def _changes(
        self, ref: str, prefix: str, wanted: Mapping[str, LocalFile], mirror: bool
    ) -> tuple[list[str], list[str]]:
        """Paths to send and paths to remove so that `ref` holds `wanted`."""
        missing, remove = dict(wanted), []
        for remote in self.objects(ref, prefix):
            file = wanted.get(remote.path)
            if file is None:
                remove.append(remote.path)
            elif remote.sha256 == file.sha256:
                del missing[remote.path]
        return list(missing), remove if mirror else []

    def _stage(self, branch: str, prefix: str, wanted: Mapping[str, LocalFile], mirror: bool) -> None:
        """Send what the private branch lacks, largest first; every file that failed is named, nothing is committed."""
        send, remove = self._changes(branch, prefix, wanted, mirror)
        send.sort(key=lambda path: wanted[path].path.stat().st_size, reverse=True)
        results = parallel(lambda path: self.upload(branch, path, wanted[path]), send)
        label = t("lakeFS 업로드", "upload to lakeFS")
        failed = [(p, r) for p, r in progress(results, len(send), label, "files") if isinstance(r, Exception)]
        if failed:
            lines = "\n".join(f"  {path}: {error}" for path, error in failed)
            raise AppError(
                t(
                    f"{len(failed)}개 파일을 올리지 못해 커밋하지 않았습니다. 다시 실행하면 이어서 올립니다:\n{lines}",
                    f"{len(failed)} files could not be sent, nothing was committed; run again to go on:\n{lines}",
                )
            )
        import lakefs_sdk

        with self._explained(t("파일 삭제", "removing files")):
            for start in range(0, len(remove), 1000):
                paths = lakefs_sdk.PathList(paths=remove[start : start + 1000])
                self.sdk.objects_api.delete_objects(self.repo, branch, paths)

    def upload(self, branch: str, path: str, file: LocalFile) -> None:
        """Stream one file to a branch with its SHA-256 as user metadata; the server's MD5 is checked against ours."""
        from urllib.parse import quote, urlencode

        url = (
            f"{self.api}/repositories/{self.repo}/branches/{quote(branch, safe='')}/objects?{urlencode({'path': path})}"
        )
        digest, hashed = hashlib.md5(usedforsecurity=False), hashlib.sha256()
        with file.path.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
                hashed.update(chunk)
            if hashed.hexdigest() != file.sha256:
                raise AppError(
                    t(f"{file.path}: 확인한 뒤에 내용이 바뀌었습니다", f"{file.path}: changed since it was checked")
                )
            headers = {
                **self.auth,
                "Content-Length": str(stream.tell()),
                "Content-Type": content_type(path),
                "x-lakefs-meta-sha256": file.sha256,
            }
            stream.seek(0)
            with self._explained(t(f"업로드 {path}", f"uploading {path}")):
                # An empty file object would be sent chunked with no chunk; empty bytes are sent as an empty body.
                body = stream if headers["Content-Length"] != "0" else b""
                answer = self.pool.request("POST", url, body=body, headers=headers)
        if answer.status != 201:
            raise AppError(f"{path}: {answer.status} {answer.data[:300].decode(errors='replace')}")
        if json.loads(answer.data)["checksum"] != digest.hexdigest():
            raise AppError(t(f"{path}: 전송 중에 내용이 달라졌습니다", f"{path}: the content changed on its way"))

    def _commit(self, branch: str, message: str, metadata: Mapping[str, str]) -> str:
        """Commit what is staged; 'no changes' after a lost answer or a kill means that the head is that commit."""
        import lakefs_sdk
        from lakefs_sdk.exceptions import ApiException

        creation = lakefs_sdk.CommitCreation(message=message, metadata=dict(metadata))
        with self._explained(t("커밋", "commit")):
            try:
                return str(self.sdk.commits_api.commit(self.repo, branch, creation).id)
            except ApiException as error:
                if error.status == 400 and "no changes" in _message(error):
                    return self.head(branch)
                raise

    def _merge(self, source: str, message: str, metadata: Mapping[str, str]) -> str | None:
        """Merge into the target; its head when that is done already; None after a conflict."""
        import lakefs_sdk
        from lakefs_sdk.exceptions import ApiException

        merge = lakefs_sdk.Merge(message=message, metadata=dict(metadata))
        with self._explained(t(f"{self.branch} 에 병합", f"merge into {self.branch}")):
            try:
                return str(self.sdk.refs_api.merge_into_branch(self.repo, source, self.branch, merge=merge).reference)
            except ApiException as error:
                if error.status == 409:
                    return None
                if error.status in (400, 404) and ("no changes" in _message(error) or error.status == 404):
                    return self.head()  # another process with the same files was first, or the answer was lost
                raise

    def _delete_branch(self, name: str) -> None:
        with self._explained(t(f"브랜치 {name} 삭제", f"deleting branch {name}")):
            self.sdk.branches_api.delete_branch(self.repo, name)

    # --- downloading ----------------------------------------------------------------------------------------------

    def verified_file(self, source: LakePath, sha256: str, cache: Path) -> Path:
        """One file of a commit, in the cache, whose content has this SHA-256. Raises AppError otherwise."""
        file = inside(self.download(source, cache), source.path)
        found = file_sha256(file)
        if found != sha256:
            raise AppError(
                t(
                    f"{source}: SHA-256 이 기록과 다릅니다 (기대 {sha256}, 실제 {found})",
                    f"{source}: SHA-256 differs from its record (expected {sha256}, found {found})",
                )
            )
        return file

    def download(self, source: LakePath, cache: Path, wanted: Callable[[str], bool] | None = None) -> Path:
        """Files of one commit at or below a path, verified, as read-only files in the cache; returns the commit's folder.

        `wanted` chooses among the paths. A commit that was fetched whole is not asked for again. Raises AppError for
        missing, broken or foreign files.
        """
        tree = cache / "commits" / source.repo / source.ref
        done = tree / ".fetched" / hashlib.sha256(source.path.encode()).hexdigest()
        if done.exists():
            return tree
        remote = [f for f in self.objects(source.ref, source.path, source.repo) if _at_or_below(f.path, source.path)]
        if not remote:
            raise AppError(
                t(
                    f"{source}: lakeFS {self.endpoint} 에 파일이 없습니다",
                    f"{source}: no such file on lakeFS {self.endpoint}",
                )
            )
        chosen = [f for f in remote if wanted is None or wanted(f.path)]
        label = t("lakeFS 다운로드", "download from lakeFS")
        results = parallel(lambda f: self._fetch(source, f, cache, inside(tree, f.path)), chosen)
        failed = [(f.path, r) for f, r in progress(results, len(chosen), label, "files") if isinstance(r, Exception)]
        if failed:
            lines = "\n".join(f"  {path}: {error}" for path, error in failed)
            raise AppError(
                t(
                    f"{len(failed)}개 파일을 받지 못했습니다. 다시 실행하면 이어서 받습니다:\n{lines}",
                    f"{len(failed)} files could not be fetched; run again to go on:\n{lines}",
                )
            )
        if len(chosen) == len(remote):
            done.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(done, b"")
        return tree

    def _fetch(self, source: LakePath, remote: RemoteFile, cache: Path, out: Path) -> None:
        """One object, by way of a content-addressed cache: what any commit brought is not fetched again."""
        blob = cache / "sha256" / remote.sha256[:2] / remote.sha256 if remote.sha256 else None
        if blob is None or not blob.exists() or file_sha256(blob) != remote.sha256:
            target = blob or out
            target.parent.mkdir(parents=True, exist_ok=True)
            self._stream(source, remote, target)
        if blob is not None and blob != out:
            out.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(blob, out)

    def _stream(self, source: LakePath, remote: RemoteFile, target: Path) -> None:
        """Stream to a temporary file, going on by ranges after a break; verify; rename."""
        import urllib3

        with replacing(target) as part:
            with part.open("wb") as stream:
                for attempt in range(RETRIES + 1):
                    try:
                        self._read_from(source, remote, stream.tell(), stream.write)
                        break
                    except urllib3.exceptions.HTTPError as error:
                        if attempt == RETRIES:
                            text = t(f"연결이 계속 끊깁니다: {error}", f"the connection keeps breaking: {error}")
                            raise AppError(text) from error
                        time.sleep(0.2 * 2**attempt)
            self._verify(part, remote)
            part.chmod(0o444)

    def _read_from(self, source: LakePath, remote: RemoteFile, offset: int, write: Callable[[bytes], Any]) -> None:
        """Read an object from byte `offset` to its end. Raises urllib3's HTTPError when the connection breaks."""
        from urllib.parse import quote, urlencode

        if offset and offset >= remote.size_bytes:
            return
        url = (
            f"{self.api}/repositories/{quote(source.repo)}/refs/{quote(source.ref, safe='')}/objects"
            f"?{urlencode({'path': remote.path})}"
        )
        headers = {**self.auth, **({"Range": f"bytes={offset}-"} if offset else {})}
        answer = self.pool.request("GET", url, headers=headers, preload_content=False)
        try:
            expected = 206 if offset else 200
            if answer.status != expected:
                raise AppError(f"{answer.status} {answer.read(300).decode(errors='replace')}")
            for chunk in answer.stream(CHUNK):
                write(chunk)
        finally:
            answer.release_conn()

    def _verify(self, path: Path, remote: RemoteFile) -> None:
        """Compare with the SHA-256 of the metadata, else with the MD5, else with the size. Raises AppError."""
        if remote.sha256:
            expected, found = remote.sha256, file_sha256(path)
        elif re.fullmatch(r"[0-9a-f]{32}", remote.checksum):
            with path.open("rb") as stream:
                expected, found = remote.checksum, hashlib.file_digest(stream, "md5").hexdigest()
        else:
            expected, found = str(remote.size_bytes), str(path.stat().st_size)
        if expected != found:
            raise AppError(
                t(
                    f"{remote.path}: 내용이 기록과 다릅니다 (기대 {expected}, 실제 {found})",
                    f"{remote.path}: content differs from its record (expected {expected}, found {found})",
                )
            )


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link where the file system can, else a copy; replaces what is there at once."""
    import shutil

    with replacing(target) as part:
        try:
            os.link(source, part)
        except OSError:
            shutil.copyfile(source, part)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a kill at any moment leaves the old content or the new."""
    with replacing(path) as part:
        part.write_bytes(content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; after the block it is flushed to disk and takes the place of `path`."""
    part = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex}.part")
    try:
        yield part
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _message(error: Any) -> str:
    """The server's own words in an ApiException."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.body or error.reason or error)[:300]
