"""Which run is registered: the one that is named or chosen from a table, else the best since the last registration."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from config import Settings
from core.console import SHOWN_ID, choose, fit_table
from core.errors import BelowThreshold, UsageError
from core.i18n import tr
from core.reporting import notify
from registry.overview import aliases_of
from registry.records import REGISTERED
from registry.run_tree import arrange, describe, metric_cell
from registry.versions import Registry
from segmentation.means import format_metric
from utils import mlflow_utils
from utils.lakefs_utils import LakeFS
from utils.lineage import fold_of
from utils.run_metrics import registry_metric
from utils.servers import Servers
from versioning.naming.results import resolve_run

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion


def choose_run(registry: Registry, lake: LakeFS, options: argparse.Namespace) -> Run | None:
    """Return the run of the options; else the best since the newest version was created, or without one, of all."""
    client, settings = registry.client, registry.settings
    if options.run_id:
        run_id = resolve_run(Servers(registry.settings, client=registry.client, lake=lake), options.run_id)
        return mlflow_utils.get_run(client, settings, run_id)
    runs = mlflow_utils.find_best_runs(client, settings)
    if options.manual:
        return ask_run(registry, runs)
    versions = registry.versions()
    candidates = [run for run in runs if not was_deleted(registry.name, versions, run)]
    if not candidates:
        raise UsageError(
            tr(
                "every finished run was registered before, and its version deleted: register one again: {command}",
                command=f"python register_model.py --run-id {runs[0].info.run_id}"
                + (" --force REASON" if options.force else ""),
            )
        )
    last = max((version.creation_timestamp for version in versions), default=0)
    return next((run for run in candidates if (run.info.end_time or 0) > last), candidates[0])


def was_deleted(name: str, versions: Sequence[ModelVersion], run: Run) -> bool:
    """Return whether a person deleted the version that a run had of this model: it must not come back unasked."""
    registered = run.data.tags.get(REGISTERED, "").rpartition(" v")[0] == name
    return registered and all(version.run_id != run.info.run_id for version in versions)


def ask_run(registry: Registry, runs: list[Run]) -> Run | None:
    """Show the runs and ask for one; None if nobody answers."""
    known, aliases, metric = registry.versions_by_run(), registry.aliases(), registry.settings.register_metric
    code, data, name = "Git", tr("data commit"), tr("name")
    headers = ["#", metric, tr("date"), tr("run"), name, code, data, tr("registered")]
    rows: list[list[str]] = []
    choices: list[Run] = []
    for row in arrange(registry, runs):
        run, tags, version = row.run, row.run.data.tags, known.get(row.run.info.run_id)
        choices += [run] if row.chosen else []
        dirty = "+" if tags.get("git_dirty") == "true" else ""
        ids = [tags.get("git_commit", "none")[:SHOWN_ID] + dirty, tags.get("lakefs_data_commit", "none")[:SHOWN_ID]]
        mark = f"v{version.version} {aliases_of(version, aliases)}".rstrip() if version else tr("no")
        shown = [run.info.run_id[:SHOWN_ID], run.info.run_name, *ids, mark if row.chosen else describe(run) or "-"]
        number = str(len(choices)) if row.chosen else "-" * row.depth
        rows.append(
            [number, metric_cell(metric, run.data.metrics, tags), mlflow_utils.format_time(run.info.start_time), *shown]
        )
    notify(fit_table(headers, rows, (name, data, code)))
    index = choose(tr("run to register"), len(choices))
    return None if index is None else choices[index]


def require_registrable(run: Run, settings: Settings) -> None:
    """Raise UsageError for a run that is not finished or lacks the metric."""
    metric = registry_metric(settings.register_metric, run.data.metrics)
    if fold := fold_of(run.data.tags):
        raise UsageError(
            tr(
                "run {run_id} is fold {fold} of run {parent}: python register_model.py --run-id {parent}",
                run_id=run.info.run_id,
                fold=fold[0],
                parent=fold[1],
            )
        )
    if run.info.status != "FINISHED" or run.data.tags.get("smoke") == "true":
        state = "--smoke" if run.data.tags.get("smoke") == "true" else run.info.status
        raise UsageError(
            tr(
                "run {run_id} is {state}: only a FINISHED training can be registered",
                run_id=run.info.run_id,
                state=state,
            )
        )
    if metric not in run.data.metrics:
        known = ", ".join(sorted(run.data.metrics)) or tr("none")
        raise UsageError(
            tr(
                "run {run_id} has no metric '{metric}' (available: {known})",
                run_id=run.info.run_id,
                metric=metric,
                known=known,
            )
        )


def require_threshold(run: Run, settings: Settings) -> None:
    """Raise BelowThreshold for a run that is not good enough to be registered at all."""
    metric, threshold = registry_metric(settings.register_metric, run.data.metrics), settings.register_threshold
    value = run.data.metrics[metric]
    if not value >= threshold:  # NaN is not good enough either
        raise BelowThreshold(
            tr(
                "run {run_id}: {metric} {value} < threshold {threshold:.4f}: not registered",
                run_id=run.info.run_id,
                metric=metric,
                value=format_metric(metric, value, run.data.tags),
                threshold=threshold,
            )
        )
