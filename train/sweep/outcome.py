"""The outcome of a sweep: the best trial, its model, and the command that trains with its settings."""

from __future__ import annotations

import json
import math
import shlex
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from config import SETTINGS, Settings
from core.console import SHOWN_ID, format_table
from core.errors import AppError
from core.figures import format_figure
from core.files import link_or_copy, safe_join
from core.hashing import file_sha256
from core.i18n import tr, trn
from core.reporting import notify, warn
from core.reporting import result as report_result
from core.safety.spreadsheet import csv_bytes
from dataset.classes import abbreviate
from segmentation.file_names import METRICS_FILE, MLMODEL, MODEL_FILE
from train.base_train import Validation
from train.jobs.report import report, suggest_release
from train.sweep.parent import FINISHED, MANIFEST
from train.sweep.plan import TRAINING, SweepPlan
from train.sweep.study import EPOCHS, ERROR, RUN_ID, SECONDS
from train.sweep.trial import STATES, Sweep
from train.tracking.result import Result
from utils import mlflow_utils
from utils.lakefs_client.content import LocalFile
from utils.lineage import Lineage
from versioning.versions import MODEL_PREFIX

TABLE = "trials.csv"  # artifact of the parent run
SHOWN, SHOWN_REASONS = 5, 3  # trials in the table on the console; reasons of failures below it


def finish(sweep: Sweep) -> None:
    """Record the outcome in the parent run, once; report it. Raises AppError if no trial was trained to its end."""
    with sweep.study.locked():
        best = sweep.study.best()
        if best is None:
            raise _nothing_trained(sweep)
        lineage = mlflow_utils.run_lineage(mlflow_utils.get_run(sweep.client, sweep.settings, best.user_attrs[RUN_ID]))
        if not sweep.study.attribute(FINISHED):
            result = _restore(sweep, lineage)
            report(sweep.settings, sweep.lake, result, smoke=False)
            suggest_release(sweep.settings, sweep.lake, result)
            _record(sweep, best, lineage)
            sweep.study.set_attributes({FINISHED: True})
    _report_trials(sweep, best)


def _nothing_trained(sweep: Sweep) -> AppError:
    reasons = [trial.user_attrs[ERROR] for trial in sweep.study.finished() if ERROR in trial.user_attrs]
    reason = reasons[-1] if reasons else tr("all trials were pruned")
    return AppError(
        tr("sweep '{name}': no trial was trained to its end: {reason}", name=sweep.study.plan.name, reason=reason)
    )


def _restore(sweep: Sweep, lineage: Lineage) -> Result:
    """Make the best model that of models/ and of the branch, whatever ended last; return the result of its run."""
    folder = safe_join(sweep.lake.download(sweep.model_folder(lineage), sweep.settings.cache_dir), MODEL_PREFIX)
    files = {name: folder / name for name in (MODEL_FILE, METRICS_FILE, MLMODEL)}
    target = sweep.settings.model_path
    if not target.exists() or file_sha256(target) != lineage.model_sha256:
        for name, file in files.items():
            link_or_copy(file, target if name == MODEL_FILE else target.with_name(name))
    message = f"model: the best of sweep {sweep.study.plan.name}"
    local = {name: LocalFile(file, file_sha256(file)) for name, file in files.items()}
    metadata = {"mlflow_run_id": lineage.run_id, "model_sha256": lineage.model_sha256}
    sweep.lake.publish(local, MODEL_PREFIX, message, metadata, mirror=False)
    metrics = json.loads(files[METRICS_FILE].read_text(encoding="utf-8"))
    manifest = sweep.study.attribute(MANIFEST)
    measured = {split: _validation(metrics, split) for split in ("val", "test")}
    val = measured["val"]
    assert val is not None  # every committed model has it
    return Result(
        lineage.run_id, sweep.data_path, manifest, lineage.model_path, lineage.model_sha256, val, measured["test"]
    )


def _validation(metrics: Mapping[str, Any], split: str) -> Validation | None:
    prefix = "best_val" if split == "val" else split
    if f"{prefix}_miou" not in metrics:
        return None
    keys = (f"{split}_loss", f"{prefix}_accuracy", f"{prefix}_miou")
    loss, accuracy, miou = (math.nan if metrics[key] is None else float(metrics[key]) for key in keys)
    return Validation(loss, accuracy, miou, metrics[f"{split}_iou"])


