"""Runs with folds and sweeps in tables: judged by their own metric, and each run below the one that it belongs to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mlflow.entities import Run

import register_model
from core.errors import UsageError
from registry import candidates, commands
from registry.choice import selection
from registry.overview import listing, overview
from registry.records import describe_figures, lineage_tags
from registry.run_tree import arrange
from segmentation import evaluation, predictor
from tests.support.ensembles import make_members, publish_ensemble, write_ensemble
from tests.support.lab import SIDE, Lab, road_and_car
from utils import mlflow_utils
from utils.run_metrics import registry_metric


class Runs:
    """A plain run, one with two folds, and a sweep with a finished and a pruned trial."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        from dataclasses import replace

        self.lab, data = lab, lab.data(["t"], [f"v{i}" for i in range(12)])
        self.plain = lab.run(0.5, data)
        models = [
            replace(model, classes=road_and_car(), lineage={"x": lab.name}) for model in make_members(2, (SIDE, SIDE))
        ]
        parent = publish_ensemble(lab, data, write_ensemble(folder / "ensemble", models)).info.run_id
        lab.client.log_metric(parent, "oof_miou", 0.9)
        lab.client.set_tag(parent, "oof_classes", "2/2")
        self.folds = [self.child(parent, {"fold": str(n)}, fold_miou=0.85 + n / 100) for n in (1, 2)]
        self.parent = lab.client.get_run(parent)
        sweep = lab.client.create_run(
            self.plain.info.experiment_id, tags={"sweep": "s"}, run_name="my sweep"
        ).info.run_id
        lab.client.set_terminated(sweep)
        self.sweep = sweep
        trial = lab.run(0.7, data).info.run_id
        for key, value in {"mlflow.parentRunId": sweep, "trial": "0", "trial_state": "complete"}.items():
            lab.client.set_tag(trial, key, value)
        self.trial = lab.client.get_run(trial)
        self.pruned = self.child(sweep, {"trial": "1", "trial_state": "pruned"})

    def child(self, parent: str, tags: dict[str, str], **metrics: float) -> Run:
        lab = self.lab
        run = lab.client.create_run(
            self.plain.info.experiment_id, tags={"mlflow.parentRunId": parent, **tags}
        ).info.run_id
        for name, value in metrics.items():
            lab.client.log_metric(run, name, value)
        lab.client.set_terminated(run)
        return lab.client.get_run(run)


@pytest.fixture
def runs(lab: Lab, tmp_path: Path) -> Runs:
    return Runs(lab, tmp_path)


def rows_of(table: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in table.splitlines()[2:]]


def begins(rows: list[str], *wanted: str) -> None:
    assert len(rows) == len(wanted) and all(word in row for row, word in zip(rows, wanted, strict=True)), rows


def test_the_metric_of_a_run_with_folds_takes_the_place_of_that_of_val() -> None:
    assert registry_metric("best_val_miou", ["best_val_miou", "oof_miou"]) == "best_val_miou"
    assert registry_metric("best_val_miou", ["oof_miou"]) == "oof_miou"
    assert registry_metric("best_val_accuracy", ["oof_accuracy"]) == "oof_accuracy"
    assert registry_metric("test_miou", ["oof_miou"]) == "test_miou"


