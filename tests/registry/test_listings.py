"""Listings of MLflow are read to their last page."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from config import Settings
from registry.versions import Registry
from utils import mlflow_utils


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setattr(mlflow_utils, "PAGE", 2)
    return MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")


def test_every_page_of_each_listing_is_read(client: MlflowClient, tmp_path: Path) -> None:
    settings = Settings(mlflow_tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    experiment = mlflow_utils.get_or_create_experiment(client, settings)
    runs = []
    for number in range(5):
        run = client.create_run(experiment, tags={"git_commit": "c", "lakefs_model_commit": "m"}).info.run_id
        client.log_metric(run, "best_val_miou", number / 10)
        client.set_terminated(run)
        client.create_registered_model(f"model-{number}")
        client.create_experiment(f"other-{number}")
        client.create_model_version("model-0", source=f"lakefs://repo/{number:064}/models", run_id=run)
        runs.append(run)
    registry = Registry(client, settings)
    assert registry.model_names() == [f"model-{number}" for number in range(5)]
    assert [int(version.version) for version in registry.versions("model-0")] == [5, 4, 3, 2, 1]
    assert len(mlflow_utils.list_experiments(client, settings)) == 7  # with MLflow's own "Default"
    found = mlflow_utils.search_runs(client, [experiment], "tags.git_commit = 'c'")
    assert {run.info.run_id for run in found} == set(runs)
