"""Merge or delete the lakeFS branch of an experiment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.console import say
from core.errors import AppError, UsageError
from core.i18n import t
from utils import mlflow_utils
from utils.lakefs_utils import LakeFS

if TYPE_CHECKING:
    from mlflow.entities import Run


def _experiment(lake: LakeFS, run: Run) -> str | None:
    """The branch of its own that a run published to; None for one that published to its target."""
    tags = run.data.tags
    branch = tags.get("lakefs_branch")
    return branch if "lakefs_target_branch" in tags and branch != lake.branch else None


def _merge_experiment(lake: LakeFS, run: Run) -> None:
    """Bring an experiment's commit into the target branch: a champion must not hang on a branch that may go.

    The run's own commit is merged, not what its branch has become since. Raises AppError, after a conflict too.
    """
    branch = _experiment(lake, run)
    if branch is None:
        return
    lineage = mlflow_utils.run_lineage(run)
    source = lineage.model_path
    if source.repo != lake.repo:
        raise UsageError(
            t(
                f"실행 {lineage.run_id} 의 저장소는 {source.repo} 입니다: LAKEFS_REPO={source.repo} 로 실행하세요",
                f"run {lineage.run_id} is of repository {source.repo}: run with LAKEFS_REPO={source.repo}",
            )
        )
    if not lake.contains(lake.branch, source.ref):
        metadata = {"mlflow_run_id": lineage.run_id, "model_sha256": lineage.model_sha256, "experiment_branch": branch}
        git = {key: value for key, value in run.data.tags.items() if key.startswith("git_")}
        head = lake.merge_commit(source.ref, f"merge experiment {branch}", git | metadata)
        say(f"{branch} 을(를) {lake.branch} 에 병합했습니다: {head}", f"merged {branch} into {lake.branch}: {head}")
    if not lake.contains(lake.branch, source.ref):
        raise AppError(
            t(f"{source} 이(가) {lake.branch} 에 없습니다", f"{source} is not on {lake.branch} after the merge")
        )


def delete_experiment(lake: LakeFS, run: Run) -> None:
    """Delete an experiment's branch, unless it holds commits that the target lacks: those would be lost with it."""
    branch = _experiment(lake, run)
    head = dict(lake.named("branches")).get(branch or "")
    if branch is None or head is None:
        return
    if lake.contains(lake.branch, head):
        lake.delete_branch(branch)
        say(f"브랜치를 지웠습니다: {branch}", f"deleted the branch {branch}")
    else:
        say(
            f"브랜치 {branch} 에 병합하지 않은 커밋이 있어 지우지 않았습니다",
            f"kept the branch {branch}: it holds commits that {lake.branch} lacks",
        )
