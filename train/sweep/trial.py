"""One trial of a sweep: an ordinary training in a child run, which the study may prune."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from config import Settings
from core.errors import AppError, UsageError, describe_error
from core.figures import format_figure
from core.i18n import mark, tr
from core.reporting import notify, warn
from core.safety.terminal import escape_line
from core.settings import InvalidSetting
from segmentation.tiles.out_of_memory import is_out_of_memory
from train import resume
from train.base_train import BaseTrain, Diverged, EpochResult, best_of
from train.jobs.job import Job, OpenTraining, open_training
from train.jobs.request import check_request
from train.resume import CHECKPOINT_FILE, Interrupted
from train.setup import TrainingSetup, check_data, check_device, prepare_training
from train.sweep.pruning import EPOCH
from train.sweep.study import EPOCHS, ERROR, KEPT, RUN_ID, SECONDS, Claimed, SharedStudy, beating
from train.tracking.run_tracker import RunFacts
from utils.lakefs_utils import LakePath
from utils.lineage import PARENT_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from dataset.data import SegmentationData
    from train.mlflow_train import MlflowTrain
    from train.warm_start.initial import Initial
    from utils.lakefs_utils import LakeFS
    from utils.lineage import Lineage

SWEEP_TAG, TRIAL_TAG, STATE_TAG = "sweep", "trial", "trial_state"  # of runs
PRUNED = "pruned"  # user attribute of a trial: what was decided, for a resumed training
STATES = {TrialState.COMPLETE: mark("complete"), TrialState.PRUNED: mark("pruned"), TrialState.FAIL: mark("failed")}

# How torch and the libraries of networks refuse a network, an input size or weights.
UNFIT = (RuntimeError, ValueError, KeyError, TypeError, AssertionError, MemoryError)


@dataclass(frozen=True)
class Sweep:
    """What the trials of a sweep have in common."""

    settings: Settings  # with those that are fixed for all trials
    lake: LakeFS
    client: MlflowClient
    study: SharedStudy
    facts: RunFacts
    parent_id: str
    data: SegmentationData
    data_path: LakePath
    initial: Initial | None  # what INIT names

    def model_folder(self, lineage: Lineage) -> LakePath:
        """Return the directory that a model was committed in."""
        return LakePath(lineage.model_path.repo, lineage.model_path.ref, "models/")

    def label(self, claimed: Claimed) -> str:
        """Return 'trial 3/20', or 'trial 3' if time limits the sweep."""
        count = self.study.plan.trials
        if count is None:
            return tr("trial {number}", number=claimed.number)
        return tr("trial {number}/{count}", number=claimed.number, count=count)


def metric_of(metric: str, best: EpochResult) -> float:
    """Return the value by which trials are compared: of the validation split, at the epoch of the best model."""
    return best.val.accuracy if metric == "best_val_accuracy" else best.val.miou


def percents(training: BaseTrain, history: Sequence[EpochResult]) -> list[int]:
    """Return which percentage of its own length a training had behind it after each epoch."""
    limit = training.settings.max_seconds
    if limit is None:
        return [100 * result.number // training.epochs for result in history]
    return [min(100, int(100 * seconds / limit)) for seconds in itertools.accumulate(r.seconds for r in history)]


class TrialObserver:
    """Reports the epochs of a trial to the study, ends it where the pruner says so, and keeps only the best so far."""

    def __init__(self, sweep: Sweep, claimed: Claimed, training: BaseTrain) -> None:
        self._sweep, self._claimed, self._training = sweep, claimed, training
        self._plan, self._trial = sweep.study.plan, claimed.trial
        self._reported = set(sweep_trial(sweep, claimed).intermediate_values)

    def ends_after(self, history: Sequence[EpochResult]) -> bool:
        if self._trial.user_attrs.get(PRUNED) is not None:
            return True
        pruner, last = self._plan.pruner, history[-1].number
        if self._sweep.study.unit == EPOCH:
            steps = {epoch: epoch for epoch in range(1, last + 1) if pruner.asks_at(epoch)}
            asked = pruner.asks_at(last)  # each question is a transaction of the database
        else:
            reached = percents(self._training, history)
            steps = dict(enumerate(reached, 1)) if pruner.type != "none" else {}
            asked = pruner.asks_after(last, [0, *reached][-2], reached[-1])
        self._report(history, steps)
        pruned = asked and self._trial.should_prune()
        if pruned:
            self._trial.set_user_attr(PRUNED, last)
        return pruned

    def _report(self, history: Sequence[EpochResult], steps: Mapping[int, int]) -> None:
        """Report the best value so far at the step of each epoch, also of those that a kill kept from the study."""
        for epoch, step in steps.items():
            best = None if step in self._reported else best_of(history[:epoch])
            if best:
                self._trial.report(metric_of(self._plan.metric, best), step)
                self._reported.add(step)

    def keeps(self, best: EpochResult) -> bool:
        attributes = self._trial.user_attrs
        if attributes.get(PRUNED) is None and attributes.get(KEPT) is None:
            leader = self._sweep.study.best()
            value = metric_of(self._plan.metric, best)
            self._trial.set_user_attr(KEPT, leader is None or leader.value is None or value > leader.value)
        return bool(self._trial.user_attrs.get(KEPT))


def sweep_trial(sweep: Sweep, claimed: Claimed) -> FrozenTrial:
    """Return the trial as the database has it now."""
    return sweep.study.study.get_trials(deepcopy=False)[claimed.trial.number]


def train_trial(sweep: Sweep, claimed: Claimed) -> None:
    """Train a trial to its end and tell the study. A failure that is not the trial's own is raised: it can be resumed."""
    shown = " ".join(f"{name}={_shown(value)}" for name, value in claimed.values.items())
    notify(escape_line(f"{sweep.label(claimed)}: {shown}"))
    with beating(claimed):
        try:
            settings, job = _job(sweep, claimed)
            _train(sweep, claimed, settings, job)
        except UpdateFinishedTrialError:
            warn(tr("{trial}: given up meanwhile by another machine, which repeats it", trial=sweep.label(claimed)))
        except _Unfit as error:
            _fail(sweep, claimed, error.cause)
        except AppError as error:
            if not _is_its_own(error):
                raise
            _fail(sweep, claimed, error)


