"""Select the model for inference: by run, by registered version, interactively, or the champion."""

from __future__ import annotations

import math

from core.console import choose, format_table
from core.errors import AppError
from core.i18n import tr
from core.reporting import notify
from registry.versions import CHAMPION, Registry, version_lineage
from segmentation.means import format_metric
from utils import mlflow_utils
from utils.lineage import Lineage


def select_model(registry: Registry, run_id: str | None, spec: str | None, interactive: bool) -> Lineage | None:
    """Return the named model; else the champion, or without a registry entry the best finished run.

    None: nothing was chosen interactively. Raises AppError if there is no model.
    """
    client, settings = registry.client, registry.settings
    if interactive:
        return ask(registry)
    if run_id:
        return mlflow_utils.run_lineage(mlflow_utils.get_run(client, settings, run_id))
    if spec:
        return version_lineage(registry.find(spec))
    if CHAMPION in registry.aliases():
        return version_lineage(registry.find(registry.name))
    experiment = mlflow_utils.get_or_create_experiment(client, settings)
    runs = mlflow_utils.find_finished_runs(client, settings, experiment, settings.register_metric)
    if not runs:
        raise AppError(
            tr(
                "no registered model, and no finished run in experiment '{experiment}': run train.py first",
                experiment=settings.mlflow_experiment,
            )
        )
    notify(tr("no registered model: using the best run."))
    return mlflow_utils.run_lineage(runs[0])


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