def _record(sweep: Sweep, best: FrozenTrial, lineage: Lineage) -> None:
    """Record the best trial and all trials in the parent run, and end it."""
    from mlflow.entities import Metric, Param, RunTag

    now = int(time.time() * 1000)
    plan, run_id = sweep.study.plan, sweep.parent_id
    params = {"best_trial": best.number + 1, "best_run_id": lineage.run_id}
    chosen = {f"best_{parameter.setting}": parameter.value(best.params[parameter.setting]) for parameter in plan.space}
    trials = [t for t in sweep.study.finished() if t.state == TrialState.COMPLETE and t.value is not None]
    metrics, leading = [], -1.0
    for trial in sorted(trials, key=lambda t: t.number):
        leading = max(leading, trial.value or 0.0)
        metrics.append(Metric(plan.metric, leading, now, trial.number + 1))
    states = [trial.state for trial in sweep.study.finished()]
    counts = {f"trials_{name}": states.count(state) for state, name in STATES.items()}
    with mlflow_utils.convert_errors(sweep.settings, tr("recording the run")):
        sweep.client.log_batch(
            run_id,
            metrics=metrics,
            params=[Param(key, str(value)) for key, value in {**params, **chosen, **counts}.items()],
            tags=[RunTag("best_run_id", lineage.run_id), RunTag("best_model_path", str(lineage.model_path))],
        )
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, TABLE).write_bytes(trials_table(sweep))
            mlflow_utils.log_artifacts(sweep.client, sweep.settings, run_id, Path(folder))
        sweep.client.set_terminated(run_id, "FINISHED")
        if "error" in sweep.client.get_run(run_id).data.tags:  # of a process that was interrupted meanwhile
            sweep.client.delete_tag(run_id, "error")


def trials_table(sweep: Sweep) -> bytes:
    """Return all trials as CSV: number, state, metric, seconds of training, epochs, settings, run."""
    plan = sweep.study.plan
    names = [parameter.setting for parameter in plan.space]
    rows: list[list[object]] = [["trial", "state", plan.metric, "seconds", "epochs", *names, "run_id", "error"]]
    for t in sweep.study.finished():
        attributes = t.user_attrs
        value = "" if t.value is None else repr(t.value)
        seconds, epochs = attributes.get(SECONDS, ""), attributes.get(EPOCHS, "")
        settings = [t.params.get(name, "") for name in names]
        row = [t.number + 1, STATES[t.state], value, seconds, epochs, *settings]
        rows.append([*row, attributes.get(RUN_ID, ""), attributes.get(ERROR, "")])
    return csv_bytes(rows)


def _report_trials(sweep: Sweep, best: FrozenTrial) -> None:
    plan, finished = sweep.study.plan, sweep.study.finished()
    names = [parameter.setting for parameter in plan.space]
    ranked = sorted(finished, key=lambda t: (t.state != TrialState.COMPLETE, -(t.value or 0.0), t.number))
    rows = [
        [
            t.number + 1,
            "-" if t.value is None else format_figure(t.value),
            tr(STATES[t.state]),
            *(f"{v:.4g}" if isinstance(v := t.params.get(name), float) else v for name in names),
            t.user_attrs.get(RUN_ID, "-")[:SHOWN_ID],
        ]
        for t in ranked[:SHOWN]
    ]
    count = len(finished)
    notify(trn("sweep '{name}': {count} trial", "sweep '{name}': {count} trials", count, name=plan.name))
    notify(format_table([tr("trial"), plan.metric, tr("state"), *names, tr("run")], rows))
    _report_failures([trial.user_attrs[ERROR] for trial in finished if ERROR in trial.user_attrs])
    report_result(
        tr(
            "best: trial {number}, {metric} {value}, run {run_id}",
            number=best.number + 1,
            metric=plan.metric,
            value=format_figure(best.value or 0.0),
            run_id=best.user_attrs[RUN_ID],
        )
    )
    report_result(
        tr("to train with these settings: {command}", command=best_command(sweep.settings, plan, best, sweep))
    )


def _report_failures(reasons: list[str]) -> None:
    if reasons:
        shown = abbreviate(dict.fromkeys(reasons), SHOWN_REASONS)
        warn(trn("{count} trial failed: {reasons}", "{count} trials failed: {reasons}", len(reasons), reasons=shown))


def best_command(settings: Settings, plan: SweepPlan, best: FrozenTrial, sweep: Sweep) -> str:
    """Return the command that trains with the settings and the data of the best trial."""
    chosen = {parameter.setting: parameter.value(best.params[parameter.setting]) for parameter in plan.space}
    names = [name for name in TRAINING if name in chosen or name in settings.explicit]
    variables, options = [], []
    for name in names:
        value, option = chosen.get(name, getattr(settings, name)), SETTINGS[name].option
        words = [str(part) for part in value] if isinstance(value, tuple) else [str(value)]
        if value is None:  # an empty variable cancels one of .env
            variables.append(f"{name.upper()}=")
        elif option is None or value is False:
            text = " ".join(words)
            variables.append(f"{name.upper()}={shlex.quote(text.lower() if isinstance(value, bool) else text)}")
        else:
            options += [option] if value is True else [option, *map(shlex.quote, words)]
    return " ".join([*variables, "python train.py", *options, "--data-ref", str(sweep.data_path)])