def test_tables_and_choices_know_folds_and_trials(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    lab, notes = runs.lab, list[str]()
    found = mlflow_utils.find_best_runs(lab.client, lab.settings)
    ids = [run.info.run_id for run in found]
    assert ids == [runs.parent.info.run_id, runs.trial.info.run_id, runs.plain.info.run_id]
    best = candidates.choose_run(lab.registry, lab.lake, register_model.parse([]))
    assert best is not None and best.info.run_id == ids[0]
    rows = arrange(lab.registry, found)
    assert [(row.run.info.run_id, row.depth, row.chosen) for row in rows] == [
        (ids[0], 0, True),
        (runs.folds[0].info.run_id, 1, False),
        (runs.folds[1].info.run_id, 1, False),
        (runs.sweep, 0, False),
        (ids[1], 1, True),
        (runs.pruned.info.run_id, 1, False),
        (ids[2], 0, True),
    ]
    for module in (candidates, selection):
        monkeypatch.setattr(module, "notify", notes.append)
    monkeypatch.setattr(candidates, "choose", lambda prompt, count: 1 if count == 3 else None)
    chosen = candidates.ask_run(lab.registry, found)
    assert chosen is not None and chosen.info.run_id == ids[1]
    lines = notes[-1].splitlines()[2:]
    begins(lines, "0.9000 oof", "0.8600", "0.8700", "sweep s", "2 ", "trial 1 (pruned)", "3 ")
    assert lines[0].startswith("1") and "fold 1" in lines[1] and not lines[1][0].isdigit()

    experiments = mlflow_utils.list_experiments(lab.client, lab.settings)
    place = next(i for i, each in enumerate(experiments) if each.name == lab.settings.mlflow_experiment)
    answers = iter([place, 2])
    monkeypatch.setattr(selection, "choose", lambda *_: next(answers))
    selected = selection.ask(lab.registry)
    assert selected is not None and selected.run_id == ids[2]
    lines = notes[-1].splitlines()[2:]
    begins(lines, "0.9000 oof", "- fold 1", "- fold 2", "sweep s", "trial 0 (complete)", "- trial 1 (pruned)", "3 ")


def test_a_version_with_folds_shows_them(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = runs.lab
    lineage = mlflow_utils.run_lineage(runs.parent)
    tags = lineage_tags(lineage, runs.parent)
    assert tags["metric.oof_miou"] == "0.9" and tags["oof_classes"] == "2/2"
    assert "out-of-fold mIoU 0.9000" in describe_figures(lineage.metrics)
    version = lab.registry.create_version(lineage, runs.parent, {})
    other = lab.registry.create_version(mlflow_utils.run_lineage(runs.plain), runs.plain, {})
    lines = overview(lab.registry).splitlines()[2:]
    begins(lines, f"v{other.version}", "0.9000 oof", "- fold 1", "- fold 2")
    lines = overview(lab.registry, numbered=True).splitlines()[2:]
    assert [line[0] for line in lines] == ["1", "2", " ", " "]
    found = {each["version"]: each["children"] for each in listing(lab.registry)["versions"]}
    assert found[int(other.version)] == []
    assert found[int(version.version)][0] == {
        "run_id": runs.folds[0].info.run_id, "fold": "1", "metrics": {"fold_miou": 0.86},
    }  # fmt: skip
    notes: list[str] = []
    monkeypatch.setattr(selection, "notify", notes.append)
    experiments = mlflow_utils.list_experiments(lab.client, lab.settings)
    place = next(i for i, each in enumerate(experiments) if each.name == lab.settings.mlflow_experiment)
    answers = iter([place, 1])
    monkeypatch.setattr(selection, "choose", lambda *_: next(answers))
    selected = selection.ask(lab.registry)
    assert selected is not None and selected.version == f"{lab.name} v{version.version}"
    lines = notes[-1].splitlines()[2:]
    begins(lines, f"v{other.version}", f"v{version.version}", "- fold 1", "- fold 2", "sweep s", "trial 0", "trial 1")


def test_a_fold_is_refused_and_the_run_of_all_folds_is_named(runs: Runs) -> None:
    parent, fold = runs.parent.info.run_id, runs.folds[1]
    with pytest.raises(UsageError, match=f"is fold 2 of run {parent}: python register_model.py --run-id {parent}"):
        candidates.require_registrable(fold, runs.lab.settings)
    candidates.require_registrable(runs.parent, runs.lab.settings)
    candidates.require_threshold(runs.parent, runs.lab.settings)


def test_tags_that_form_a_circle_lose_no_run(runs: Runs) -> None:
    lab, first, second = runs.lab, runs.plain.info.run_id, runs.trial.info.run_id
    lab.client.set_tag(first, "mlflow.parentRunId", second)
    lab.client.set_tag(second, "mlflow.parentRunId", first)
    rows = arrange(lab.registry, mlflow_utils.find_best_runs(lab.client, lab.settings))
    listed = [row.run.info.run_id for row in rows if row.chosen]
    assert sorted(listed) == sorted([first, second, runs.parent.info.run_id])


def test_the_call_prints_the_metric_that_judged(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    lab, notes = runs.lab, list[str]()
    monkeypatch.setattr(evaluation, "segment", predictor.segment)
    monkeypatch.setattr(commands, "result", notes.append)
    commands.run(lab.settings, register_model.parse(["--run-id", runs.parent.info.run_id, "--force", "a test"]))
    assert "oof_miou 0.9000" in notes[-1]
