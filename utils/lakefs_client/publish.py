"""Publish files as one commit of the target branch, on which nothing is ever staged.

A publication has a private branch whose name depends on its content, target and mode: a call after a kill finds what the
first one uploaded and continues from there.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from core.errors import AppError
from core.hashing import file_md5
from core.i18n import tr, trn
from core.reporting import progress
from core.threads.workers import iterate_successes, parallel
from utils.identifiers import CommitId
from utils.lakefs_client.connection import Connection, server_message
from utils.lakefs_client.content import LocalFile, RemoteFile
from utils.lakefs_client.merge import Merger
from utils.lakefs_client.queries import Queries
from utils.lakefs_client.refs import Refs
from utils.lakefs_client.responses import parse_commit

REFUSALS = (401, 403, 507)  # of a missing right, a read-only store, and a full disk
MERGE_ATTEMPTS = 5


@dataclass(frozen=True)
class PublishResult:
    """Result of `publish`: the commit that holds the files, and how many were uploaded and removed."""

    commit_id: CommitId
    uploaded: int
    removed: int


def manifest_sha256(files: Mapping[str, LocalFile]) -> str:
    """Return one hash for a set of files, equal on every server: SHA-256 over the sorted lines `<sha256>  <path>`."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{files[path].sha256}  {path}\n".encode())
    return digest.hexdigest()


def _flat(prefix: str) -> str:
    """Return a prefix as part of a name: no branch may have a slash in it."""
    return prefix.rstrip("/").replace("/", "-")


@dataclass(frozen=True)
class _Publication:
    """What is published: files by their path in the repository, and the private branch that they go through."""

    wanted: Mapping[str, LocalFile]
    prefix: str
    mirror: bool
    branch: str
    message: str
    metadata: dict[str, str]


@dataclass(frozen=True)
class _Changes:
    """Paths to upload and to remove."""

    upload: list[str]
    remove: list[str]

    def needed(self) -> bool:
        """Return whether there is anything to do."""
        return bool(self.upload or self.remove)


