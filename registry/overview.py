"""The table of registered versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from core.console import SHOWN_ID, fit_table, format_table
from core.i18n import tr
from registry.judging.metrics import split_metric
from registry.records import PENDING, ROLLED_BACK, STATE, metrics_of, verdict_of
from registry.run_tree import child_facts, describe, folds_of, metric_cell
from registry.versions import Registry
from utils import mlflow_utils

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion


def overview(
    registry: Registry, numbered: bool = False, versions: Sequence[ModelVersion] | None = None, long: bool = False
) -> str:
    """Return a table of versions, by default of all, newest first: aliases, figures, verdict and lineage.

    It fits 100 columns: IDs are cut to the 8 characters that every command accepts, and columns are left out if they are
    too wide. `long`: all columns, with full IDs.
    """
    aliases, metric = registry.aliases(), registry.settings.register_metric
    code, data, model = tr("trained with Git"), tr("data commit"), tr("model commit")
    headers = [tr("version"), tr("aliases"), metric, *_test_columns(metric), tr("verdict"), tr("date"), tr("run")]
    headers += [code, data, model]
    chosen = registry.versions() if versions is None else versions
    length, folds = None if long else SHOWN_ID, folds_of(registry, chosen)
    rows = list[list[str]]()
    for number, version in enumerate(chosen, 1):
        below = [_fold_row(run, metric, length) for run in folds.get(str(version.run_id), ())]
        own = [_row(version, metric, aliases, length), *below]
        rows += [[str(number) if row is own[0] else "", *row] for row in own] if numbered else own
    headers = ["#", *headers] if numbered else headers
    if long:
        return format_table(headers, rows)
    return fit_table(headers, rows, (model, data, code, *_test_columns(metric)))


def listing(registry: Registry) -> dict[str, Any]:
    """Return all versions for a program, newest first."""
    aliases = registry.aliases()
    versions = registry.versions()
    folds = folds_of(registry, versions)
    facts = [_facts(v, aliases) | {"children": child_facts(folds.get(str(v.run_id), ()))} for v in versions]
    return {"model": registry.name, "versions": facts}


def _facts(version: ModelVersion, aliases: dict[str, str]) -> dict[str, Any]:
    tags = version.tags
    verdict, created = verdict_of(version), mlflow_utils.local_time(version.creation_timestamp)
    return {
        "version": int(version.version),
        "aliases": sorted(alias for alias, number in aliases.items() if number == str(version.version)),
        "metrics": metrics_of(version),
        "decision": verdict.decision if verdict else None,
        "created": created.isoformat() if created else None,
        "run_id": version.run_id or tags.get("run_id"),
        "git_commit": tags.get("git_commit"),
        "git_dirty": tags.get("git_dirty"),
        "data_commit": tags.get("lakefs_data_commit"),
        "model_commit": tags.get("lakefs_model_commit"),
        "source": version.source,
    }


def _row(version: ModelVersion, metric: str, aliases: dict[str, str], length: int | None) -> list[str]:
    """Return the cells of a version; `length`: characters of an ID, None for all."""
    tags, metrics = version.tags, metrics_of(version)
    return [
        f"v{version.version}",
        aliases_of(version, aliases),
        *(metric_cell(name, metrics, tags) for name in (metric, *_test_columns(metric))),
        _verdict(version),
        mlflow_utils.format_time(version.creation_timestamp),
        str(version.run_id or tags.get("run_id", "-"))[:length],
        tags.get("git_commit", "none")[:length] + ("+" if tags.get("git_dirty") == "true" else ""),
        tags.get("lakefs_data_commit", "-")[:length],
        tags.get("lakefs_model_commit", "-")[:length],
    ]


def _fold_row(run: Run, metric: str, length: int | None) -> list[str]:
    """Return the cells of a fold below its version."""
    figures = [metric_cell(metric, run.data.metrics, run.data.tags), *("" for _ in _test_columns(metric))]
    date = mlflow_utils.format_time(run.info.start_time)
    return [f"- {describe(run)}", "", *figures, "", date, run.info.run_id[:length], "", "", ""]


def aliases_of(version: ModelVersion, aliases: Mapping[str, str]) -> str:
    """Return the aliases that name a version, such as 'champion'; `aliases`: alias -> version number."""
    return ", ".join(sorted(alias for alias, number in aliases.items() if number == str(version.version)))


def _test_columns(metric: str) -> list[str]:
    """Return the metric of the test split that stands beside the one that decides."""
    return [] if metric.startswith("test") else [f"test_{split_metric(metric)}"]


def _verdict(version: ModelVersion) -> str:
    tags, gate = version.tags, verdict_of(version)
    verdict = tr(gate.decision) if gate else "-"
    if gate and gate.forced:
        verdict += tr(" (forced)")
    if ROLLED_BACK in tags:
        verdict += tr(", rolled back")
    if tags.get(STATE) == PENDING:
        verdict += tr(", unfinished")
    return verdict
