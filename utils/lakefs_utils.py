"""Data and model versions in lakeFS: publish, commit, merge, list, and verified download, over lakefs-sdk.

Every call speaks the lakeFS REST API: to the server of LAKEFS_ENDPOINT, or to the embedded one that `connect` starts.
Nothing is ever staged on the target branch: a publication has a private branch, whose name comes from what is
published, so that a call after a kill finds what the first one had sent and goes on from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import Settings
from utils.console import AppError, UsageError, progress, say, t
from utils.files import file_sha256, inside, link_or_copy, parallel, write_atomically

if TYPE_CHECKING:
    from utils.transfer import LocalFile, RemoteFile

HEALTH_S = 5.0  # seconds that a named server may take to answer before it counts as down


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
class Published:
    """What `LakeFS.publish` did: the commit that holds the files, and how many were sent and removed."""

    commit_id: str
    uploaded: int
    removed: int


def manifest_sha256(files: Mapping[str, LocalFile]) -> str:
    """One hash for a set of files, equal on every server: SHA-256 over the sorted lines `<sha256>  <path>`."""
    lines = "".join(f"{file.sha256}  {path}\n" for path, file in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _at_or_below(path: str, wanted: str) -> bool:
    """Whether an object is the wanted one, or below it as a folder: `a` must not bring `ab`."""
    return path == wanted or not wanted or path.startswith(wanted.rstrip("/") + "/")


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
        lake.journals = settings.lakefs_local_dir / "cache" / "uploads"
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

        from utils.transfer import Transfer, make_pool

        self.endpoint, self.repo, self.branch = endpoint.rstrip("/"), repo, branch
        self.journals: Path | None = None  # folder where multipart uploads are noted, to go on after a kill
        self.api = f"{self.endpoint}/api/v1"
        config = lakefs_sdk.Configuration(host=self.api, username=access_key_id, password=secret_access_key)
        self.sdk = LakeFSClient(configuration=config)
        self.pool = make_pool()
        self.sdk._api.rest_client.pool_manager = self.pool  # the SDK's own neither waits nor tries again
        auth = urllib3.make_headers(basic_auth=f"{access_key_id}:{secret_access_key}")
        self.transfer = Transfer(self.sdk, self.pool, self.api, auth)

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
                "GET", f"{self.api}/healthcheck", retries=urllib3.Retry(2, backoff_factor=0.3), timeout=HEALTH_S
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
        prefix = prefix.rstrip("/")
        return f"{prefix}/" if prefix.endswith(":") else prefix  # a server over files names "local://", with no folder

    def _create_branch(self, name: str, source: str) -> bool:
        """Make a branch; one that is there already is taken as it is, and False returned."""
        import lakefs_sdk
        from lakefs_sdk.exceptions import ApiException

        try:
            self.sdk.branches_api.create_branch(self.repo, lakefs_sdk.BranchCreation(name=name, source=source))
        except ApiException as error:
            if error.status != 409:
                raise
            return False
        return True

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

    def objects(self, ref: str, prefix: str, repo: str | None = None, links: bool = False) -> Iterator[RemoteFile]:
        """Objects under a prefix in the order of their paths' bytes, one page of 1,000 in memory at a time.

        With `links`, each has a presigned link for its download, where the server gives them.
        """
        after = ""
        while True:
            with self._explained(t(f"목록 {ref[:12]}/{prefix}", f"listing {ref[:12]}/{prefix}")):
                page = self.sdk.objects_api.list_objects(
                    repo or self.repo, ref, prefix=prefix, after=after, amount=1000, user_metadata=True, presign=links
                )
            from utils.transfer import RemoteFile

            for found in page.results:
                metadata = found.metadata or {}
                link = found.physical_address if links else None
                yield RemoteFile(found.path, found.size_bytes or 0, metadata.get("sha256"), found.checksum, link)
            if not page.pagination.has_more:
                return
            after = page.pagination.next_offset

    def commit_metadata(self, commit_id: str) -> dict[str, str]:
        """The metadata of one commit."""
        with self._explained(t(f"커밋 {commit_id[:12]}", f"commit {commit_id[:12]}")):
            return dict(self.sdk.commits_api.get_commit(self.repo, commit_id).metadata or {})

    def _commits_with(self, head: str, key: str, value: str) -> list[str]:
        """Commits behind `head` with this metadata, newest first, of the newest thousand.

        It says what was published, not what the commit holds: a merge brings other people's files too.
        """
        with self._explained(t("기록 읽기", "reading the log")):
            log = self.sdk.refs_api.log_commits(self.repo, head, amount=1000)
        return [str(commit.id) for commit in log.results if (commit.metadata or {}).get(key) == value]

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
            changes = self._changes(head, prefix, wanted, mirror)
            if not any(changes):
                # The commit that brought these files, for as long as it is known, so that equal data keep one name.
                same = (
                    c
                    for c in self._commits_with(head, key, digest)
                    if not any(self._changes(c, prefix, wanted, mirror))
                )
                return Published(next(same, head), 0, 0)
            with self._explained(t("작업 브랜치", "private branch")):
                is_new = self._create_branch(work, head)
            try:
                # A branch that was there already holds what an earlier call had sent.
                self._stage(work, wanted, *(changes if is_new else self._changes(work, prefix, wanted, mirror)))
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
                exact = self._holds(merged, head) or not any(self._changes(merged, prefix, wanted, mirror))
                return Published(merged if exact else commit_id, *map(len, changes))
        raise AppError(
            t(
                f"{self.branch} 브랜치의 {prefix} 이(가) 계속 바뀌어 병합하지 못했습니다: 잠시 뒤 다시 실행하세요",
                f"could not merge {prefix} into {self.branch}, which keeps changing: run again in a while",
            )
        )

    def _holds(self, merged: str, head: str) -> bool:
        """Whether a merge went right onto the head that was compared with: then it holds what was merged and no more."""
        with self._explained(t(f"커밋 {merged[:12]}", f"commit {merged[:12]}")):
            return bool(self.sdk.commits_api.get_commit(self.repo, merged).parents[0] == head)

    def _changes(
        self, ref: str, prefix: str, wanted: Mapping[str, LocalFile], mirror: bool
    ) -> tuple[list[str], list[str]]:
        """Paths to send and paths to remove so that `ref` holds `wanted`."""
        missing, remove = dict(wanted), []
        for remote in self.objects(ref, prefix):
            file = wanted.get(remote.path)
            if file is None:
                remove.append(remote.path)
            elif _same_content(remote, file):
                del missing[remote.path]
        return list(missing), remove if mirror else []

    def _stage(self, branch: str, wanted: Mapping[str, LocalFile], send: list[str], remove: list[str]) -> None:
        """Send what the private branch lacks, largest first; every file that failed is named, nothing is committed."""
        sizes = {path: wanted[path].path.stat().st_size for path in send if wanted[path].path.exists()}
        largest_first = sorted(send, key=lambda path: -sizes.get(path, 0))
        results = parallel(lambda path: self.upload(branch, path, wanted[path]), largest_first)
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
        """Send one file to a branch with its SHA-256 as user metadata. Raises AppError, OSError."""
        with self._explained(t(f"업로드 {path}", f"uploading {path}")):
            self.transfer.upload(self.repo, branch, path, file, self.journals)

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
        if done.exists() and _are_there(tree, json.loads(done.read_text())):
            return tree
        with self._explained(t("서버 설정", "the server's configuration")):
            links = self.transfer.presign()[0]
        listed = self.objects(source.ref, source.path, source.repo, links)
        remote = [file for file in listed if _at_or_below(file.path, source.path)]
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
            write_atomically(done, json.dumps({file.path: file.size_bytes for file in remote}).encode())
        return tree

    def _fetch(self, source: LakePath, remote: RemoteFile, cache: Path, out: Path) -> None:
        """One object, by way of a content-addressed cache: what any commit brought is not fetched again."""
        if remote.sha256 is None:
            return self.transfer.download(source.repo, source.ref, remote, out)
        blob = cache / "sha256" / remote.sha256[:2] / remote.sha256
        if not blob.exists() or file_sha256(blob) != remote.sha256:
            self.transfer.download(source.repo, source.ref, remote, blob)
        link_or_copy(blob, out)

    # --- importing and protecting ---------------------------------------------------------------------------------

    def import_objects(
        self, source: str, target: str, work: str, message: str, metadata: Mapping[str, str], replace: bool
    ) -> Published:
        """Make the objects below `source` (s3://bucket/prefix/) objects below `target` ("data/"), without copying.

        The server's import puts exactly these objects at the place: others there go, which `replace` must allow.
        It runs on the private branch `work`, and is merged. Raises UsageError where the server's files are not on S3.
        """
        storage = self.sdk.config_api.get_config().storage_config
        if not storage or not storage.import_support or storage.blockstore_type != "s3":
            kind = storage.blockstore_type if storage else "?"
            raise UsageError(
                t(
                    f"lakeFS {self.endpoint} 의 저장소 종류가 '{kind}' 라 가져올 수 없습니다: S3 여야 합니다",
                    f"lakeFS {self.endpoint} stores its files on '{kind}': import needs S3",
                )
            )
        head = self.head()
        if not replace and next(self.objects(head, target), None) is not None:
            raise UsageError(
                t(
                    f"{self.branch} 의 '{target}' 에 이미 파일이 있습니다: --replace 로 대신하거나 --to 로 다른 곳을 고르세요",
                    f"'{target}' of {self.branch} already holds files: --replace them, or choose another place with --to",
                )
            )
        with self._explained(t("작업 브랜치", "private branch")):
            if self._has_branch(work):  # left by a call that was cut off; references are quickly made again
                self._delete_branch(work)
            self._create_branch(work, head)
        try:
            self._import(source, target, work, message, metadata)
            changes = [str(change.type) for change in self.differences(head, work)]
            merged = self._merge(work, message, metadata) if changes else head
        finally:
            with contextlib.suppress(AppError):
                self._delete_branch(work)
        if merged is None:
            again = t(
                "다른 작업이 같은 파일을 바꿨습니다: 다시 실행하세요",
                "the same files were changed meanwhile: run again",
            )
            raise AppError(f"{self.branch}: {again}")
        removed = changes.count("removed")
        return Published(merged, len(changes) - removed, removed)

    def _import(self, source: str, target: str, branch: str, message: str, metadata: Mapping[str, str]) -> None:
        """Run the server's import on a branch until it has its commit there."""
        import lakefs_sdk

        creation = lakefs_sdk.ImportCreation(
            paths=[lakefs_sdk.ImportLocation(type="common_prefix", path=source, destination=target)],
            commit=lakefs_sdk.CommitCreation(message=message, metadata=dict(metadata)),
        )
        what, pause = t(f"가져오기 {source}", f"importing {source}"), 0.1
        with self._explained(what):
            ticket = self.sdk.import_api.import_start(self.repo, branch, creation).id
            while not (status := self.sdk.import_api.import_status(self.repo, branch, ticket)).completed:
                if status.error:
                    raise AppError(f"{what} (lakeFS {self.endpoint}, {self.repo}): {status.error.message}")
                time.sleep(pause)
                pause = min(2 * pause, 2.0)

    def protect(self) -> bool:
        """Refuse direct writes and commits on the target branch, for everybody; False where it was so already."""
        import lakefs_sdk

        with self._explained(t(f"{self.branch} 보호", f"protecting {self.branch}")):
            rules = self.sdk.repositories_api.get_branch_protection_rules(self.repo)
            if any(rule.pattern == self.branch for rule in rules):
                return False
            rules = [*rules, lakefs_sdk.BranchProtectionRule(pattern=self.branch)]
            self.sdk.repositories_api.set_branch_protection_rules(self.repo, rules)
            return True

    # --- versions, as Git has them --------------------------------------------------------------------------------

    def resolve(self, ref: str, repo: str | None = None) -> str:
        """Full commit id of a branch, tag, commit id or unique beginning of one, `main~1`. Raises UsageError."""
        from lakefs_sdk.exceptions import ApiException

        with self._explained(t(f"버전 '{ref}'", f"version '{ref}'")):
            try:
                return str(self.sdk.commits_api.get_commit(repo or self.repo, ref).id)
            except ApiException as error:
                if error.status not in (400, 404):
                    raise
                if "repository not found" in _message(error):
                    raise UsageError(
                        t(
                            f"lakeFS {self.endpoint} 에 저장소 '{repo or self.repo}' 이(가) 없습니다: train.py 나 lake.py push 가 만듭니다",
                            f"lakeFS {self.endpoint} has no repository '{repo or self.repo}': train.py or lake.py push makes it",
                        )
                    ) from error
        names = [name for name, _ in [*self.named("branches", repo), *self.named("tags", repo)]]
        there = ", ".join(names[:10]) + (" …" if len(names) > 10 else "")
        raise UsageError(
            t(
                f"'{ref}' 은(는) 브랜치, 태그, 커밋이 아닙니다 (저장소 {repo or self.repo} 에 있는 것: {there})",
                f"'{ref}' is no branch, tag or commit (repository {repo or self.repo} has: {there})",
            )
        )

    def named(self, kind: str, repo: str | None = None) -> Iterator[tuple[str, str]]:
        """(name, full commit id) of all 'branches' or 'tags', by name."""
        api = {"branches": self.sdk.branches_api.list_branches, "tags": self.sdk.tags_api.list_tags}[kind]
        after = ""
        while True:
            with self._explained(t("브랜치와 태그 목록", f"listing {kind}")):
                page = api(repo or self.repo, after=after, amount=1000)
            yield from ((str(found.id), str(found.commit_id)) for found in page.results)
            if not page.pagination.has_more:
                return
            after = page.pagination.next_offset

    def log(self, ref: str, first_parent: bool = True, prefix: str = "", repo: str | None = None) -> Iterator[Any]:
        """Commits from `ref` back, newest first, a page at a time; with `prefix` those that changed something below it."""
        after = ""
        while True:
            with self._explained(t("기록 읽기", "reading the log")):
                page = self.sdk.refs_api.log_commits(
                    repo or self.repo,
                    ref,
                    after=after,
                    amount=100,
                    first_parent=first_parent,
                    prefixes=[prefix] if prefix else [],
                )
            yield from page.results
            if not page.pagination.has_more:
                return
            after = page.pagination.next_offset

    def differences(self, left: str, right: str, kind: str = "two_dot", repo: str | None = None) -> Iterator[Any]:
        """Paths that differ, with their `type`; 'three_dot': what `right` changed since both were one, and conflicts."""
        after = ""
        while True:
            with self._explained(t("비교", "comparing")):
                page = self.sdk.refs_api.diff_refs(repo or self.repo, left, right, after=after, amount=1000, type=kind)
            yield from page.results
            if not page.pagination.has_more:
                return
            after = page.pagination.next_offset

    def contains(self, branch: str, commit_id: str) -> bool:
        """Whether a commit is in the history of a branch; False for one that the repository does not know."""
        from lakefs_sdk.exceptions import NotFoundException

        with self._explained(t(f"브랜치 {branch}", f"branch {branch}")):
            try:
                found = self.sdk.refs_api.find_merge_base(self.repo, commit_id, branch)
            except NotFoundException:
                return False
            return str(found.base_commit_id) == commit_id

    def start_experiment(self, branch: str) -> None:
        """Publish to another branch from now on, made from the target where it is not there. Raises UsageError."""
        if branch == self.branch or not re.fullmatch(r"\w[-\w]*", branch, re.ASCII):
            raise UsageError(
                t(
                    f"실험 브랜치 '{branch}': {self.branch} 와 다른 이름, 영문자·숫자·'_'·'-' 만 쓸 수 있습니다",
                    f"experiment branch '{branch}': expected letters, digits, '_', '-', and another name than {self.branch}",
                )
            )
        with self._explained(t(f"브랜치 {branch}", f"branch {branch}")):
            self._create_branch(branch, self.branch)
        self.branch = branch
        self.head()  # a tag of this name keeps a branch from being made

    def set_tag(self, name: str, commit_id: str) -> None:
        """Name a commit for good. Raises AppError for a name that is taken."""
        import lakefs_sdk

        with self._explained(t(f"태그 {name}", f"tag {name}")):
            self.sdk.tags_api.create_tag(self.repo, lakefs_sdk.TagCreation(id=name, ref=commit_id))

    def delete_tag(self, name: str) -> None:
        with self._explained(t(f"태그 {name} 삭제", f"deleting tag {name}")):
            self.sdk.tags_api.delete_tag(self.repo, name)

    def delete_branch(self, name: str) -> None:
        self._delete_branch(name)

    def revert(self, commit_id: str, message: str, metadata: Mapping[str, str]) -> str:
        """Undo one commit on the target branch by a new one, a merge against its first parent; returns the new head."""
        import lakefs_sdk
        from lakefs_sdk.exceptions import ApiException

        with self._explained(t(f"되돌리기 {commit_id[:12]}", f"reverting {commit_id[:12]}")):
            parents = self.sdk.commits_api.get_commit(self.repo, commit_id).parents
            creation = lakefs_sdk.RevertCreation(
                ref=commit_id,
                parent_number=1 if len(parents) > 1 else 0,
                commit_overrides=lakefs_sdk.CommitOverrides(message=message, metadata=dict(metadata)),
            )
            try:
                self.sdk.branches_api.revert_branch(self.repo, self.branch, creation)
            except ApiException as error:
                if error.status == 409 or "no changes" in _message(error):
                    raise AppError(
                        t(
                            f"{commit_id[:12]} 을(를) {self.branch} 에서 되돌릴 수 없습니다: 같은 파일이 그 뒤에 바뀌었거나 "
                            "이미 되돌렸습니다 (lake.py pull 로 옛 버전을 받아 push 하세요)",
                            f"{commit_id[:12]} cannot be reverted on {self.branch}: the same files changed after it, or it "
                            "is reverted already (lake.py pull an older version, then push)",
                        )
                    ) from error
                raise
        return self.head()

    def merge_commit(self, commit_id: str, message: str, metadata: Mapping[str, str]) -> str:
        """Merge a commit of another branch into the target and return the target's head; nothing to do is no error.

        Where only model files conflict, those of `commit_id` win. Raises AppError naming the data that conflict.
        """
        import lakefs_sdk
        from lakefs_sdk.exceptions import ApiException

        conflicts = [d.path for d in self.differences(self.branch, commit_id, "three_dot") if d.type == "conflict"]
        if any(path.startswith("data/") for path in conflicts):
            raise _conflict(self.branch, commit_id, conflicts)
        strategy = {"strategy": "source-wins"} if conflicts else {}
        merge = lakefs_sdk.Merge(message=message, metadata=dict(metadata), **strategy)
        with self._explained(t(f"{self.branch} 에 병합", f"merge into {self.branch}")):
            try:
                self.sdk.refs_api.merge_into_branch(self.repo, commit_id, self.branch, merge=merge)
            except ApiException as error:
                if error.status == 409:
                    raise _conflict(self.branch, commit_id, conflicts) from error
                if not (error.status == 400 and "no changes" in _message(error)):
                    raise
        return self.head()

    def broken(self, source: LakePath, remote: RemoteFile) -> str | None:
        """Read an object from the server again, past every cache; what is wrong with it, or None."""
        import urllib3

        sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
        try:
            for chunk in self.transfer.read(source.repo, source.ref, remote):
                sha256.update(chunk)
                md5.update(chunk)
                size += len(chunk)
        except (AppError, urllib3.exceptions.HTTPError) as error:
            return str(error)
        checks = [(remote.sha256, sha256.hexdigest()), (str(remote.size_bytes), str(size))]
        if re.fullmatch(r"[0-9a-f]{32}", remote.checksum):
            checks.append((remote.checksum, md5.hexdigest()))
        wrong = next(((expected, found) for expected, found in checks if expected and expected != found), None)
        return wrong and t(f"기대 {wrong[0]}, 실제 {wrong[1]}", f"expected {wrong[0]}, found {wrong[1]}")


def _conflict(branch: str, commit_id: str, paths: list[str]) -> AppError:
    """Both sides changed the same files."""
    names = ", ".join(paths[:10]) + (t(f" 외 {len(paths) - 10}개", f" and {len(paths) - 10} more") * (len(paths) > 10))
    return AppError(
        t(
            f"{commit_id[:12]} 을(를) {branch} 에 병합할 수 없습니다: 양쪽에서 바뀐 파일 {names}: "
            f"아무것도 병합하지 않았습니다. {branch} 의 데이터를 받아(lake.py pull {branch}) 합친 뒤 다시 학습하세요",
            f"{commit_id[:12]} cannot be merged into {branch}: both sides changed {names}: nothing was merged. "
            f"Get the data of {branch} (lake.py pull {branch}), put yours into it, and train again",
        )
    )


def _are_there(tree: Path, sizes: Mapping[str, int]) -> bool:
    """Whether every file that was fetched is still there at its length: a power cut, or a person, may have cut it."""
    try:
        return all(inside(tree, path).stat().st_size == size for path, size in sizes.items())
    except FileNotFoundError:
        return False


def _same_content(remote: RemoteFile, file: LocalFile) -> bool:
    """By the SHA-256 that was published with it; what other clients or an import brought has only the MD5."""
    if remote.sha256 is not None or not file.path.exists() or remote.size_bytes != file.path.stat().st_size:
        return remote.sha256 == file.sha256
    with file.path.open("rb") as stream:
        return remote.checksum == hashlib.file_digest(stream, "md5").hexdigest()


def _message(error: Any) -> str:
    """The server's own words in an ApiException, on one line."""
    try:
        return " ".join(str(json.loads(error.body)["message"]).split())
    except (TypeError, ValueError, KeyError):
        return " ".join(str(error.body or error.reason or error).split())[:300]
