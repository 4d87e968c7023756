"""Resuming on another device: in the number format that the run was started with, and said where the device is another."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.project import SOURCE, Project, make_project
from tests.train.test_resume import kill_at_call
from train.checkpoint import load_checkpoint

OPTIONS = ("--epochs", "2", "--batch-size", "4", "--image-size", "32", "32")
EVERY_STEP = {"CHECKPOINT_MINUTES": "0.0000001"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = make_project(tmp_path_factory.mktemp("elsewhere"), images=14)
    (project.folder / "tests/support").mkdir(parents=True)
    shutil.copy(SOURCE / "tests/support/kill_training.py", project.folder / "tests/support/kill_training.py")
    return project


def interrupt(project: Project, *options: str) -> Any:
    """Kill a training after its first steps; return its run."""
    kill_at_call(project, "train_step", 3, *OPTIONS, *options, **EVERY_STEP)
    return next(run for run in project.runs() if "mlflow.parentRunId" not in run.data.tags)


def change(file: Path, part: str, values: dict[str, Any]) -> None:
    """Replace values in a part of a checkpoint: 'run' or 'state'."""
    content = torch.load(file, weights_only=True)
    content[part].update(values)
    torch.save(content, file)


@pytest.mark.parametrize("options", [(), ("--folds", "2")])
def test_a_run_goes_on_in_the_precision_of_its_start(project: Project, options: tuple[str, ...]) -> None:
    run = interrupt(project, *options)
    folder = project.folder / "models" / run.info.run_id
    record = load_checkpoint(folder / "checkpoint.pth")["run"]
    assert record["settings"]["precision"] == "float32" and record["device"] == "cpu", "decided, not 'auto'"
    of_a_gpu = {"settings": {**record["settings"], "precision": "bfloat16"}, "device": "cuda"}
    change(folder / "checkpoint.pth", "run", of_a_gpu)
    other = project.run("train.py", "--resume", run.info.run_id, "--precision", "float32")
    assert other.returncode == 2 and "PRECISION: run bfloat16, now float32" in other.stderr, other.stderr
    done = project.run("train.py", "--resume", run.info.run_id)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the run was trained on the device cuda, now it is cpu: the result may differ slightly" in done.stderr
    assert "precision: bfloat16 (as set)" in done.stdout and "precision: float32" not in done.stdout
    assert project.mlflow().get_run(run.info.run_id).data.tags["resumed_device"] == "cuda -> cpu"


def test_a_scaler_that_does_not_fit_the_precision_is_refused_in_one_line(project: Project) -> None:
    scaler = torch.amp.GradScaler("cpu").state_dict()
    for options, state, text in (
        ((), scaler, "the checkpoint is of a training in float16, expected float32"),
        (("--precision", "float16"), {}, "of a training in another precision than float16, expected float16"),
    ):
        run = interrupt(project, *options)
        change(project.folder / "models" / run.info.run_id / "checkpoint.pth", "state", {"scaler": state})
        done = project.run("train.py", "--resume", run.info.run_id)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert done.returncode == 2 and text in errors[0] and "Traceback" not in done.stderr, done.stderr
        assert project.mlflow().get_run(run.info.run_id).info.status == "FAILED"
