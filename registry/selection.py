"""Select the model for inference: by run, by registered version, interactively, or the champion."""

from __future__ import annotations

import math

from core.console import choose, format_table, is_terminal
from core.errors import AppError, UsageError
from core.i18n import tr
from core.reporting import notify, warn
from registry.overview import overview
from registry.state import RegistryState, read_state
from registry.versions import REGISTERED, Registry, version_lineage
from segmentation.means import format_metric
from utils import mlflow_utils
from utils.lineage import Lineage


def select_model(registry: Registry, run_id: str | None, spec: str | None, interactive: bool) -> Lineage | None:
    """Return the named model; else the champion, or without a registered model the best run that was never registered.

    None: nothing was chosen interactively. Raises UsageError if there is no champion and nobody to ask, AppError if
    there is no model.
    """
    if interactive:
        return ask(registry)
    if run_id:
        return mlflow_utils.run_lineage(mlflow_utils.get_run(registry.client, registry.settings, run_id))
    if spec and spec != registry.name:
        return version_lineage(registry.find(spec))
    state = read_state(registry)
    if state.champion is not None:
        return version_lineage(state.champion)
    if state.exists or spec:
        return ask_version(registry, state)
    return best_unregistered_run(registry)


def ask_version(registry: Registry, state: RegistryState) -> Lineage | None:
    """Without a champion, show the versions and ask for one; None if nobody answers. Raises UsageError off a terminal."""
    usable = state.usable()
    if not usable or not is_terminal():
        raise state.nothing_to_predict_with()
    warn(state.problem())
    notify(overview(registry, numbered=True, versions=usable))
    index = choose(tr("version to use"), len(usable))
    return None if index is None else version_lineage(usable[index])


def best_unregistered_run(registry: Registry) -> Lineage:
    """Return the best run that was never registered: a version that was deleted is out of use. Raises AppError."""
    client, settings = registry.client, registry.settings
    experiment = mlflow_utils.get_or_create_experiment(client, settings)
    runs = mlflow_utils.find_finished_runs(client, settings, experiment, settings.register_metric)
    never_registered = [run for run in runs if REGISTERED not in run.data.tags]
    if never_registered:
        notify(tr("no registered model: using the best run."))
        return mlflow_utils.run_lineage(never_registered[0])
    if runs:
        raise UsageError(
            tr(
                "no registered model, and every finished run was registered before (the best: {run_id}, as {version}): "
                "register it again: python register_model.py --run-id {run_id}",
                run_id=runs[0].info.run_id,
                version=runs[0].data.tags[REGISTERED],
            )
        )
    raise UsageError(
        tr(
            "no registered model, and no finished run in experiment '{experiment}': run train.py first",
            experiment=settings.mlflow_experiment,
        )
    )


def ask(registry: Registry) -> Lineage | None:
    """Ask for an experiment, then for a registered version or a run of it; None if nobody answers."""
    client, settings, metric = registry.client, registry.settings, registry.settings.register_metric
    experiments = mlflow_utils.list_experiments(client, settings)
    notify(format_table(["#", tr("experiment")], [[i, e.name] for i, e in enumerate(experiments, 1)]))
    index = choose(tr("experiment"), len(experiments))
    if index is None:
        return None
    runs = mlflow_utils.find_finished_runs(client, settings, experiments[index].experiment_id, metric)
    if not runs:
        raise AppError(tr("experiment '{name}' has no usable run", name=experiments[index].name))
    ids = {run.info.run_id for run in runs}
    versions = [v for name in registry.model_names() for v in registry.versions(name) if v.run_id in ids]
    choices = [version_lineage(v) for v in versions] + [mlflow_utils.run_lineage(run) for run in runs]
    times = [v.creation_timestamp for v in versions] + [run.info.start_time for run in runs]
    rows = [
        [i, *_row(choice, metric), mlflow_utils.format_time(at), choice.git_commit[:8], choice.data_path.ref[:8]]
        for i, (choice, at) in enumerate(zip(choices, times, strict=True), 1)
    ]
    notify(format_table(["#", tr("model"), metric, tr("date"), "Git", tr("data commit")], rows))
    index = choose(tr("model"), len(choices))
    return None if index is None else choices[index]


def _row(lineage: Lineage, metric: str) -> list[str]:
    name = lineage.version or tr("run {run_id}", run_id=lineage.run_id[:8])
    return [name, format_metric(metric, lineage.metrics.get(metric, math.nan), lineage.classes)]
