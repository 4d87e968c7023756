"""The lineage of a model: its run, code, data and model paths."""

from __future__ import annotations

from dataclasses import dataclass

from utils.lakefs_utils import LakePath


@dataclass(frozen=True)
class Lineage:
    """Origin of a model, as recorded by the MLflow run or the registered version made from it."""

    run_id: str
    version: str | None  # "<name> v<N>" for a registered version
    model_path: LakePath
    model_sha256: str
    data_path: LakePath
    git_commit: str
    metrics: dict[str, float]
