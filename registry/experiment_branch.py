"""Merge or delete the lakeFS branch of an experiment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.errors import AppError
from core.i18n import tr
from core.reporting import notify
from utils import mlflow_utils
from utils.lakefs_utils import LakeFS
from utils.lineage import require_repository

if TYPE_CHECKING:
    from mlflow.entities import Run


def experiment_branch(lake: LakeFS, run: Run) -> str | None:
    """Return the branch that an experiment run published to; None for a run that published to its target."""
    tags = run.data.tags
    branch = tags.get("lakefs_branch")
    return branch if "lakefs_target_branch" in tags and branch != lake.branch else None


def merge_experiment(lake: LakeFS, run: Run) -> None:
    """Merge an experiment's commit into the target branch: a champion must not depend on a branch that may be deleted.

    The run's own commit is merged, not what its branch has become since. Raises AppError, after a conflict too.
    """
    branch = experiment_branch(lake, run)
    if branch is None:
        return
    lineage = mlflow_utils.run_lineage(run)
    source = lineage.model_path
    require_repository(lake.repo, lineage.run_id, source.repo)
    if not lake.contains(lake.branch, source.ref):
        metadata = {"mlflow_run_id": lineage.run_id, "model_sha256": lineage.model_sha256, "experiment_branch": branch}
        git = {key: value for key, value in run.data.tags.items() if key.startswith("git_")}
        head = lake.merge_commit(source.ref, f"merge experiment {branch}", git | metadata)
        notify(tr("merged {branch} into {lake_branch}: {head}", branch=branch, lake_branch=lake.branch, head=head))
    if not lake.contains(lake.branch, source.ref):
        raise AppError(tr("{source} is not on {branch} after the merge", source=source, branch=lake.branch))


def delete_experiment(lake: LakeFS, run: Run) -> None:
    """Delete an experiment's branch unless it holds commits that the target lacks."""
    branch = experiment_branch(lake, run)
    head = dict(lake.list_refs("branches")).get(branch or "")
    if branch is None or head is None:
        return
    if lake.contains(lake.branch, head):
        lake.delete_branch(branch)
        notify(tr("deleted the branch {branch}", branch=branch))
    else:
        notify(
            tr(
                "kept the branch {branch}: it holds commits that {lake_branch} lacks",
                branch=branch,
                lake_branch=lake.branch,
            )
        )
