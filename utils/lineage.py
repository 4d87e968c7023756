"""The lineage of a model: its run, code, data and model paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import UsageError, one_line
from core.i18n import tr
from utils.identifiers import CommitId, GitCommit, RecordedRun, RunId, Sha256
from utils.lakefs_utils import LakePath

RELEASE_TAG = "lakefs_release_path"  # of a version: the directory of its release in lakeFS
PARENT_TAG, FOLD_TAG = "mlflow.parentRunId", "fold"  # of a run that belongs to another one; number of a fold, from 1
FIRST_EPOCH = "first_epoch"  # tag of a run, and key of metrics.json: the step of its first epoch
# What a model started from (--init): parameters of its run, metadata of its commit, keys of its file.
INIT, INIT_SHA256, INIT_RUN_ID, INIT_DATA_PATH = INIT_KEYS = (
    *("init", "init_sha256"),  # a reference that does not move, and the SHA-256 of the file
    *("init_run_id", "init_data_path"),  # of its training; empty if they are not known
)
# Only of a file that is in no commit of its training: what that model had started from, which no record leads to.
INIT_START = "init_start"
CLASSES_TAGS = ("val_classes", "test_classes", "oof_classes")  # tags of runs and versions; see segmentation/means.py


@dataclass(frozen=True)
class Origin:
    """Origin of a model, as far as it is known, and how the model was chosen.

    Raises InvalidValue for a run, hash or commit that has another form: they become parts of paths and of commands.
    """

    run_id: str  # 'none' if it is not known, as `git_commit`
    version: str | None  # "<name> v<N>" for a registered version
    model_path: LakePath | None
    model_sha256: str
    data_path: LakePath | None
    git_commit: str
    metrics: dict[str, float]
    classes: dict[str, str] = field(default_factory=dict)  # CLASSES_TAGS -> '9/11': classes that a split's mean is of
    selected_by: str = field(default="", compare=False)  # the name by which it was chosen, such as 'tag v1.0-acc85'
    file: Path | None = field(default=None, compare=False)  # local copy, to be verified; None: it is in lakeFS

    def __post_init__(self) -> None:
        RecordedRun(self.run_id)
        Sha256(self.model_sha256)
        GitCommit(self.git_commit)
        for path in (self.model_path, self.data_path):
            if path is not None:
                CommitId(path.ref)


@dataclass(frozen=True)
class Lineage(Origin):
    """Complete origin of a model, as recorded by the MLflow run, the version made from it, lakefs.lock or a lakeFS tag."""

    model_path: LakePath
    data_path: LakePath


def fold_of(tags: Mapping[str, str]) -> tuple[str, RunId] | None:
    """Return the number of the fold that a run trained, and the run of all folds, by its tags; None for other runs.

    Raises InvalidValue for a parent that is not a run ID.
    """
    if FOLD_TAG not in tags or PARENT_TAG not in tags:
        return None
    return one_line(tags[FOLD_TAG], 10), RunId(tags[PARENT_TAG])


def read_first_epoch(tags: Mapping[str, str]) -> int:
    """Return the step of a run's first epoch: 1, or 0 in runs of earlier versions, which counted from 0."""
    return 1 if tags.get(FIRST_EPOCH) == "1" else 0


def require_repository(configured: str, run_id: str, recorded: str) -> None:
    """Raise UsageError if a run's commits are in another lakeFS repository than the configured one."""
    if recorded != configured:
        raise UsageError(
            tr("run {run_id} belongs to repository {repo}; set LAKEFS_REPO={repo}", run_id=run_id, repo=recorded)
        )
