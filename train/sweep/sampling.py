"""Sampler and pruner of a study. Both depend only on the study's trials and numbers, never on a process.

So a study that was interrupted goes on as if it had not been: nothing of a sampler has to be saved.
"""

from __future__ import annotations

import warnings
import zlib
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from train.sweep.plan import Parameter, SweepPlan
from train.sweep.pruning import EPOCH, PERCENT, Pruner


class NumberedSampler(BaseSampler):
    """A sampler whose random numbers depend on (seed, number of the trial, parameter), not on what was drawn before."""

    def __init__(self, kind: str, seed: int) -> None:
        self._kind, self._seed = kind, seed

    def _of(self, trial: FrozenTrial, parameter: str = "") -> BaseSampler:
        entropy = (self._seed, trial.number, zlib.crc32(parameter.encode()))
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        if self._kind == "random":
            return RandomSampler(seed=seed)
        with warnings.catch_warnings():  # some of these were experimental in Optuna 4
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return TPESampler(seed=seed, multivariate=True, constant_liar=True)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._of(trial, param_name).sample_independent(study, trial, param_name, param_distribution)


class HalvingPruner(BasePruner):
    """Asynchronous successive halving over the values that the trials reported, of which higher ones are better.

    Optuna's own marks a trial while it decides: asked again about the same epoch, after a kill, it would decide
    differently.
    """

    def __init__(self, pruner: Pruner) -> None:
        self._pruner = pruner

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        if step is None or not self._pruner.asks_at(step):
            return False
        others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        reached = [t.intermediate_values[step] for t in others if step in t.intermediate_values]
        return _is_halved(trial.intermediate_values[step], reached, self._pruner.factor)


class ProgressPruner(BasePruner):
    """`median` and `halving` for trials of different lengths, whose steps are percentages of their own.

    Each trial has reported other percentages: of the others counts what they had reached up to that of this one.
    """

    def __init__(self, pruner: Pruner) -> None:
        self._pruner = pruner

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        if step is None:
            return False
        own, others = trial.intermediate_values[step], study.get_trials(deepcopy=False)
        if self._pruner.type == "median":
            complete = [t for t in others if t.state == TrialState.COMPLETE]
            values = _values_at(complete, step)
            return len(complete) >= self._pruner.startup_trials and len(values) > 0 and own < float(np.median(values))
        rung = self._pruner.rung(step)
        reached = [t for t in others if t.number != trial.number and (t.last_step or 0) >= rung]
        return _is_halved(own, _values_at(reached, step), self._pruner.factor)


def _values_at(trials: list[FrozenTrial], step: int) -> list[float]:
    """Return the last values of the trials that were reported up to a step."""
    steps = [(trial, max((s for s in trial.intermediate_values if s <= step), default=None)) for trial in trials]
    return [trial.intermediate_values[last] for trial, last in steps if last is not None]


def _is_halved(own: float, others: list[float], factor: int) -> bool:
    return sum(value > own for value in others) >= max(1, (len(others) + 1) // factor)


def make_pruner(pruner: Pruner, unit: str = EPOCH) -> BasePruner:
    """Return the pruner of a plan; `unit` is what the steps of the trials count."""
    if pruner.type != "none" and unit == PERCENT:
        return ProgressPruner(pruner)
    if pruner.type == "median":
        return MedianPruner(n_startup_trials=pruner.startup_trials, n_warmup_steps=pruner.warmup_epochs)
    if pruner.type == "halving":
        return HalvingPruner(pruner)
    return NopPruner()


def make_sampler(plan: SweepPlan) -> BaseSampler:
    """Return the sampler of a plan."""
    return NumberedSampler(plan.sampler, plan.seed)


def draw(trial: optuna.Trial, parameter: Parameter) -> Any:
    """Return the parameter's value in a trial, drawn at the first call; choices are drawn as texts."""
    name = parameter.setting
    if parameter.choices:
        return trial.suggest_categorical(name, parameter.choices)
    if parameter.is_int:
        step = int(parameter.step or 1)
        return trial.suggest_int(name, int(parameter.low), int(parameter.high), log=parameter.log, step=step)
    return trial.suggest_float(name, parameter.low, parameter.high, log=parameter.log, step=parameter.step)


def resumed_trial(study: Study, frozen: FrozenTrial) -> optuna.Trial:
    """Return a trial that another process started, to go on with it: Optuna's constructor, which is not documented."""
    return optuna.Trial(study, frozen._trial_id)
