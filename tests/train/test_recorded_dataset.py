"""The data set that MLflow records as the input of a run, when two trainings record the same one at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput
from mlflow.exceptions import MlflowException

from utils.mlflow_utils import log_dataset

DATASET = DatasetInput(Dataset(name="data", digest="d49a679b", source_type="lakefs", source="{}"), [])
RACE = "BAD_REQUEST: (sqlite3.IntegrityError) UNIQUE constraint failed: datasets.experiment_id, datasets.name"


@pytest.fixture
def client(tmp_path: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")


def failing(client: MlflowClient, monkeypatch: pytest.MonkeyPatch, message: str, times: int) -> list[str]:
    """Let the first calls of `log_inputs` fail with this message; return the list of the failures so far."""
    real, failures = client.log_inputs, list[str]()

    def log_inputs(*arguments: Any) -> None:
        if len(failures) < times:
            failures.append(message)
            raise MlflowException(message)
        real(*arguments)

    monkeypatch.setattr(client, "log_inputs", log_inputs)
    return failures


def test_a_data_set_that_another_training_has_just_inserted_is_found(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = client.create_run(client.create_experiment("e")).info.run_id
    failures = failing(client, monkeypatch, RACE, 1)
    log_dataset(client, run, DATASET)
    inputs = client.get_run(run).inputs
    assert failures and inputs is not None
    assert [item.dataset.digest for item in inputs.dataset_inputs] == ["d49a679b"]


@pytest.mark.parametrize(("message", "calls"), [(RACE, 2), ("INTERNAL_ERROR: disk is full", 1)])
def test_other_failures_and_a_second_one_are_errors(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, message: str, calls: int
) -> None:
    failures = failing(client, monkeypatch, message, 9)
    with pytest.raises(MlflowException, match=message.split(":", maxsplit=1)[0]):
        log_dataset(client, "0" * 32, DATASET)
    assert len(failures) == calls