class Publisher:
    """Uploads and publications."""

    def __init__(self, connection: Connection, queries: Queries, refs: Refs, merger: Merger) -> None:
        self.connection = connection
        self.queries = queries
        self.refs = refs
        self.merger = merger

    def publish(
        self,
        files: Mapping[str, LocalFile],
        prefix: str,
        message: str,
        metadata: Mapping[str, str],
        mirror: bool,
        check: Callable[[str], None] | None = None,
    ) -> PublishResult:
        """Bring files to the target branch as one commit; return the commit that holds exactly these files.

        `files` maps paths below `prefix` ("data/") to local files; with `mirror`, other objects below it are removed.
        Unchanged files are not uploaded, and if nothing changed the existing commit is returned. A failure leaves the
        target as it was and names the files that failed; the next call continues. `check` may refuse, by an error, the
        commit of the target that the publication is about to change: it is called again after each conflict with another
        process. Raises AppError.
        """
        wanted = {prefix + path: file for path, file in files.items()}
        digest = manifest_sha256(wanted)
        key = f"{_flat(prefix)}_manifest_sha256"
        job = _Publication(
            wanted, prefix, mirror, self._branch_name(prefix, digest, mirror), message, {**metadata, key: digest}
        )
        for _ in range(MERGE_ATTEMPTS):  # another process may change the same files: then start from its commit
            head = self.queries.head()
            changes = self._compare(job, head)
            if not changes.needed():
                return self._find_existing(job, head, key, digest)
            self._check(job, head, check)
            try:
                commit_id, merged = self._upload_and_merge(job, head, changes)
            except AppError as error:
                refused = getattr(error.__cause__, "status", 0) in REFUSALS  # not a branch that was deleted meanwhile
                if refused or not self._is_deleted(job.branch):
                    raise
                continue  # another process with the same files merged the branch and deleted it
            if merged is None:
                continue
            with contextlib.suppress(AppError):  # deleted already, or left behind: everything in it is merged
                self.refs.delete_branch(job.branch)
            if self._is_parent(merged, head) or not self._compare(job, merged).needed():
                return PublishResult(merged, len(changes.upload), len(changes.remove))
            if not self._compare(job, commit_id).needed():  # another process merged other files in between
                return PublishResult(commit_id, len(changes.upload), len(changes.remove))
        raise AppError(
            tr(
                "could not merge {prefix} into {branch}, which keeps changing: run again later",
                prefix=prefix,
                branch=self.connection.branch,
            )
        )

    def _check(self, job: _Publication, head: str, check: Callable[[str], None] | None) -> None:
        """Call `check`; if it refuses the commit, delete the private branch of an earlier attempt."""
        try:
            if check is not None:
                check(head)
        except AppError:
            with contextlib.suppress(AppError):
                self.refs.delete_branch(job.branch)
            raise

    def _find_existing(self, job: _Publication, head: CommitId, key: str, digest: str) -> PublishResult:
        """Return the commit that brought these files, so that equal data keeps one name; nothing is uploaded."""
        with contextlib.suppress(AppError):  # of a call that was killed after its merge; usually there is none
            self.refs.delete_branch(job.branch)
        known = (commit for commit in self._commits_with(head, key, digest) if not self._compare(job, commit).needed())
        return PublishResult(next(known, head), 0, 0)

    def _upload_and_merge(self, job: _Publication, head: str, changes: _Changes) -> tuple[CommitId, CommitId | None]:
        """Upload to the private branch, commit and merge; return its commit and the merge (None: conflict)."""
        with self.connection.convert_errors(tr("private branch")):
            is_new = self.refs.create_branch(job.branch, head)
        if not is_new and not self.queries.contains(job.branch, head):
            self._update_branch(job, head)
        # An existing branch holds what an earlier call uploaded.
        self._stage(job, changes if is_new else self._compare(job, job.branch))
        commit_id = self.commit_staged(job.branch, job.message, job.metadata)
        return commit_id, self.merge_into_target(job.branch, job.message, job.metadata)

    def _branch_name(self, prefix: str, digest: str, mirror: bool) -> str:
        """Return the private branch: files staged for another target, or with removals, must not get into it."""
        purpose = hashlib.sha256(f"{digest} {self.connection.branch} {mirror}".encode()).hexdigest()
        return f"sync-{_flat(prefix)}-{purpose[:24]}"

    def _is_deleted(self, branch: str) -> bool:
        """Return whether a branch is known to be deleted; False if the server does not answer."""
        try:
            return not self.queries.has_branch(branch)
        except AppError:
            return False

    def _update_branch(self, job: _Publication, head: str) -> None:
        """Merge `head` into a private branch that started from an older one, keeping what was uploaded to it."""
        import lakefs_sdk
        from lakefs_sdk.exceptions import ApiException

        self.commit_staged(job.branch, job.message, job.metadata)  # a merge refuses staged changes
        merge = lakefs_sdk.Merge(message=job.message, metadata=job.metadata, strategy="dest-wins")
        with self.connection.convert_errors(tr("private branch")):
            try:
                self.connection.sdk.refs_api.merge_into_branch(self.connection.repo, head, job.branch, merge=merge)
            except ApiException as error:  # the response to a first merge was lost
                if not (error.status == 400 and "no changes" in server_message(error)):
                    raise

    def _is_parent(self, merged: str, head: str) -> bool:
        """Return whether a merge's first parent is the compared head: then it holds what was merged and no more."""
        return bool(self.queries.commit(merged).parents[0] == head)

    def _commits_with(self, head: str, key: str, value: str) -> list[CommitId]:
        """Return the commits behind `head` with this metadata, newest first, among the newest thousand.

        The metadata says what was published, not what the commit holds: a merge brings other files too.
        """
        with self.connection.convert_errors(tr("reading the log")):
            log = self.connection.sdk.refs_api.log_commits(self.connection.repo, head, amount=1000)
            commits = map(parse_commit, log.results)
            return [commit.id for commit in commits if commit.metadata.get(key) == value]

    def _compare(self, job: _Publication, ref: str) -> _Changes:
        """Return the paths to upload and to remove so that `ref` holds the publication."""
        missing, remove = dict(job.wanted), list[str]()
        for remote in self.queries.objects(ref, job.prefix):
            file = job.wanted.get(remote.path)
            if file is None:
                remove.append(remote.path)
            elif _same_content(remote, file):
                del missing[remote.path]
        return _Changes(list(missing), remove if job.mirror else [])

    def _stage(self, job: _Publication, changes: _Changes) -> None:
        """Upload what the private branch lacks, largest first. Raises AppError naming every file that failed."""
        wanted = job.wanted
        sizes = {path: wanted[path].path.stat().st_size for path in changes.upload if wanted[path].path.exists()}
        largest_first = sorted(changes.upload, key=lambda path: -sizes.get(path, 0))
        results = parallel(
            lambda path: self.upload(job.branch, path, wanted[path]), largest_first, self.connection.workers
        )
        for _ in iterate_successes(
            progress(
                results, len(largest_first), tr("upload to lakeFS"), tr("files"), self.connection.transfer.http.moved
            ),
            lambda count: trn(
                "{count} file could not be uploaded, nothing was committed; run again to continue",
                "{count} files could not be uploaded, nothing was committed; run again to continue",
                count,
            ),
        ):
            pass
        self.remove(job.branch, changes.remove)

    def remove(self, branch: str, paths: list[str]) -> None:
        """Stage the removal of objects."""
        import lakefs_sdk

        with self.connection.convert_errors(tr("removing files")):
            for start in range(0, len(paths), 1000):
                page = lakefs_sdk.PathList(paths=paths[start : start + 1000])
                self.connection.sdk.objects_api.delete_objects(self.connection.repo, branch, page)

    def upload(self, branch: str, path: str, file: LocalFile) -> None:
        """Upload one file to a branch with its SHA-256 as user metadata. Raises AppError, OSError."""
        with self.connection.convert_errors(tr("uploading {path}", path=path)):
            self.connection.transfer.upload(self.connection.repo, branch, path, file, self.connection.journals)

    def commit_staged(self, branch: str, message: str, metadata: Mapping[str, str]) -> CommitId:
        """Commit what is staged; 'no changes' after a lost response or a kill means that the head is that commit."""
        import lakefs_sdk
        from lakefs_sdk.exceptions import ApiException

        creation = lakefs_sdk.CommitCreation(message=message, metadata=dict(metadata))
        with self.connection.convert_errors(tr("commit")):
            try:
                return CommitId(self.connection.sdk.commits_api.commit(self.connection.repo, branch, creation).id)
            except ApiException as error:
                if error.status == 400 and "no changes" in server_message(error):
                    return self.queries.head(branch)
                raise

    def merge_into_target(self, source: str, message: str, metadata: Mapping[str, str]) -> CommitId | None:
        """Merge into the target and return the merge; its head if that is done already; None after a conflict."""
        import lakefs_sdk
        from lakefs_sdk.exceptions import ApiException

        merge = lakefs_sdk.Merge(message=message, metadata=dict(metadata))
        with self.merger.changing_target(tr("merge into {branch}", branch=self.connection.branch)):
            try:
                return CommitId(
                    self.connection.sdk.refs_api.merge_into_branch(
                        self.connection.repo, source, self.connection.branch, merge=merge
                    ).reference
                )
            except ApiException as error:
                if error.status == 409:
                    return None
                if error.status in (400, 404) and ("no changes" in server_message(error) or error.status == 404):
                    # Another process with the same files was first, or the response was lost.
                    return self.queries.head()
                raise


def _same_content(remote: RemoteFile, file: LocalFile) -> bool:
    """Compare by the SHA-256 that was published with it; objects of other clients or an import have only the MD5."""
    if remote.sha256 is not None or not file.path.exists() or remote.size_bytes != file.path.stat().st_size:
        return remote.sha256 == file.sha256
    return remote.checksum == file_md5(file.path)