class _Unfit(Exception):
    """Settings that cannot be trained with together."""

    def __init__(self, cause: AppError) -> None:
        super().__init__(str(cause))
        self.cause = cause


def _is_its_own(error: AppError) -> bool:
    """Return whether an error comes from the trial's settings: other settings, or a retry, would not have it."""
    return isinstance(error, Diverged | InvalidSetting) or (
        isinstance(error.__cause__, Exception) and is_out_of_memory(error.__cause__)
    )


def _job(sweep: Sweep, claimed: Claimed) -> tuple[Settings, Job]:
    """Return the trial's settings and job; with its checkpoint, if it was interrupted on this machine."""
    explicit = sweep.settings.explicit | claimed.values.keys()
    try:
        settings = dataclasses.replace(sweep.settings, **claimed.values, explicit=explicit)
        check_request(settings)
        check_data(settings, sweep.data, sweep.initial)
    except UsageError as error:
        raise _Unfit(error) from None
    name = f"{sweep.study.plan.name}-{claimed.number}"
    tags = {PARENT_TAG: sweep.parent_id, "mlflow.runName": name}
    tags |= {SWEEP_TAG: sweep.study.plan.name, TRIAL_TAG: str(claimed.number)}
    facts = dataclasses.replace(sweep.facts, more_tags=tags)
    interrupted = _interrupted(settings, claimed.run_id)
    if interrupted is not None:
        record = interrupted.record
        resume.warn_of_other_code(record, facts.git, 1)
        settings = resume.settings_of(record, settings, {})
        interrupted = resume.on_device(interrupted, check_device(settings).type)
        facts = dataclasses.replace(facts, git=record.git)
    return settings, Job(sweep.data, sweep.data_path, facts, interrupted, initial=sweep.initial)


