"""Tables of models fit the terminal and name each model once; listings of MLflow are read to their last page."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient
from wcwidth import wcswidth

import register_model
from config import Settings
from registry import candidates, commands
from registry.choice import selection
from registry.versions import Registry
from tests.support.lab import Lab
from utils import mlflow_utils

VAL = [f"v{number:02}" for number in range(12)]


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


def table(text: str) -> list[str]:
    """Return the rows of a printed table that fits 100 columns."""
    lines = text.rstrip("\n").split("\n")
    assert max(map(wcswidth, lines)) <= 100, text
    return lines[2:]


def test_tables_of_models_fit_mark_the_champion_and_name_no_model_twice(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = lab.data(["t"], VAL)
    runs = [lab.run(quality, data) for quality in (0.3, 0.9, 0.5)]
    for run in runs:  # the long form of a figure: some classes are absent
        for split in ("val", "test"):
            lab.client.set_tag(run.info.run_id, f"{split}_classes", "9/11")
        lab.client.log_metric(run.info.run_id, "test_miou", 0.12345)
    runs = [lab.client.get_run(run.info.run_id) for run in runs]
    for run in runs[:2]:
        lab.promotion.register(run, None)
    assert lab.aliases()["champion"] == "2"
    capsys.readouterr()

    notes: list[str] = []
    for module in (selection, candidates):
        monkeypatch.setattr(module, "notify", notes.append)
    experiments = mlflow_utils.list_experiments(lab.client, lab.settings)
    place = next(i for i, each in enumerate(experiments) if each.name == lab.settings.mlflow_experiment)
    answers = iter([place, 0])
    monkeypatch.setattr(selection, "choose", lambda *_: next(answers))
    chosen = selection.ask(lab.registry)
    assert chosen is not None and chosen.run_id == runs[1].info.run_id
    rows = table(notes[-1])
    assert [run.info.run_id[:8] in row for run, row in zip([runs[1], runs[0], runs[2]], rows, strict=True)] == [
        True
    ] * 3
    assert ["champion" in row for row in rows] == [True, False, False]

    monkeypatch.setattr(candidates, "choose", lambda *_: 0)
    found = candidates.ask_run(lab.registry, mlflow_utils.find_best_runs(lab.client, lab.settings))
    assert found is not None and found.info.run_id == runs[1].info.run_id
    rows = table(notes[-1])
    assert ["v2 champion" in row for row in rows] == [True, False, False] and runs[2].info.run_id[:8] in rows[1]

    monkeypatch.setattr(commands, "result", notes.append)
    assert commands.run(lab.settings, register_model.parse(["--list"])) == 0
    rows = table(notes[-1])
    assert "(9/11)" in rows[0] and [run.info.run_id[:8] in row for run, row in zip(runs[1::-1], rows, strict=True)]
    commands.run(lab.settings, register_model.parse(["--list", "--long"]))
    assert runs[1].info.run_id in notes[-1] and lab.tags("2")["lakefs_model_commit"] in notes[-1]
