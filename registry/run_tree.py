"""Runs that belong to another one - folds, and the trials of a sweep - in tables, each below the run that it belongs to."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.errors import UsageError
from core.i18n import tr
from registry.records import METRIC
from segmentation.means import format_cell
from utils import mlflow_utils
from utils.identifiers import RunId
from utils.lineage import FOLD_TAG, PARENT_TAG
from utils.run_metrics import OOF_PREFIX, child_metric, registry_metric

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

    from registry.versions import Registry

SWEEP_TAG, TRIAL_TAG, TRIAL_STATE = "sweep", "trial", "trial_state"  # of the runs of a sweep
MAX_DEPTH = 5  # of folds in trials there are two; tags of runs are texts of anybody
SHOWN_CHILDREN = 20  # runs below one row that cannot be chosen
OOF_METRIC, OOF_MARK = "oof_miou", "oof"
FOLD_METRICS = ("fold_miou", "fold_accuracy")


@dataclass(frozen=True)
class Row:
    """A run in a table: how deep it is below the first one, and whether it is a candidate, which can be chosen."""

    run: Run
    depth: int
    chosen: bool


def find_children(registry: Registry, experiments: Sequence[str], parent: str | None = None) -> list[Run]:
    """Return the runs of these experiments that belong to another one, or to `parent`, in the order of their numbers."""
    condition = f"tags.`{PARENT_TAG}` LIKE '%'" if parent is None else f"tags.`{PARENT_TAG}` = '{parent}'"
    with mlflow_utils.convert_errors(registry.settings, tr("searching runs")):
        found = list(mlflow_utils.search_runs(registry.client, experiments, condition))
    return sorted(found, key=_number)


def _number(run: Run) -> tuple[int, int]:
    text = run.data.tags.get(FOLD_TAG, run.data.tags.get(TRIAL_TAG, ""))
    return (int(text) if text.isdecimal() and len(text) < 10 else 0), int(run.info.start_time or 0)


def arrange(registry: Registry, candidates: Sequence[Run]) -> list[Row]:
    """Return candidates, best first, each with the runs that belong to it below; a trial is below its sweep.

    Only the first runs that cannot be chosen are listed below one run.
    """
    experiments = list(dict.fromkeys(run.info.experiment_id for run in candidates))
    children = find_children(registry, experiments) if candidates else []
    known = {str(run.info.run_id): run for run in (*candidates, *children)}  # candidates first, also below their sweep
    below: dict[str, list[Run]] = defaultdict(list)
    for run in known.values():
        if PARENT_TAG in run.data.tags:
            below[run.data.tags[PARENT_TAG]].append(run)
    known |= _parents(registry, candidates, known)
    return _walk(candidates, known, below)


def _parents(registry: Registry, candidates: Sequence[Run], known: Mapping[str, Run]) -> dict[str, Run]:
    """Return the runs that candidates belong to and that are not known, such as sweeps; one that is gone is left out."""
    found = {}
    for parent in {run.data.tags[PARENT_TAG] for run in candidates if PARENT_TAG in run.data.tags} - known.keys():
        with contextlib.suppress(UsageError):
            found[parent] = mlflow_utils.get_run(registry.client, registry.settings, parent)
    return found


def _walk(candidates: Sequence[Run], known: Mapping[str, Run], below: Mapping[str, list[Run]]) -> list[Row]:
    rows, seen, choosable = list[Row](), set[str](), {run.info.run_id for run in candidates}

    def add(run: Run, depth: int) -> None:
        seen.add(run.info.run_id)
        rows.append(Row(run, depth, run.info.run_id in choosable))
        others = 0
        for child in below.get(run.info.run_id, ()):
            can_be_chosen = child.info.run_id in choosable
            others += not can_be_chosen
            if child.info.run_id not in seen and depth < MAX_DEPTH and (can_be_chosen or others <= SHOWN_CHILDREN):
                add(child, depth + 1)

    for run in candidates:
        first = _first(run, known)
        if first.info.run_id not in seen:
            add(first, 0)
        if run.info.run_id not in seen:  # tags that form a circle, or a deep chain
            add(run, 0)
    return rows


def _first(run: Run, known: Mapping[str, Run]) -> Run:
    """Return the run that a run belongs to in the end."""
    for _ in range(MAX_DEPTH):
        parent = known.get(run.data.tags.get(PARENT_TAG, ""))
        if parent is None:
            break
        run = parent
    return run


def describe(run: Run) -> str:
    """Return what a run is to others: 'fold 2', 'trial 7 (pruned)', or 'sweep NAME'; '' for another one."""
    tags = run.data.tags
    if FOLD_TAG in tags:
        return tr("fold {fold}", fold=tags[FOLD_TAG][:10])
    if TRIAL_TAG in tags:
        return tr("trial {trial} ({state})", trial=tags[TRIAL_TAG][:10], state=tags.get(TRIAL_STATE, "?")[:20])
    if SWEEP_TAG in tags:
        return tr("sweep {name}", name=tags[SWEEP_TAG][:20])
    return ""


def metric_cell(metric: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> str:
    """Return the cell of the metric that judges a run or version, or of that of a fold; '-' without one.

    An out-of-fold metric is marked: it does not say the same as that of a validation split.
    """
    name = registry_metric(metric, metrics)
    name = child_metric(metric, metrics) if name not in metrics else name
    if name not in metrics:
        return "-"
    mark = f" {OOF_MARK}" if name.startswith(OOF_PREFIX) else ""
    return format_cell(name, metrics[name], tags) + mark


def folds_of(registry: Registry, versions: Sequence[ModelVersion]) -> dict[str, list[Run]]:
    """Return the runs of the folds of versions that consist of folds: run ID of the version -> runs, in their order."""
    parents = [str(version.run_id) for version in versions if f"{METRIC}{OOF_METRIC}" in version.tags]
    if not parents:
        return {}
    experiments = mlflow_utils.list_experiments(registry.client, registry.settings)
    ids = [experiment.experiment_id for experiment in experiments]
    return {parent: find_children(registry, ids, parent) for parent in parents if RunId.accepts(parent)}


def child_facts(runs: Iterable[Run]) -> list[dict[str, object]]:
    """Return the runs of the folds of a version for a program."""
    return [
        {
            "run_id": run.info.run_id,
            "fold": run.data.tags.get(FOLD_TAG),
            "metrics": {key: run.data.metrics[key] for key in FOLD_METRICS if key in run.data.metrics},
        }
        for run in runs
    ]
