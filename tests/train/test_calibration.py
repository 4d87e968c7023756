"""The end of a training: its best model gets a temperature and a description of the training images."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import config
from core.hashing import file_sha256
from core.safety.json_object import JsonObject
from dataset.sources.synthetic import generate_sample
from dataset.validation import check_data
from segmentation.model_file import load_model, read_record
from segmentation.reliability.calibration import LogitSamples, fit_temperature
from tests.support.models import CPU
from tests.support.pages import run_summary
from tests.support.project import Project
from train.checkpoint import load_checkpoint
from train.model_train import ModelTrain
from train.reliability.calibration import Calibration, report_calibration
from train.setup import prepare_training
from train.tracking.description import describe_run
from versioning.provenance.measurements import Measurements

METRICS = ("temperature", "val_ece", "val_ece_uncalibrated", "test_ece", "test_ece_uncalibrated", "val_drift")


class Trained:
    """A data directory with a test split, and trainings of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        generate_sample(folder / "data", seed=0, count=40)
        self.data = check_data(folder / "data", 0)

    def training(self, name: str) -> ModelTrain:
        settings = config.load_settings(
            model_path=self.folder / name / "m.pth",
            lakefs_local_dir=self.folder / "lakefs",
            epochs=3,
            batch_size=8,
            image_size=(48, 48),
            device="cpu",
        )
        return ModelTrain(prepare_training(settings, self.data), self.folder / name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, ModelTrain]:
    project = Trained(tmp_path_factory.mktemp("calibration"))
    training = project.training("whole")
    training.fit()
    return project, training


def test_best_model_gets_the_temperature_of_val_and_the_training_images(trained: tuple[Trained, ModelTrain]) -> None:
    _, training = trained
    found = training.calibration
    assert found is not None and found.val is not None and found.test is not None
    loaded = load_model(training.best_file, file_sha256(training.best_file), CPU)
    assert loaded.temperature == found.temperature != 1.0
    assert read_record(training.best_file).metrics["val_ece"] == found.val.after.error
    assert loaded.inputs is not None and loaded.inputs.features is not None
    assert found.val_drift is not None and found.val_drift <= 0.02
    assert set(found.metrics()) == set(METRICS)
    images = training.setup.val_images
    samples = LogitSamples(len(images), loaded.classes.num_classes)
    with torch.inference_mode():
        from train.validation import evaluate

        evaluate(loaded, images, CPU, training.setup.criterion, False, samples=samples)
    assert fit_temperature(samples) == found.temperature


@pytest.mark.parametrize("lost", ["the checkpoint with the calibration", "that with the test metrics"])
def test_kill_at_the_end_of_a_training_gives_the_same_model(trained: tuple[Trained, ModelTrain], lost: str) -> None:
    project, training = trained
    name = lost.replace(" ", "-")
    state: dict[str, Any] = copy.deepcopy(load_checkpoint(training.checkpoint_file)["state"])
    state["test"] = None
    state["calibration"] = None if lost.endswith("calibration") else {**state["calibration"], "splits": {}}
    again = project.training(name)
    again.run_folder.mkdir(exist_ok=True)
    (again.run_folder / training.best_file.name).write_bytes(training.best_file.read_bytes())
    again.fit(state)
    assert again.best_file.read_bytes() == training.best_file.read_bytes()
    assert again.test == training.test and again.calibration is not None and training.calibration is not None
    assert again.calibration.metrics()["test_ece"] == training.calibration.metrics()["test_ece"]
    if lost.endswith("calibration"):
        assert again.calibration.metrics() == training.calibration.metrics()


def test_state_of_a_calibration_restores_it_exactly(trained: tuple[Trained, ModelTrain]) -> None:
    found = trained[1].calibration
    assert found is not None
    restored = Calibration.from_state(json.loads(json.dumps(found.state())))
    assert restored.metrics() == found.metrics() and restored.state() == found.state()
    assert Calibration.from_state(Calibration().state()) == Calibration()


def test_errors_before_and_after_are_reported_in_one_line(
    trained: tuple[Trained, ModelTrain], capsys: pytest.CaptureFixture[str]
) -> None:
    found = trained[1].calibration
    assert found is not None
    report_calibration(found)
    (line,) = capsys.readouterr().out.splitlines()
    errors = {name: f"{found.metrics()[name]:.4f}" for name in METRICS if "ece" in name}
    assert f"val {errors['val_ece_uncalibrated']} → {errors['val_ece']}, test {errors['test_ece_uncalibrated']}" in line


def test_page_description_and_card_show_the_calibration(
    trained: tuple[Trained, ModelTrain], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import dataclasses

    from core.pages.cards import Gallery
    from train.reports.html import write_report

    found = trained[1].calibration
    assert found is not None
    summary = run_summary()
    summary = dataclasses.replace(summary, result=dataclasses.replace(summary.result, calibration=found))
    write_report(tmp_path / "r.html", summary, Gallery("s", "", [], [], [], ("a", "b"), []))
    page = (tmp_path / "r.html").read_text()
    assert 'id="reliability"' in page and "Reliability on val" in page and "Reliability on test" in page
    assert f"divided by {found.temperature:.4g}" in page
    settings = {"model": "m", "image_size": "1", "batch_size": "1", "seed": "0"}
    described = describe_run(summary, settings)
    assert f"**Calibration:** temperature {found.temperature:.4g}" in described
    assert "| split | without | with the temperature |" in described


def test_run_commit_and_file_have_the_metrics_and_predictions_use_them(once_trained: Project) -> None:
    run = once_trained.runs()[0]
    content = json.loads((once_trained.folder / "models/metrics.json").read_text())
    measured = {name: content[name] for name in METRICS if name in content}
    assert measured.keys() >= {"temperature", "val_ece", "val_ece_uncalibrated", "test_ece"}
    assert {name: run.data.metrics[name] for name in measured} == measured
    file = once_trained.folder / "models/model.pth"
    assert load_model(file, run.data.tags["model_sha256"], CPU).temperature == measured["temperature"]
    figures = Measurements.of(JsonObject(content, "metrics.json", ""))
    assert figures.temperature == measured["temperature"] and figures.splits["test"].ece == measured["test_ece"]
    assert math.isfinite(measured["val_ece"])
    page = (once_trained.folder / "models" / run.info.run_id / "report.html").read_text()
    assert 'id="reliability"' in page
    traced = once_trained.run("lake.py", "trace", run.info.run_id)
    assert traced.returncode == 0, traced.stdout + traced.stderr
