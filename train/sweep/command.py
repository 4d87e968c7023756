"""train.py --sweep: train the trials of a sweep, one after another, until none is left."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from config import SETTINGS, TRAINING_LENGTH, Settings
from core.errors import AppError, UsageError
from core.i18n import tr, trn
from core.reporting import notify
from train.jobs.request import check_partners, check_request
from train.sweep import parent
from train.sweep.outcome import finish
from train.sweep.parent import Start, open_sweep, recorded_settings, show_as_running, working
from train.sweep.plan import SweepPlan, read_plan
from train.sweep.storage import open_storage
from train.sweep.study import ERROR, RUN_ID, SharedStudy
from train.sweep.trial import Sweep, train_trial
from train.warm_start.network import check_start
from utils import mlflow_utils
from utils.lakefs_utils import connect

FAILURES = 3  # if so many trials failed before one was trained, the others would fail too


def sweep(
    settings: Settings, given: Mapping[str, Any], options: argparse.Namespace, prepare_directory: Callable[[], None]
) -> None:
    """Search for the best settings, or continue the search. Raises AppError.

    `given`: the settings of the command line; `prepare_directory` is called if the sweep is new.
    """
    path = Path(options.sweep)
    plan = read_plan(path)
    settings = _fixed_settings(settings, given, plan)
    study = SharedStudy.open(open_storage(settings), plan, settings.model_path.parent)
    if study.attribute(parent.DATA_PATH) is not None:
        settings = recorded_settings(settings, given, study)
    command = f"python train.py --sweep {shlex.quote(str(path))}"
    start = Start(settings, given, study, options, prepare_directory, command)
    with connect(settings) as lake:
        client = mlflow_utils.connect(settings)
        opened = open_sweep(start, lake, client)
        if not study.attribute(parent.FINISHED):
            with working(opened):
                _train_all(opened)
                if not study.is_over:
                    _report_others(study)
                    return
                finish(opened)
        else:
            finish(opened)


def _train_all(opened: Sweep) -> None:
    """Train trials until none is left for this process."""
    _remove_leftovers(opened)
    while (claimed := opened.study.take()) is not None:
        show_as_running(opened)
        train_trial(opened, claimed)
        _require_progress(opened.study)


def _require_progress(study: SharedStudy) -> None:
    """Raise AppError if the first trials all failed: something else than their settings is wrong."""
    finished = study.finished()
    errors = [trial.user_attrs[ERROR] for trial in finished if ERROR in trial.user_attrs]
    if len(errors) == len(finished) >= FAILURES:  # more: several processes ended trials at once
        raise AppError(tr("the first {count} trials failed: {reason}", count=len(errors), reason=errors[-1]))


def _report_others(study: SharedStudy) -> None:
    count = study.running_elsewhere()
    notify(
        trn(
            "{count} trial is still in progress in another process, which will report the result",
            "{count} trials are still in progress in other processes, which will report the result",
            count,
        )
    )


def _remove_leftovers(opened: Sweep) -> None:
    """Remove the checkpoints of trials that ended right before their process was killed."""
    for trial in opened.study.finished():
        run_id = trial.user_attrs.get(RUN_ID)
        for file in (opened.settings.model_path.parent / run_id).glob("*.pth") if run_id else ():
            file.unlink(missing_ok=True)


# --- settings ---------------------------------------------------------------------------------------------------------


def _fixed_settings(settings: Settings, given: Mapping[str, Any], plan: SweepPlan) -> Settings:
    """Return the settings of all trials. Raises UsageError for an option that the plan decides."""
    varied = {parameter.setting for parameter in plan.space}
    for name in given:
        if name in varied or name in plan.settings:
            option = SETTINGS[name].option or name.upper()
            raise UsageError(
                tr("{option}: sweep '{name}' decides it: leave one of them out", option=option, name=plan.name)
            )
    explicit = settings.explicit | plan.settings.keys()
    fixed = dataclasses.replace(settings, **plan.settings, explicit=frozenset(explicit))
    if fixed.folds is not None:
        raise UsageError(tr("FOLDS={folds}: a sweep trains one model in each trial: leave it out", folds=fixed.folds))
    _check_request(fixed, plan)
    check_partners(fixed, varied)
    lengths = [name for name in TRAINING_LENGTH if name in varied or getattr(fixed, name) is not None]
    if len(lengths) > 1:
        raise UsageError(
            tr("sweep '{name}': epochs and max_seconds exclude each other: leave one of them out", name=plan.name)
        )
    return fixed


def _check_request(settings: Settings, plan: SweepPlan) -> None:
    """Raise UsageError for settings that no trial can have, and for a network or a start that fails in all of its trials."""
    varied = {parameter.setting: parameter for parameter in plan.space}
    starts, models = (
        [varied[name].value(text) for text in varied[name].choices] if name in varied else [getattr(settings, name)]
        for name in ("pretrained", "model")
    )
    for start in starts:
        check_start(dataclasses.replace(settings, pretrained=start))
    for model in models:
        problems = []
        for start in starts:
            try:
                check_request(dataclasses.replace(settings, model=model, pretrained=start))
            except UsageError as error:
                problems.append(error)
        if len(problems) == len(starts):
            raise problems[0]
