"""Commits brought to the target branch, or undone on it, by the server's own merge: no file passes through here."""

from __future__ import annotations

from collections.abc import Mapping

from utils.console import AppError, t
from utils.lakefs_client.connection import server_words
from utils.lakefs_client.reading import Reading


class Merging(Reading):
    """Merge and revert, with conflicts explained."""

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
        with self.explained(t(f"{self.branch} 에 병합", f"merge into {self.branch}")):
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

        with self.explained(t(f"되돌리기 {commit_id[:12]}", f"reverting {commit_id[:12]}")):
            parents = self.sdk.commits_api.get_commit(self.repo, commit_id).parents
            creation = lakefs_sdk.RevertCreation(
                ref=commit_id,
                parent_number=1 if len(parents) > 1 else 0,
                commit_overrides=lakefs_sdk.CommitOverrides(message=message, metadata=dict(metadata)),
            )
            try:
                self.sdk.branches_api.revert_branch(self.repo, self.branch, creation)
            except ApiException as error:
                if error.status == 409 or "no changes" in server_words(error):
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
