"""Resuming an interrupted run: bit-identical to an uninterrupted one, in the same MLflow run."""

from __future__ import annotations

import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import config
from core.errors import UsageError
from dataset.sources.synthetic import generate_sample
from dataset.validation import check_data
from tests.support.project import SIGINT, SOURCE, Project, finish, make_project, wait_for_line
from train.checkpoint import load_checkpoint
from train.model_train import ModelTrain
from train.resume import find
from train.setup import prepare_training

# Five steps per epoch; the learning rate is so high that the metrics oscillate and PATIENCE takes effect.
OPTIONS = ("--epochs", "6", "--batch-size", "4", "--image-size", "32", "32", "--lr", "0.05", "--patience", "2")
SOME_EPOCHS = (*OPTIONS, "--validate-every", "2")
EVERY_STEP = {"CHECKPOINT_MINUTES": "0.0000001"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = make_project(tmp_path_factory.mktemp("resume"), images=25)
    (project.folder / "tests/support").mkdir(parents=True)
    shutil.copy(SOURCE / "tests/support/kill_training.py", project.folder / "tests/support/kill_training.py")
    return project


def kill_at_call(project: Project, place: str, number: int, *arguments: str, **env: str) -> None:
    done = project.run("-m", "tests.support.kill_training", place, str(number), *arguments, env=env)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr


def recorded_metrics(project: Project, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """Return every metric of a run except timings, with its steps."""
    client = project.mlflow()
    names = client.get_run(run_id).data.metrics
    return {
        name: [(m.step, m.value) for m in client.get_metric_history(run_id, name)]
        for name in sorted(names)
        if name != "images_per_second"
    }


def weights(project: Project) -> dict[str, torch.Tensor]:
    content = torch.load(project.folder / "models/model.pth", weights_only=True)
    state: dict[str, torch.Tensor] = content["state_dict"]
    return state


def is_identical(a: Any, b: Any) -> bool:
    """Return whether two nested values are bit-identical."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(is_identical(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(is_identical, a, b))
    return bool(a == b)


@pytest.fixture(scope="module")
def reference(project: Project) -> tuple[str, dict[str, torch.Tensor]]:
    """Id and weights of an uninterrupted run."""
    done = project.run("train.py", *SOME_EPOCHS)
    assert done.returncode == 0, done.stdout + done.stderr
    return project.runs()[0].info.run_id, weights(project)


@pytest.mark.parametrize("seed", range(int(os.environ.get("TEST_KILLS", "1"))))  # about 30 seconds each
def test_resume_after_kills_at_random_steps_is_bit_identical(
    project: Project, reference: tuple[str, dict[str, torch.Tensor]], seed: int
) -> None:
    run_id, model = reference
    metrics = recorded_metrics(project, run_id)
    epochs = len(metrics["train_loss"])
    assert [step for step, _ in metrics["val_miou"]] == list(range(2, epochs + 1, 2)), "every second epoch is measured"
    steps = sorted(random.Random(seed).sample(range(2, 5 * epochs), 2))
    before = len(project.runs())
    kill_at_call(project, "train_step", steps[0], *SOME_EPOCHS, **EVERY_STEP)
    run = project.runs()[0]
    kill_at_call(project, "train_step", steps[1] - steps[0], "--resume", "last")
    kill_at_call(project, "end_epoch", 1, "--resume", str(project.folder / "models" / run.info.run_id))
    kill_at_call(project, "publish_model", 1, "--resume", run.info.run_id)
    done = project.run("train.py", "--resume", "last")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "=== LakeFS 커밋 완료 ===" in done.stdout
    again = project.mlflow().get_run(run.info.run_id)
    assert again.info.status == "FINISHED" and len(project.runs()) == before + 1, "the same run was resumed"
    assert recorded_metrics(project, run.info.run_id) == recorded_metrics(project, run_id), (
        "no metric differs or is logged twice"
    )
    assert is_identical(weights(project), model)
    assert not list((project.folder / "models" / run.info.run_id).glob("*.pth"))
    nothing = project.run("train.py", "--resume", run.info.run_id)
    assert nothing.returncode == 2 and "no checkpoint" in nothing.stderr


def test_resume_with_different_settings_is_refused(project: Project) -> None:
    process = project.start("train.py", "--epochs", "500", *OPTIONS[2:-2])
    wait_for_line(process, lambda line: line.startswith("epoch 2/500  "), seconds=600)
    run_id = project.runs()[0].info.run_id
    busy = project.run("train.py", "--resume", run_id)
    code, output = finish(process, SIGINT)
    assert busy.returncode == 2 and "still in progress in another process" in busy.stderr, busy.stderr
    assert code == 130 and f"to resume: python train.py --resume {run_id}" in output
    for options, texts in (
        (("--epochs", "501", "--batch-size", "8"), ("EPOCHS: run 500, now 501", "BATCH_SIZE: run 4, now 8")),
        (("--smoke",), ("--smoke: --resume uses that of run",)),
    ):
        done = project.run("train.py", "--resume", run_id, *options)
        assert done.returncode == 2 and all(text in done.stderr for text in texts), done.stderr
    assert project.mlflow().get_run(run_id).info.status == "KILLED"
    checkpoint = project.folder / "models" / run_id / "checkpoint.pth"
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    broken = project.run("train.py", "--resume", run_id)
    assert broken.returncode == 1 and "not a checkpoint of this project" in broken.stderr


def test_resume_without_a_checkpoint_is_an_error(tmp_path: Path) -> None:
    project = make_project(tmp_path, images=0, git=False)
    done = project.run("train.py", "--resume", "last")
    assert done.returncode == 2 and "--resume last: no checkpoint" in done.stderr
    assert not (project.folder / "mlflow.db").exists()
    for which in ("0" * 32, "models/none", "../models"):
        with pytest.raises(UsageError, match="no checkpoint"):
            find(tmp_path / "models", which)


class Interrupted(Exception):
    pass


class InterruptibleTraining(ModelTrain):
    """A training that stops before step `stop_at`, with the checkpoint of the previous step."""

    stop_at = 10**9

    def train_step(self, epoch: int, step: int, batch: Any) -> int:
        if epoch * self.steps_per_epoch + step == self.stop_at:
            raise Interrupted
        return super().train_step(epoch, step, batch)


def test_resume_continues_at_every_step(tmp_path: Path) -> None:
    """Runs in one process, so that every step is tested and the complete state is compared."""
    generate_sample(tmp_path / "data", seed=0, count=12)
    data = check_data(tmp_path / "data", 0)

    def training(name: str) -> InterruptibleTraining:
        chosen = config.load_settings(
            model_path=tmp_path / name / "m.pth",
            lakefs_local_dir=tmp_path / "lakefs",
            epochs=2,
            batch_size=4,
            image_size=(32, 32),
            device="cpu",
            accumulate=2,
            ema=0.1,
            checkpoint_minutes=1e-9,
        )
        return InterruptibleTraining(prepare_training(chosen, data), tmp_path / name)

    uninterrupted = training("uninterrupted")
    uninterrupted.fit()
    clock = ("seconds", "images_per_second")
    for stop_at in range(2 * uninterrupted.steps_per_epoch):
        first = training("cut")
        first.stop_at = stop_at
        with pytest.raises(Interrupted):
            first.fit()
        second = training("cut")
        second.fit(load_checkpoint(tmp_path / "cut/checkpoint.pth")["state"])
        states = [one.state() for one in (uninterrupted, second)]
        for state in states:
            state.pop("seconds")
            state["history"] = [{k: v for k, v in row.items() if k not in clock} for row in state["history"]]
        assert is_identical(*states), stop_at
        shutil.rmtree(tmp_path / "cut")
