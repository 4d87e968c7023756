"""Merge commits into the target branch, or revert them, on the server: no file is transferred."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from core.errors import AppError
from core.i18n import tr
from utils.identifiers import CommitId
from utils.lakefs_client.connection import Connection, server_message
from utils.lakefs_client.queries import Queries


class MergeConflict(AppError):
    """Merge in which both sides changed the same files; nothing was merged."""


class Merger:
    """Merges and reverts on the target branch."""

    def __init__(self, connection: Connection, queries: Queries) -> None:
        self.connection = connection
        self.queries = queries

    @contextlib.contextmanager
    def changing_target(self, what: str) -> Iterator[None]:
        """Like `Connection.convert_errors`; if the server refuses because of changes staged on the target, name them."""
        from lakefs_sdk.exceptions import ApiException

        with self.connection.convert_errors(what):
            try:
                yield
            except ApiException as error:
                if error.status == 400 and "dirty branch" in server_message(error):
                    raise self._staged_changes_error() from error
                raise

    def _staged_changes_error(self) -> AppError:
        """Return the error for changes staged on the target branch, which block every merge into it."""
        with self.connection.convert_errors(tr("branch {branch}", branch=self.connection.branch)):
            page = self.connection.sdk.branches_api.diff_branch(self.connection.repo, self.connection.branch, amount=10)
        names = ", ".join(str(change.path) for change in page.results) + (", …" if page.pagination.has_more else "")
        place = f"lakefs://{self.connection.repo}/{self.connection.branch}"
        return AppError(
            tr(
                "branch {branch} ({endpoint}) has uncommitted changes, nothing can be merged: {names}. "
                "Commit them (lakectl commit {place} -m ...) or discard them (lakectl branch reset {place}), "
                "then run again",
                branch=self.connection.branch,
                endpoint=self.connection.endpoint,
                names=names,
                place=place,
            )
        )

    def merge_commit(self, commit_id: str, message: str, metadata: Mapping[str, str]) -> CommitId:
        """Merge a commit of another branch into the target and return the target's head; it may be merged already.

        If only model files conflict, those of `commit_id` win. Raises Conflict naming conflicting data files.
        """
        import lakefs_sdk
        from lakefs_sdk.exceptions import ApiException

        conflicts = [
            d.path
            for d in self.queries.differences(self.connection.branch, commit_id, "three_dot")
            if d.type == "conflict"
        ]
        if any(path.startswith("data/") for path in conflicts):
            raise _conflict(self.connection.branch, commit_id, conflicts)
        strategy = {"strategy": "source-wins"} if conflicts else {}
        merge = lakefs_sdk.Merge(message=message, metadata=dict(metadata), **strategy)
        with self.changing_target(tr("merge into {branch}", branch=self.connection.branch)):
            try:
                self.connection.sdk.refs_api.merge_into_branch(
                    self.connection.repo, commit_id, self.connection.branch, merge=merge
                )
            except ApiException as error:
                if error.status == 409:
                    raise _conflict(self.connection.branch, commit_id, conflicts) from error
                if not (error.status == 400 and "no changes" in server_message(error)):
                    raise
        return self.queries.head()

    def revert(self, commit_id: str, message: str, metadata: Mapping[str, str]) -> CommitId:
        """Revert one commit on the target branch by a new one, a merge against its first parent; return the new head."""
        import lakefs_sdk
        from lakefs_sdk.exceptions import ApiException

        before = self.queries.head()
        with self.changing_target(tr("reverting {commit_id}", commit_id=commit_id[:12])):
            parents = self.connection.sdk.commits_api.get_commit(self.connection.repo, commit_id).parents
            creation = lakefs_sdk.RevertCreation(
                ref=commit_id,
                parent_number=1 if len(parents) > 1 else 0,
                commit_overrides=lakefs_sdk.CommitOverrides(message=message, metadata=dict(metadata)),
            )
            try:
                self.connection.sdk.branches_api.revert_branch(self.connection.repo, self.connection.branch, creation)
            except ApiException as error:
                if error.status != 409 and "no changes" not in server_message(error):
                    raise
                if not self._is_committed(before, message, metadata):
                    raise _not_revertible(self.connection.branch, commit_id) from error
        return self.queries.head()

    def _is_committed(self, before: str, message: str, metadata: Mapping[str, str]) -> bool:
        """Return whether the target's head is this commit on `before`: then only the response was lost."""
        head = self.queries.commit(self.queries.head())
        same_metadata = metadata.items() <= (head.metadata).items()
        return bool(before in head.parents and head.message == message and same_metadata)


def _not_revertible(branch: str, commit_id: str) -> AppError:
    return AppError(
        tr(
            "{commit_id} cannot be reverted on {branch}: the same files changed after it, or it is reverted "
            "already (instead: lake.py pull an older version, then push)",
            commit_id=commit_id[:12],
            branch=branch,
        )
    )


def _conflict(branch: str, commit_id: str, paths: Sequence[str]) -> MergeConflict:
    """Return the error for files that both sides changed."""
    names = ", ".join(paths[:10]) + (tr(" and {count} more", count=len(paths) - 10) if len(paths) > 10 else "")
    return MergeConflict(
        tr(
            "{commit_id} cannot be merged into {branch}: both sides changed {names}: nothing was merged. "
            "Download the data of {branch} (lake.py pull {branch}), apply your changes to it, and train again",
            commit_id=commit_id[:12],
            branch=branch,
            names=names,
        )
    )
