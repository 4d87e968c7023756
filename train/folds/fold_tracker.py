"""FoldTracker: the MLflow run of one fold, a child of the run of all folds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from config import Settings
from core.i18n import tr
from core.reporting import notify
from train.tracking import liveness
from train.tracking.run_tracker import RunTracker
from train.tracking.used_settings import known_parameters
from utils import mlflow_utils
from utils.lineage import FOLD_TAG, PARENT_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run


@dataclass(frozen=True)
class FoldTracker(RunTracker):
    """An open run of a fold. Its folder is in that of its parent, whose lock covers it; only the parent is resumed."""

    parent_id: str = ""
    fold: int = 0

    @classmethod
    def open(cls, parent: RunTracker, settings: Settings, fold: int) -> FoldTracker:
        """Open the run of a fold: a new one, or the one that an earlier process has begun. Raises AppError.

        `settings` are those that the fold is trained with.
        """
        client = parent.client
        with mlflow_utils.convert_errors(settings, tr("opening the run")):
            run = find_fold(parent, fold)
            if run is None:
                name = client.get_run(parent.run_id).info.run_name
                tags = {**parent.facts.tags(), PARENT_TAG: parent.run_id, FOLD_TAG: str(fold)}
                run = client.create_run(parent.experiment_id, tags=tags, run_name=f"{name} fold {fold}")
            else:
                for key, value in {**liveness.process_tags(), "pid": str(os.getpid())}.items():
                    client.set_tag(run.info.run_id, key, value)
                if "error" in run.data.tags:
                    client.delete_tag(run.info.run_id, "error")
                client.update_run(run.info.run_id, status="RUNNING")
        run_id = str(run.info.run_id)
        folder = parent.folder / run_id
        folder.mkdir(exist_ok=True)
        notify(tr("MLflow run: {name} ({run_id})", name=run.info.run_name, run_id=run_id))
        ids = run_id, parent.experiment_id
        return cls(client, settings, parent.facts, *ids, folder, parent.lock, None, parent_id=parent.run_id, fold=fold)

    def log_settings(self, data_path: str) -> None:
        """Record the settings and the data that are known before the training."""
        self.log_params({**known_parameters(self.settings), "lakefs_data_path": data_path, FOLD_TAG: self.fold})

    def page(self) -> None:
        """Return None: the page of the parent shows its children."""

    def prepare_resume(self, error: BaseException) -> None:
        """Do nothing: the parent is resumed."""


def find_fold(parent: RunTracker, fold: int) -> Run | None:
    """Return the run of a fold that an earlier process has begun."""
    wanted = f"tags.`{PARENT_TAG}` = '{parent.run_id}' and tags.`{FOLD_TAG}` = '{fold}'"
    return next(iter(mlflow_utils.search_runs(parent.client, [parent.experiment_id], wanted)), None)
