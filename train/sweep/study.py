"""SharedStudy: the trials of a sweep, which several processes and machines take from one database.

A trial of a killed process is continued by the next process on its machine, in place. One whose machine is out of sight
is given up after ten silent minutes, and its parameters are tried again under a new number.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from core.errors import UsageError
from core.i18n import tr
from core.locks import file_lock, lock_or_fail
from core.machine.identity import ProcessIdentity
from train.sweep.plan import SweepPlan
from train.sweep.pruning import EPOCH
from train.sweep.sampling import draw, make_pruner, make_sampler, resumed_trial

# User attributes of a trial.
OWNER, RUN_ID = "owner", "run_id"
RELEASED = "released"  # the process that was interrupted in a trial, and has ended
KEPT = "kept"  # whether the model of a trial was kept: decided once, for a resumed training
ABANDONED, RETRY_OF, SECONDS, EPOCHS, ERROR = "abandoned", "retry_of", "seconds", "epochs", "error"
RECORD = "sweep"  # user attribute of the study: what defines it
HEARTBEAT_S = 30.0
SILENT_S = 600.0  # clocks of machines may differ by minutes


@dataclass(frozen=True)
class Owner:
    """Which process works on a trial, and when it was last heard of (seconds since 1970)."""

    process: ProcessIdentity | None
    host: str
    heard: float

    @staticmethod
    def this_process() -> Owner:
        """Return this process, heard of now."""
        return Owner(ProcessIdentity.of_this_process(), socket.gethostname(), time.time())

    @staticmethod
    def of(trial: FrozenTrial) -> Owner:
        """Return the owner of a trial; of one that was just created, only when."""
        record = trial.user_attrs.get(OWNER, {})
        created = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        process = ProcessIdentity.parse(record.get("process", ""))
        return Owner(process, record.get("host", ""), record.get("heard", created))

    def record(self) -> dict[str, Any]:
        """Return JSON values for the trial's attribute."""
        return {"process": str(self.process), "host": self.host, "heard": self.heard}

    def is_alive(self) -> bool | None:
        """Return whether the process runs; None if this machine cannot see it."""
        return None if self.process is None else self.process.is_alive()

    def is_at_work(self) -> bool:
        """Return whether the process runs, as far as this machine can know: it was heard of recently."""
        alive = self.is_alive()
        return time.time() - self.heard < SILENT_S if alive is None else alive


@dataclass(frozen=True)
class Claimed:
    """A trial that this process trains; `values` are its settings, `run_id` that of an interrupted training."""

    trial: optuna.Trial
    values: dict[str, Any]
    run_id: str | None

    @property
    def number(self) -> int:
        """The trial as it is shown and recorded, from 1; Optuna counts from 0."""
        return int(self.trial.number) + 1