def _interrupted(settings: Settings, run_id: str | None) -> Interrupted | None:
    """Return the interrupted training of a run; None if it had no checkpoint yet, and starts again."""
    models = settings.model_path.parent
    if run_id is None or not (models / run_id / CHECKPOINT_FILE).is_file():
        return None
    return resume.find(models, run_id)


def _prepare(settings: Settings, job: Job) -> TrainingSetup:
    """Return the network and all else that a trial trains with. Raises _Unfit if these settings cannot be built.

    A failed download or a full disk is not the trial's own: it is raised as it is.
    """
    try:
        return prepare_training(settings, job.data, initial=job.initial)
    except AppError as error:
        if not isinstance(error, UsageError) and not isinstance(error.__cause__, UNFIT):
            raise
        raise _Unfit(error) from error
    except UNFIT as error:  # of a library that does not know this combination, or too little memory for a trial step
        raise _Unfit(AppError(describe_error(error))) from error


def _train(sweep: Sweep, claimed: Claimed, settings: Settings, job: Job) -> None:
    setup = _prepare(settings, job)
    with open_training(settings, sweep.lake, sweep.client, job, setup) as opened:
        training, tracker = opened.training, opened.training.tracker
        claimed.trial.set_user_attr(RUN_ID, tracker.run_id)
        try:
            best = training.fit(opened.state, TrialObserver(sweep, claimed, training))
        except AppError:  # the time counts, whether the trial fails or is resumed
            sweep.study.record(claimed, **_extent(training))
            raise
        tracker.background.finish()
        pruned = training.ended_by_observer
        if training.kept:
            opened.publish(best)
        else:
            opened.publication.record_metrics(best)
        state = TrialState.PRUNED if pruned else TrialState.COMPLETE
        _record_state(sweep, tracker.run_id, state)
    value = metric_of(sweep.study.plan.metric, best)
    sweep.study.tell(claimed, state, None if pruned else value, **_extent(training))
    _report(sweep, claimed, opened, value)
    opened.publication.remove_working_files(training.best_file, training.checkpoint_file)


def _extent(training: MlflowTrain) -> dict[str, float]:
    return {SECONDS: training.trained_seconds, EPOCHS: len(training.history)}


def _record_state(sweep: Sweep, run_id: str, state: TrialState) -> None:
    from utils import mlflow_utils

    with mlflow_utils.convert_errors(sweep.settings, tr("recording the run")):
        sweep.client.set_tag(run_id, STATE_TAG, STATES[state])


def _report(sweep: Sweep, claimed: Claimed, opened: OpenTraining, value: float) -> None:
    training = opened.training
    figure = f"{sweep.label(claimed)}: {sweep.study.plan.metric} {format_figure(value)}"
    if training.ended_by_observer:
        notify(tr("{figure}, pruned after epoch {epoch}", figure=figure, epoch=training.history[-1].number))
    elif training.kept:
        notify(tr("{figure}, the best so far", figure=figure))
    else:
        notify(figure)


def _fail(sweep: Sweep, claimed: Claimed, error: AppError) -> None:
    """Record a trial whose settings cannot be trained with; the sweep goes on."""
    reason = describe_error(error)
    known = sweep_trial(sweep, claimed).user_attrs
    run_id = known.get(RUN_ID)
    if run_id is not None:
        _record_state(sweep, run_id, TrialState.FAIL)
        for file in (sweep.settings.model_path.parent / run_id).glob("*.pth"):  # nothing is left to be resumed
            file.unlink()
    trained = {SECONDS: known.get(SECONDS, 0.0), EPOCHS: known.get(EPOCHS, 0)}
    sweep.study.tell(claimed, TrialState.FAIL, None, **trained, **{ERROR: reason[:500]})
    warn(tr("{trial} failed: {reason}", trial=sweep.label(claimed), reason=reason))


def _shown(value: object) -> str:
    """Return a setting's value for a line: 0.00312, 180x240."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
