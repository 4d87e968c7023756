"""Copy the history of the embedded store to a lakeFS server.

A server computes its own commit ids. Each copied commit has its old id in its metadata and as the name of a tag: every
old id in lakefs.lock, MLflow or a Git message resolves there, for every client of lakeFS. The tags are also the journal:
a tagged commit is not copied again, so that a call after a kill continues.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import tempfile
import uuid
from collections.abc import Iterable
from pathlib import Path

from config import Settings
from core.errors import AppError, UsageError
from core.i18n import tr, trn
from core.reporting import progress, result
from core.threads.workers import iterate_successes, parallel
from utils.identifiers import CommitId, ObjectPath
from utils.lakefs_client.content import LocalFile, RemoteFile, content_type
from utils.lakefs_client.responses import Commit
from utils.lakefs_utils import LakeFS, connect

EMBEDDED_ID = "embedded_commit_id"  # metadata of a copied commit: its id in the embedded store
DATE = "embedded_creation_date"  # its creation time there, in seconds since 1970: a merge cannot be given a date
PRIVATE = re.compile(r"(sync|import|copy)-\S*[0-9a-f]{24}")  # branches of interrupted calls, or of calls in progress


def copy_history(settings: Settings, url: str) -> None:
    """Copy branches and tags of the embedded repository with all their commits to the server at `url`.

    Raises UsageError, before anything is copied, for a target with another history.
    """
    if not (settings.lakefs_local_dir / "lakefs.db").exists():
        raise UsageError(
            tr(
                "{lakefs_local_dir}: no embedded store to copy (LAKEFS_LOCAL_DIR)",
                lakefs_local_dir=settings.lakefs_local_dir,
            )
        )
    embedded = dataclasses.replace(settings, lakefs_endpoint=None)
    server = dataclasses.replace(settings, lakefs_endpoint=url)
    with connect(embedded) as source:
        source.resolve(source.branch)  # raises UsageError if it is missing
        branch = source.default_branch()
    with connect(embedded, branch=branch) as source, connect(server, branch=branch) as target:
        target.ensure_repository(server)
        _Migration(source, target).run()


class _Migration:
    """The migration of one repository from `source` to `target`."""

    def __init__(self, source: LakeFS, target: LakeFS) -> None:
        self.source, self.target = source, target
        branches = source.list_refs("branches")
        self.branches = {name: commit for name, commit in branches if not PRIVATE.fullmatch(name)}
        self.tags = dict(source.list_refs("tags", copied=True))
        self.commits = self._history([*self.branches.values(), *self.tags.values()])
        tagged = target.list_refs("tags", copied=True)
        self.copies = {CommitId(name): commit for name, commit in tagged if name in self.commits}

    def run(self) -> None:
        """Copy what is missing, then set branches and tags; compare both ends at last."""
        self._match_existing()
        self._require_no_divergence()
        missing = [commit for commit in self.commits.values() if commit.id not in self.copies]
        for commit in progress(missing, len(missing), tr("copying the history"), tr("commits")):
            self.copies[commit.id] = self._copy(commit)
        self._set_refs()
        for commit_id in {*self.branches.values(), *self.tags.values()}:
            self._require_same(commit_id)
        result(
            tr(
                "copied to {repo} on {endpoint}: commits: {count} ({missing} in this call), branches: "
                "{branches}, tags: {tags}. Set LAKEFS_ENDPOINT to this server from now on",
                repo=self.target.repo,
                endpoint=self.target.endpoint,
                count=len(self.commits),
                missing=len(missing),
                branches=len(self.branches),
                tags=len(self.tags),
            )
        )

    def _history(self, heads: Iterable[CommitId]) -> dict[CommitId, Commit]:
        """Return commits by their id, parents before children."""
        found: dict[CommitId, Commit] = {}
        due = list(heads)
        while due:
            commit_id = due.pop()
            if commit_id not in found:
                found[commit_id] = self.source.commit(commit_id)
                due += found[commit_id].parents
        return dict(sorted(found.items(), key=lambda item: (item[1].generation, item[0])))

    # --- checks of the target ----------------------------------------------------------------------------------

    def _match_existing(self) -> None:
        """Check by its tags that the target has this history; tag the first commit of a new, empty repository."""
        first = next(iter(self.commits))
        if self.copies:
            self.copies.setdefault(
                first, first
            )  # both created in the same second: a tag cannot have the id of its own commit
            return
        ours = {_branch_name(commit_id) for commit_id in self.commits}  # of an interrupted call
        heads = {commit for name, commit in self.target.list_refs("branches") if name not in ours}
        if any(self.target.commit(head).parents for head in heads) or any(self.target.list_refs("tags", copied=True)):
            raise UsageError(
                tr(
                    "repository {repo} on {endpoint} has another history: nothing was copied. Copy before "
                    "lake.py setup and training there, or to a server without this repository",
                    repo=self.target.repo,
                    endpoint=self.target.endpoint,
                )
            )
        self.copies[first] = self._tag(first, next(iter(heads)))

    def _require_no_divergence(self) -> None:
        """Raise UsageError naming branches and tags that were moved on the target independently."""
        origins = {copy: origin for origin, copy in self.copies.items()}
        moved = [
            name
            for name, head in self.target.list_refs("branches")
            if name in self.branches and not (head in origins and self.source.contains(name, origins[head]))
        ]
        tags = dict(self.target.list_refs("tags", copied=True))
        moved += [name for name, commit in self.tags.items() if tags.get(name) not in (None, self.copies.get(commit))]
        if moved:
            names = ", ".join(sorted(moved))
            raise UsageError(
                tr(
                    "{repo} on {endpoint} has diverged: {names}: nothing was copied",
                    repo=self.target.repo,
                    endpoint=self.target.endpoint,
                    names=names,
                )
            )

    # --- commits --------------------------------------------------------------------------------------------------

    def _copy(self, commit: Commit) -> CommitId:
        """Copy one commit on a private branch, then tag it; return its id on the target."""
        work, parents = _branch_name(commit.id), [self.copies[parent] for parent in commit.parents]
        with self.target.convert_errors(tr("private branch")):
            is_new = self.target.create_branch(work, parents[0])
        if is_new or self._find_copy(work, commit, parents) is None:
            if len(parents) > 1:
                self.target.migration.merge(work, parents[1], commit, self._metadata(commit))
            else:
                self._stage(work, commit, is_new)
                self.target.migration.commit(work, commit, self._metadata(commit))
        copied = self._find_copy(work, commit, parents)
        if copied is None:
            raise AppError(
                tr(
                    "{id} was not copied to {target!r}: the branch {work} changed meanwhile: run again",
                    id=commit.id,
                    target=self.target,
                    work=work,
                )
            )
        self._tag(commit.id, copied)
        self.target.delete_branch(work)
        return copied

    def _find_copy(self, work: str, commit: Commit, parents: list[CommitId]) -> CommitId | None:
        """Return the copy on the private branch; not an empty second one that a lost response may have added on top."""
        for found in itertools.islice(self.target.log(work), 5):
            if found.metadata.get(EMBEDDED_ID) == commit.id and found.parents == parents:
                return found.id
        return None

    def _metadata(self, commit: Commit) -> dict[str, str]:
        """Return the commit's metadata without what the server adds, and with its old id and date."""
        own = {key: value for key, value in commit.metadata.items() if not key.startswith(".lakefs.")}
        return {**own, EMBEDDED_ID: commit.id, DATE: str(commit.creation_date)}

    def _tag(self, name: str, commit_id: CommitId) -> CommitId:
        """Tag the copy with the old id and return its id; another process may have done so with an equal copy."""
        if name != commit_id:
            try:
                self.target.set_tag(name, commit_id)
            except AppError:
                return self.target.resolve(name)
        return commit_id

    # --- files ----------------------------------------------------------------------------------------------------

    def _stage(self, work: str, commit: Commit, is_new: bool) -> None:
        """Stage the files of the commit on the private branch, except those that an earlier call uploaded."""
        existing = {} if is_new else {f.path: (f.sha256, f.checksum) for f in self.target.objects(work, "")}
        removed: list[str] = []

        def changed() -> Iterable[ObjectPath]:
            for change in self.source.differences(commit.parents[0], commit.id):
                if change.type != "removed":
                    yield change.path
                elif is_new or change.path in existing:
                    removed.append(change.path)

        with tempfile.TemporaryDirectory() as folder:
            results = parallel(
                lambda path: self._send(work, commit.id, path, Path(folder), existing.get(path)), changed()
            )
            label = tr("copying the files of {id}", id=commit.id[:12])
            for _ in iterate_successes(
                progress(results, None, label, tr("files")),
                lambda count: trn(
                    "{count} file could not be copied; run again to continue",
                    "{count} files could not be copied; run again to continue",
                    count,
                ),
            ):
                pass
        self.target.remove(work, removed)

    def _send(
        self, work: str, commit_id: CommitId, path: ObjectPath, folder: Path, existing: tuple[str | None, str] | None
    ) -> None:
        """Copy one object with its metadata and type, which the next merge compares too."""
        source, target = self.source.migration, self.target
        remote, metadata, kind = source.stat(commit_id, path)
        if existing and (existing[0] == remote.sha256 if remote.sha256 else existing[1] == remote.checksum):
            return
        file = folder / uuid.uuid4().hex
        source.download(commit_id, remote, file)
        if set(metadata) == {"sha256"} and kind == content_type(path):
            target.upload(work, path, LocalFile(file, metadata["sha256"]))
        else:  # an object of another client, as it is
            target.migration.upload_as_is(work, remote, file, metadata, kind)
        file.unlink()

    # --- names ----------------------------------------------------------------------------------------------------

    def _set_refs(self) -> None:
        """Set branches and tags, each atomically; delete private branches that a kill has left."""
        heads, tags = dict(self.target.list_refs("branches")), dict(self.target.list_refs("tags", copied=True))
        for name, commit_id in self.branches.items():
            wanted = self.copies[commit_id]
            with self.target.convert_errors(tr("branch {name}", name=name)):
                if name not in heads:
                    self.target.create_branch(name, wanted)
                elif heads[name] != wanted:
                    self.target.migration.reset_branch(name, wanted)
        for name, commit_id in self.tags.items():
            if name not in tags:
                self.target.set_tag(name, self.copies[commit_id])
        for name in heads.keys() & {_branch_name(commit_id) for commit_id in self.commits}:
            self.target.delete_branch(name)

    def _require_same(self, commit_id: CommitId) -> None:
        """Raise AppError naming the first file that differs between a commit and its copy."""
        sides = (lake.objects(commit, "") for lake, commit in self._ends(commit_id))
        for ours, theirs in itertools.zip_longest(*sides):
            if _identity(ours) != _identity(theirs):
                path = (ours or theirs).path
                raise AppError(
                    tr(
                        "the copy of {commit_id} differs: {path} ({target!r})",
                        commit_id=commit_id,
                        path=path,
                        target=self.target,
                    )
                )

    def _ends(self, commit_id: CommitId) -> tuple[tuple[LakeFS, str], tuple[LakeFS, str]]:
        return (self.source, commit_id), (self.target, self.copies[commit_id])


def _branch_name(commit_id: str) -> str:
    """Return the branch on which a commit is copied."""
    return f"copy-{commit_id[:24]}"


def _identity(file: RemoteFile | None) -> object:
    """Return what is equal on both servers; the checksum of a multipart upload is not."""
    return file and (file.path, file.size_bytes, file.sha256 or file.checksum)
