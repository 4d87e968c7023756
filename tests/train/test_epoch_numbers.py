"""Epochs count from 1 wherever they are shown or recorded; runs that an earlier version counted from 0 stay as they are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import config
from dataset.data import SegmentationData
from dataset.sources.synthetic import generate_sample
from dataset.validation import check_data
from train import auto_settings
from train.checkpoint import load_checkpoint
from train.model_train import ModelTrain
from train.setup import TrainingSetup, prepare_training
from utils.lineage import read_first_epoch


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SegmentationData:
    root = tmp_path_factory.mktemp("sample") / "data"
    generate_sample(root, seed=0, count=20)
    return check_data(root, 0)


def setup(data: SegmentationData, folder: Path, smoke: bool = False, **changes: object) -> TrainingSetup:
    own = {"lakefs_local_dir": folder / "lakefs", "device": "cpu", "image_size": (32, 32)}
    return prepare_training(config.load_settings(**own | changes, app_lang="en"), data, smoke)


def test_a_checkpoint_of_an_earlier_version_finds_its_best_model(
    data: SegmentationData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = setup(data, tmp_path, epochs=2)
    first = ModelTrain(made, tmp_path)
    best = first.fit()
    assert [result.number for result in first.history] == [1, 2]
    assert first.best_file.name == f"best-epoch-{best.number}.pth" and first.best_file.exists()
    assert f"saved model (epoch {best.number})" in capsys.readouterr().out
    first.best_file.rename(tmp_path / f"best-{best.epoch}.pth")  # counted from 0
    state = load_checkpoint(first.checkpoint_file)["state"]
    again = ModelTrain(dataclasses.replace(made), tmp_path)
    assert again.fit(state) == best and again.best_file.exists()
    assert {file.name for file in tmp_path.glob("best-*")} == {again.best_file.name}


def test_runs_without_a_record_count_from_0() -> None:
    assert [read_first_epoch(tags) for tags in ({"first_epoch": "1"}, {}, {"first_epoch": "x"})] == [1, 0, 0]


def test_steps_count_updates_and_smoke_is_one_epoch(
    data: SegmentationData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert setup(data, tmp_path).epochs == 63
    assert "epochs: 63 (about 250 steps; 16 training images in batches of 4)" in capsys.readouterr().out
    assert setup(data, tmp_path, accumulate=2).epochs == 125, "two batches make one optimizer step"
    smoke = setup(data, tmp_path, smoke=True)
    assert (smoke.epochs, smoke.resolved["epochs"], smoke.augmentation) == (1, "1", "light")
    assert "epochs: 1 (--smoke: 2 batches)" in capsys.readouterr().out
    assert set(smoke.resolved) == {
        *("device", "image_size", "class_weights", "batch_size"),
        *("epochs", "augmentation", "validate_every", "learning_rate", "precision", "stream"),
    }
    assert auto_settings.EPOCHS == 10, "large data sets are trained as long as before"
