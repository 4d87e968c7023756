"""The table of registered versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from core.console import format_table
from core.i18n import tr
from registry.metrics import split_metric
from registry.versions import PENDING, ROLLED_BACK, STATE, Registry, metrics_of, verdict_of
from segmentation.means import format_metric
from utils import mlflow_utils

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


def overview(registry: Registry, numbered: bool = False, versions: Sequence[ModelVersion] | None = None) -> str:
    """Return a table of versions, by default of all, newest first: aliases, figures, verdict and lineage."""
    aliases, metric = registry.aliases(), registry.settings.register_metric
    headers = [
        tr("version"),
        tr("aliases"),
        metric,
        *_test_columns(metric),
        tr("verdict"),
        tr("date"),
        tr("run"),
        tr("trained with Git"),
        tr("data commit"),
        tr("model commit"),
    ]
    rows = [_row(version, metric, aliases) for version in (registry.versions() if versions is None else versions)]
    if numbered:
        headers, rows = ["#", *headers], [[str(i), *row] for i, row in enumerate(rows, 1)]
    return format_table(headers, rows)


def listing(registry: Registry) -> dict[str, Any]:
    """Return all versions for a program, newest first."""
    aliases = registry.aliases()
    return {"model": registry.name, "versions": [_facts(version, aliases) for version in registry.versions()]}


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


def _row(version: ModelVersion, metric: str, aliases: dict[str, str]) -> list[str]:
    tags, metrics = version.tags, metrics_of(version)
    return [
        f"v{version.version}",
        ", ".join(sorted(alias for alias, number in aliases.items() if number == str(version.version))),
        *(_metric_of(metrics, tags, name) for name in (metric, *_test_columns(metric))),
        _verdict(version),
        mlflow_utils.format_time(version.creation_timestamp),
        str(version.run_id or tags.get("run_id", "-"))[:12],
        tags.get("git_commit", "none")[:8] + ("+" if tags.get("git_dirty") == "true" else ""),
        tags.get("lakefs_data_commit", "-")[:8],
        tags.get("lakefs_model_commit", "-")[:8],
    ]


def _test_columns(metric: str) -> list[str]:
    """Return the metric of the test split that stands beside the one that decides."""
    return [] if metric.startswith("test") else [f"test_{split_metric(metric)}"]


def _metric_of(metrics: Mapping[str, float], tags: Mapping[str, str], name: str) -> str:
    return format_metric(name, metrics[name], tags) if name in metrics else "-"


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
