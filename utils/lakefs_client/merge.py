"""Commits brought to the target branch, or undone on it, by the server's own merge: no file passes through here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from core.errors import AppError
from core.i18n import tr
from utils.lakefs_client.connection import server_words
from utils.lakefs_client.queries import Reading


class Conflict(AppError):
    """Both sides changed the same files: nothing was merged."""


class Merging(Reading):
    """Merge and revert, with conflicts explained."""

    @contextlib.contextmanager
    def changing_target(self, what: str) -> Iterator[None]:
        """As `explained`; where the server refuses because of files staged on the target, they are named."""
        from lakefs_sdk.exceptions import ApiException

        with self.explained(what):
            try:
                yield
            except ApiException as error:
                if error.status == 400 and "dirty branch" in server_words(error):
                    raise self._dirty() from error
                raise

    def _dirty(self) -> AppError:
        """Somebody has staged files on the target branch itself, which keeps everybody from merging into it."""
        with self.explained(tr("branch {branch}", branch=self.branch)):
            page = self.sdk.branches_api.diff_branch(self.repo, self.branch, amount=10)
        names = ", ".join(str(change.path) for change in page.results) + ", …" * bool(page.pagination.has_more)
        place = f"lakefs://{self.repo}/{self.branch}"
        return AppError(
            tr(
                "branch {branch} ({endpoint}) holds somebody's uncommitted changes, nothing can "
                "be merged: {names}. Commit them (lakectl commit {place} -m ...) or drop them "
                "(lakectl branch reset {place}), then run again",
                branch=self.branch,
                endpoint=self.endpoint,
                names=names,
                place=place,
            )
        )

    def merge_commit(self, commit_id: str, message: str, metadata: Mapping[str, str]) -> str:
        """Merge a commit of another branch into the target and return the target's head; nothing to do is no error.

        Where only model files conflict, those of `commit_id` win. Raises Conflict naming the data that do.
        """
        import lakefs_sdk
        from lakefs_sdk.exceptions import ApiException

        conflicts = [d.path for d in self.differences(self.branch, commit_id, "three_dot") if d.type == "conflict"]
        if any(path.startswith("data/") for path in conflicts):
            raise _conflict(self.branch, commit_id, conflicts)
        strategy = {"strategy": "source-wins"} if conflicts else {}
        merge = lakefs_sdk.Merge(message=message, metadata=dict(metadata), **strategy)
        with self.changing_target(tr("merge into {branch}", branch=self.branch)):
            try:
                self.sdk.refs_api.merge_into_branch(self.repo, commit_id, self.branch, merge=merge)
            except ApiException as error:
                if error.status == 409:
                    raise _conflict(self.branch, commit_id, conflicts) from error
                if not (error.status == 400 and "no changes" in server_words(error)):
                    raise
        return self.head()

    def revert(self, commit_id: str, message: str, metadata: Mapping[str, str]) -> str:
        """Undo one commit on the target branch by a new one, a merge against its first parent; returns the new head."""
        import lakefs_sdk
        from lakefs_sdk.exceptions import ApiException

        before = self.head()
        with self.changing_target(tr("reverting {commit_id}", commit_id=commit_id[:12])):
            parents = self.sdk.commits_api.get_commit(self.repo, commit_id).parents
            creation = lakefs_sdk.RevertCreation(
                ref=commit_id,
                parent_number=1 if len(parents) > 1 else 0,
                commit_overrides=lakefs_sdk.CommitOverrides(message=message, metadata=dict(metadata)),
            )
            try:
                self.sdk.branches_api.revert_branch(self.repo, self.branch, creation)
            except ApiException as error:
                if error.status != 409 and "no changes" not in server_words(error):
                    raise
                if not self._is_made(before, message, metadata):
                    raise _not_revertible(self.branch, commit_id) from error
        return self.head()

    def _is_made(self, before: str, message: str, metadata: Mapping[str, str]) -> bool:
        """Whether the target's head is a commit on `before` with these words: then only the answer was lost."""
        head = self.commit(self.head())
        said = metadata.items() <= (head.metadata or {}).items()
        return bool(before in head.parents and head.message == message and said)


def _not_revertible(branch: str, commit_id: str) -> AppError:
    return AppError(
        tr(
            "{commit_id} cannot be reverted on {branch}: the same files changed after it, or it "
            "is reverted already (lake.py pull an older version, then push)",
            commit_id=commit_id[:12],
            branch=branch,
        )
    )


def _conflict(branch: str, commit_id: str, paths: list[str]) -> Conflict:
    """Both sides changed the same files."""
    names = ", ".join(paths[:10]) + (tr(" and {count} more", count=len(paths) - 10) * (len(paths) > 10))
    return Conflict(
        tr(
            "{commit_id} cannot be merged into {branch}: both sides changed {names}: nothing was "
            "merged. Get the data of {branch} (lake.py pull {branch}), put yours into it, and "
            "train again",
            commit_id=commit_id[:12],
            branch=branch,
            names=names,
        )
    )
