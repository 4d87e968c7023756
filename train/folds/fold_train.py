"""The training of one fold: the model of its last epoch is kept, as nothing may be chosen on the images that judge it."""

from __future__ import annotations

from train.base_train import EpochResult, Validation
from train.folds.fold_tracker import FoldTracker
from train.mlflow_train import MlflowTrain
from train.model_train import ModelTrain
from train.setup import TrainingSetup
from train.tracking.result import DataCommit

FOLD = "fold"  # what judges the model of a fold: the images that it held out; prefix of its metrics


class LastEpochTrain(ModelTrain):
    """Keeps the weights of the last epoch.

    The split 'val' of its data is the held-out fold. It is measured after each epoch, for the curves, and decides nothing:
    an epoch chosen on the images that judge the model would make their metrics too good, and a further split for that
    choice would take images that a small data set cannot spare. The learning rate falls to 0 on a fixed schedule, so that
    the averaged weights of the last epoch are as good a choice as any.
    """

    judge = FOLD

    @property
    def best(self) -> EpochResult:
        return self.history[-1]

    def is_to_be_saved(self, validation: Validation) -> bool:
        del validation  # it decides nothing
        return self.in_last_epoch


class FoldTrain(LastEpochTrain, MlflowTrain):
    """The training of a fold within its MLflow run; its model names the run of all folds as its origin."""

    def __init__(self, setup: TrainingSetup, tracker: FoldTracker, data: DataCommit) -> None:
        super().__init__(setup, tracker, data)
        self.lineage |= {"run_id": tracker.parent_id, "fold": str(tracker.fold), "fold_run_id": tracker.run_id}
