"""Files published as one commit of the target branch, on which nothing is ever staged.

A publication has a private branch, whose name comes from what is published, where to and how, so that a call after a kill
finds what the first one had sent and goes on from there.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from core.errors import AppError
from core.i18n import tr
from core.reporting import progress
from core.workers import parallel, succeeded
from utils.lakefs_client.connection import server_words
from utils.lakefs_client.content import LocalFile, RemoteFile
from utils.lakefs_client.merge import Merging
from utils.lakefs_client.refs import References


@dataclass(frozen=True)
class Published:
    """What `LakeFS.publish` did: the commit that holds the files, and how many were sent and removed."""

    commit_id: str
    uploaded: int
    removed: int


def manifest_sha256(files: Mapping[str, LocalFile]) -> str:
    """One hash for a set of files, equal on every server: SHA-256 over the sorted lines `<sha256>  <path>`."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{files[path].sha256}  {path}\n".encode())
    return digest.hexdigest()


class Publishing(References, Merging):
    """Files into the repository."""

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
        work, metadata = self._private(prefix, digest, mirror), {**metadata, key: digest}
        differing = functools.partial(self._changes, prefix=prefix, wanted=wanted, mirror=mirror)
        for _ in range(5):  # somebody else may change the same files on the target meanwhile: then start from theirs
            head = self.head()
            changes = differing(head)
            if not any(changes):
                with contextlib.suppress(AppError):  # of a call whose merge was its last deed; most often there is none
                    self.delete_branch(work)
                known = (commit for commit in self._commits_with(head, key, digest) if not any(differing(commit)))
                return Published(next(known, head), 0, 0)  # the commit that brought them: equal data keep one name
            with self.explained(tr("private branch")):
                is_new = self.create_branch(work, head)
            try:
                if not is_new and not self.contains(work, head):
                    self._catch_up(work, head, message, metadata)
                # A branch that was there already holds what an earlier call had sent.
                self._stage(work, wanted, *(changes if is_new else differing(work)))
                commit_id = self._commit(work, message, metadata)
                merged = self._merge(work, message, metadata)
            except AppError:
                if not self._is_gone(work):
                    raise
                continue  # another process with the same files merged it and took the branch away
            if merged is None:
                continue
            with contextlib.suppress(AppError):  # already gone, or left behind: it holds nothing that is not merged
                self.delete_branch(work)
            if self._holds(merged, head) or not any(differing(merged)):
                return Published(merged, *map(len, changes))
            if not any(differing(commit_id)):  # somebody else's files were merged in between
                return Published(commit_id, *map(len, changes))
        raise AppError(
            tr(
                "could not merge {prefix} into {branch}, which keeps changing: run again in a while",
                prefix=prefix,
                branch=self.branch,
            )
        )

    def _private(self, prefix: str, digest: str, mirror: bool) -> str:
        """The private branch: what was staged for another target, or with removals, must not get into this publication."""
        purpose = hashlib.sha256(f"{digest} {self.branch} {mirror}".encode()).hexdigest()
        return f"sync-{prefix.rstrip('/')}-{purpose[:24]}"

    def _is_gone(self, branch: str) -> bool:
        """Whether a branch is known to be gone: a server that does not answer says nothing."""
        try:
            return not self.has_branch(branch)
        except AppError:
            return False

    def _catch_up(self, work: str, head: str, message: str, metadata: Mapping[str, str]) -> None:
        """Bring a private branch that grew from an older head to `head`, and keep what was sent to it.

        What both changed stays as it was sent; what the target holds besides is there then, and can be compared.
        """
        import lakefs_sdk
        from lakefs_sdk.exceptions import ApiException

        self._commit(work, message, metadata)  # a merge wants nothing staged
        merge = lakefs_sdk.Merge(message=message, metadata=dict(metadata), strategy="dest-wins")
        with self.explained(tr("private branch")):
            try:
                self.sdk.refs_api.merge_into_branch(self.repo, head, work, merge=merge)
            except ApiException as error:  # the answer of a first merge was lost
                if not (error.status == 400 and "no changes" in server_words(error)):
                    raise

    def _holds(self, merged: str, head: str) -> bool:
        """Whether a merge went right onto the head that was compared with: then it holds what was merged and no more."""
        return bool(self.commit(merged).parents[0] == head)

    def _commits_with(self, head: str, key: str, value: str) -> list[str]:
        """Commits behind `head` with this metadata, newest first, of the newest thousand.

        It says what was published, not what the commit holds: a merge brings other people's files too.
        """
        with self.explained(tr("reading the log")):
            log = self.sdk.refs_api.log_commits(self.repo, head, amount=1000)
        return [str(commit.id) for commit in log.results if (commit.metadata or {}).get(key) == value]

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
        results = parallel(lambda path: self.upload(branch, path, wanted[path]), largest_first, self.workers)
        label = tr("upload to lakeFS")
        for _ in succeeded(
            progress(results, len(send), label, tr("files")),
            lambda count: tr("{count} files could not be sent, nothing was committed; run again to go on", count=count),
        ):
            pass
        self.remove(branch, remove)

    def remove(self, branch: str, paths: list[str]) -> None:
        """Stage the removal of objects."""
        import lakefs_sdk

        with self.explained(tr("removing files")):
            for start in range(0, len(paths), 1000):
                page = lakefs_sdk.PathList(paths=paths[start : start + 1000])
                self.sdk.objects_api.delete_objects(self.repo, branch, page)

    def upload(self, branch: str, path: str, file: LocalFile) -> None:
        """Send one file to a branch with its SHA-256 as user metadata. Raises AppError, OSError."""
        with self.explained(tr("uploading {path}", path=path)):
            self.transfer.upload(self.repo, branch, path, file, self.journals)

    def _commit(self, branch: str, message: str, metadata: Mapping[str, str]) -> str:
        """Commit what is staged; 'no changes' after a lost answer or a kill means that the head is that commit."""
        import lakefs_sdk
        from lakefs_sdk.exceptions import ApiException

        creation = lakefs_sdk.CommitCreation(message=message, metadata=dict(metadata))
        with self.explained(tr("commit")):
            try:
                return str(self.sdk.commits_api.commit(self.repo, branch, creation).id)
            except ApiException as error:
                if error.status == 400 and "no changes" in server_words(error):
                    return self.head(branch)
                raise

    def _merge(self, source: str, message: str, metadata: Mapping[str, str]) -> str | None:
        """Merge into the target; its head when that is done already; None after a conflict."""
        import lakefs_sdk
        from lakefs_sdk.exceptions import ApiException

        merge = lakefs_sdk.Merge(message=message, metadata=dict(metadata))
        with self.changing_target(tr("merge into {branch}", branch=self.branch)):
            try:
                return str(self.sdk.refs_api.merge_into_branch(self.repo, source, self.branch, merge=merge).reference)
            except ApiException as error:
                if error.status == 409:
                    return None
                if error.status in (400, 404) and ("no changes" in server_words(error) or error.status == 404):
                    return self.head()  # another process with the same files was first, or the answer was lost
                raise


def _same_content(remote: RemoteFile, file: LocalFile) -> bool:
    """By the SHA-256 that was published with it; what other clients or an import brought has only the MD5."""
    if remote.sha256 is not None or not file.path.exists() or remote.size_bytes != file.path.stat().st_size:
        return remote.sha256 == file.sha256
    with file.path.open("rb") as stream:
        return remote.checksum == hashlib.file_digest(stream, "md5").hexdigest()
