"""RecordedFolds: trainings of folds as children of one MLflow run, which resumes exactly wherever it was killed."""

from __future__ import annotations

from typing import Any

from config import Settings
from core.errors import AppError
from core.hashing import file_sha256
from core.i18n import tr
from core.process import defer_interrupt
from core.reporting import notify
from train.base_train import Validation
from train.checkpoint import load_checkpoint, save_checkpoint
from train.folds.division import Division
from train.folds.fold_tracker import FoldTracker
from train.folds.fold_train import FOLD, FoldTrain
from train.folds.training import FinishedFold, FoldsTraining
from train.mlflow_train import log_setup, record_of_run
from train.resume import CHECKPOINT_FILE
from train.setup import TrainingSetup
from train.tracking.result import DataCommit, class_metrics, split_metrics
from train.tracking.run_tracker import RunTracker
from train.warm_start.initial import Initial


class RecordedFolds(FoldsTraining):
    """The trainings of all folds within the run of a tracker.

    Two checkpoints describe the position: that of the run has the finished folds, that of the current fold's run the
    position in its training. Every step in between can be repeated.
    """

    def __init__(
        self,
        settings: Settings,
        division: Division,
        tracker: RunTracker,
        data: DataCommit,
        initial: Initial | None = None,
    ) -> None:
        super().__init__(settings, division, tracker.folder, tracker.facts.smoke, initial)
        self.tracker, self.data = tracker, data
        self.resolved: dict[str, str] = {}  # open settings -> decided values, as text
        self.precision = settings.precision

    @property
    def checkpoint_file(self) -> Any:
        """The checkpoint of the run."""
        return self.folder / CHECKPOINT_FILE

    def resume(self, state: dict[str, Any]) -> None:
        """Restore from the checkpoint of the run. Raises AppError if the model of a finished fold is missing."""
        self.finished = [FinishedFold.from_dict(fold) for fold in state["folds"]]
        self.test, self.test_ece = Validation(**state["test"]) if state["test"] else None, state.get("test_ece")
        self.resolved, self.decided = dict(state["resolved"]), True
        for fold, file in zip(self.finished, self.member_files, strict=True):
            if not file.exists() or file_sha256(file) != fold.sha256:
                raise AppError(
                    tr("{file}: missing or changed: the model of a finished fold is needed to resume", file=file)
                )
            self._remove_working_files(fold.run_id)
        notify(tr("folds that are finished: {count} of {folds}", count=len(self.finished), folds=self.division.count))

    def decide(self, setup: TrainingSetup) -> None:
        super().decide(setup)
        self.resolved = setup.resolved
        self.precision = setup.resolved["precision"]
        log_setup(self.tracker, setup, self.initial.record() if self.initial else {})
        recorded = self.settings.reproducible_settings()
        self.tracker.log_code(recorded, setup.device)
        self.save()

    def save(self) -> None:
        state = {
            "folds": [fold.to_dict() for fold in self.finished],
            "test": None if self.test is None else vars(self.test),
            "test_ece": self.test_ece,
            "resolved": self.resolved,
        }
        training = {
            "settings": {**self.settings.reproducible_settings(), "precision": self.precision},
            "classes": self.division.data.classes.to_dict(),
            "device": self.device.type,
        }
        run = record_of_run(self.tracker, self.data.path, self.division.data.source, training)
        with defer_interrupt():
            save_checkpoint(self.checkpoint_file, {"run": run, "state": state})
            for fold in self.finished[-1:]:
                self._remove_working_files(fold.run_id)

    def train_fold(self, fold: int, setup: TrainingSetup) -> FinishedFold:
        tracker = FoldTracker.open(self.tracker, setup.settings, fold)
        with tracker.closing():
            training = FoldTrain(setup, tracker, self.data)
            state = None
            if training.checkpoint_file.exists():
                state = load_checkpoint(training.checkpoint_file)["state"]
            else:
                tracker.log_settings(str(self.data.path))
                log_setup(tracker, setup, setup.initial_record())
            training.fit(state)
            tracker.background.finish()
            done = self.finish(fold, training, tracker.run_id)
            measured = done.metrics(setup.data.classes.names)
            figures = {**split_metrics(measured, None, FOLD), **class_metrics(FOLD, measured)}
            if not tracker.recorded_steps(f"{FOLD}_miou"):
                tracker.log_metrics(figures, tracker.step_of(training.best))
        return done

    def _remove_working_files(self, run_id: str) -> None:
        """Remove what only an interrupted fold needs."""
        folder = self.folder / run_id
        for file in (folder / CHECKPOINT_FILE, *folder.glob("best-*.pth")):
            file.unlink(missing_ok=True)