class SharedStudy:
    """A study of Optuna with the rules by which processes share its trials; `folder` is models/."""

    def __init__(self, study: optuna.Study, plan: SweepPlan, folder: Path, is_local: bool) -> None:
        self.study, self.plan, self.folder = study, plan, folder
        self.is_local = is_local  # whether the database is a file of this machine
        self.unit = EPOCH  # of the steps at which trials are compared

    # --- opening ---

    @classmethod
    def open(cls, storage: RDBStorage, plan: SweepPlan, folder: Path) -> SharedStudy:
        """Return the study of this name. Raises UsageError if it was started with another sweep.yaml."""
        options: dict[str, Any] = {"sampler": make_sampler(plan), "pruner": make_pruner(plan.pruner)}
        with contextlib.suppress(DuplicatedStudyError):
            created = optuna.create_study(storage=storage, study_name=plan.name, direction="maximize", **options)
            created.set_user_attr(RECORD, plan.record())
        study = optuna.load_study(storage=storage, study_name=plan.name, **options)
        shared = cls(study, plan, folder, is_local=storage.url.startswith("sqlite"))
        recorded = shared.attribute(RECORD)
        if recorded is None:  # another process has created it just now, or was killed doing so
            study.set_user_attr(RECORD, plan.record())
        elif recorded != plan.record():
            changed = sorted(key for key, value in plan.record().items() if recorded.get(key) != value)
            raise UsageError(
                tr(
                    "sweep '{name}' was started with another sweep.yaml (different: {changed}): restore the file, or give the "
                    "new search another name",
                    name=plan.name,
                    changed=", ".join(changed),
                )
            )
        return shared

    def compare_by(self, unit: str) -> None:
        """Let the pruner compare trials at steps that count epochs, or percent of their own length."""
        self.unit, self.study.pruner = unit, make_pruner(self.plan.pruner, unit)

    def attribute(self, name: str) -> Any:
        """Return a user attribute of the study; None if it is not set."""
        return self.study.user_attrs.get(name)

    def set_attributes(self, values: dict[str, Any]) -> None:
        """Set user attributes of the study, in this order."""
        for name, value in values.items():
            self.study.set_user_attr(name, value)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Let one process of this machine at a time decide who does what."""
        waiting = tr("another process prepares the sweep: waiting")
        with file_lock(self.folder / f".sweep-{self.plan.name}.lock", waiting):
            yield

    # --- trials ---

    def trials(self) -> list[FrozenTrial]:
        """Return all trials that count: not those that were given up and repeated."""
        return [t for t in self.study.get_trials(deepcopy=False) if not t.user_attrs.get(ABANDONED)]

    def finished(self) -> list[FrozenTrial]:
        """Return the trials that have ended."""
        return [trial for trial in self.trials() if trial.state.is_finished()]

    def best(self) -> FrozenTrial | None:
        """Return the first trial with the highest value; None without a complete one.

        Of equal values, the one whose model was kept: another process may have ended an earlier trial later.
        """
        complete = [trial for trial in self.trials() if trial.state == TrialState.COMPLETE]
        return max(complete, key=lambda t: (t.value or 0.0, bool(t.user_attrs.get(KEPT))), default=None)

    def running_elsewhere(self) -> int:
        """Return how many trials other processes work on."""
        own = Owner.this_process().process
        running = [trial for trial in self.trials() if trial.state == TrialState.RUNNING]
        owners = [Owner.of(t) for t in running if t.user_attrs.get(RELEASED) != str(Owner.of(t).process)]
        return sum(owner.process != own and owner.is_at_work() for owner in owners)

    def release(self) -> None:
        """Record that this process, which ends, no longer works on its trial; its machine resumes it."""
        own = Owner.this_process().process
        for trial in self.trials():
            if trial.state == TrialState.RUNNING and Owner.of(trial).process == own:
                self.study._storage.set_trial_user_attr(trial._trial_id, RELEASED, str(own))

    @property
    def is_over(self) -> bool:
        """Whether no trial is left to be started or continued, and none is in progress."""
        trials = self.trials()
        return not self._room(trials) and all(trial.state.is_finished() for trial in trials)

    def take(self) -> Claimed | None:
        """Return the next trial for this process: an interrupted one first. None: no trial is left."""
        with self.locked():
            trials = self.trials()
            for frozen in trials:
                if frozen.state == TrialState.RUNNING and self._ended_here(frozen):
                    return self._claimed(resumed_trial(self.study, frozen), frozen.user_attrs.get(RUN_ID))
            self._give_up_silent(trials)
            waiting = any(trial.state == TrialState.WAITING for trial in self.trials())
            if not waiting and not self._room(trials):
                return None
            trial = self.study.ask()
            claimed = self._claimed(trial, None)
            if not waiting and self._is_surplus(trial):
                self._abandon(trial.number)
                return None
            return claimed

    def record(self, claimed: Claimed, **attributes: Any) -> None:
        """Record user attributes of a trial."""
        for name, attribute in attributes.items():
            claimed.trial.set_user_attr(name, attribute)

    def tell(self, claimed: Claimed, state: TrialState, value: float | None, **attributes: Any) -> None:
        """Record the end of a trial."""
        self.record(claimed, **attributes)
        self.study.tell(claimed.trial, value, state)

    def _claimed(self, trial: optuna.Trial, run_id: str | None) -> Claimed:
        trial.set_user_attr(OWNER, Owner.this_process().record())
        values = {parameter.setting: parameter.value(draw(trial, parameter)) for parameter in self.plan.space}
        return Claimed(trial, values, run_id)

    def _room(self, trials: list[FrozenTrial]) -> bool:
        """Return whether another trial may start."""
        if self.plan.trials is not None and len(trials) >= self.plan.trials:
            return False
        used = sum(trial.user_attrs.get(SECONDS, 0.0) for trial in trials)
        return self.plan.time_limit is None or used < self.plan.time_limit

    def _is_surplus(self, trial: optuna.Trial) -> bool:
        """Return whether another machine has taken the last place in the same moment."""
        earlier = sum(other.number < trial.number for other in self.trials())
        return self.plan.trials is not None and earlier >= self.plan.trials

    def _abandon(self, number: int) -> bool:
        """Give a trial up; return False if another process has ended it."""
        trial = next(t for t in self.study.get_trials(deepcopy=False) if t.number == number)
        storage = self.study._storage
        try:
            storage.set_trial_user_attr(trial._trial_id, ABANDONED, True)
            self.study.tell(number, state=TrialState.FAIL)
        except (UpdateFinishedTrialError, ValueError):
            return False
        return True

    # --- who works on a trial ---

    def _give_up_silent(self, trials: list[FrozenTrial]) -> None:
        """Give up the trials of other machines that were not heard of; their parameters are tried again."""
        for trial in trials:
            if trial.state == TrialState.RUNNING and not Owner.of(trial).is_at_work() and self._abandon(trial.number):
                self.study.enqueue_trial(dict(trial.params), user_attrs={RETRY_OF: trial.number + 1})

    def _ended_here(self, trial: FrozenTrial) -> bool:
        """Return whether the trial's process has ended, and its files are on this machine, or it has none."""
        owner = Owner.of(trial)
        alive = owner.is_alive()
        if alive is not None:
            return not alive
        if (
            owner.process is None
        ):  # killed right after it was created: only this machine can have done it, under the lock
            return self.is_local
        run_id = trial.user_attrs.get(RUN_ID)
        if run_id is None or not (self.folder / run_id / ".lock").exists() or self._is_locked(self.folder / run_id):
            return False
        # The machine was started again, or a container that shares this directory: it held the lock as long as it lived.
        here = ProcessIdentity.of_this_process().boot_id
        same_kernel = bool(here) and owner.process.boot_id == here
        return same_kernel or owner.host == socket.gethostname() or not owner.is_at_work()

    @staticmethod
    def _is_locked(folder: Path) -> bool:
        try:
            lock_or_fail(folder / ".lock", "").release()
        except (UsageError, OSError):
            return True
        return False


@contextlib.contextmanager
def beating(claimed: Claimed) -> Iterator[None]:
    """Record the time in the trial as long as this process works on it."""
    stopped = threading.Event()

    def beat() -> None:
        while not stopped.wait(HEARTBEAT_S):
            with contextlib.suppress(Exception):  # the next one may reach the database; the training itself goes on
                claimed.trial.set_user_attr(OWNER, Owner.this_process().record())

    thread = threading.Thread(target=beat, name="trial-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(5)
