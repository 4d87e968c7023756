"""Training by the real loop on a small data set: repeatability, cached images, time limit, failures."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import config
from core.errors import AppError, UsageError
from dataset.classes import ClassMap
from dataset.sources.synthetic import generate_sample
from dataset.validation import check_data
from segmentation.metrics import ConfusionMatrix
from train import auto_settings, base_train, overfit_check
from train.base_train import EpochResult, Validation
from train.checkpoint import load_checkpoint
from train.jobs.request import check_request
from train.loading import loader
from train.model_train import ModelTrain
from train.reports.figures import save_confusion, save_curves
from train.setup import prepare_training
from train.tracking.result import class_metrics


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sample")
    generate_sample(root, seed=0, count=12)
    return root


def train(sample: Path, folder: Path, **changes: object) -> ModelTrain:
    own = {"model_path": folder / "m.pth", "lakefs_local_dir": folder / "lakefs", "epochs": 1, "device": "cpu"}
    chosen = config.load_settings(**own | changes, app_lang="en")
    training = ModelTrain(prepare_training(chosen, check_data(sample, 0)), folder)
    training.fit()
    return training


@pytest.mark.parametrize("batch_size", [1, 9, 64])
def test_training_is_bit_identical_with_any_last_batch(sample: Path, tmp_path: Path, batch_size: int) -> None:
    """Ten training images: batches of 9 leave one over, which joins the last batch."""
    weights = []
    for _ in range(2):
        training = train(sample, tmp_path, batch_size=batch_size, image_size=(32, 32))
        assert np.isfinite(training.history[0].train_loss)
        weights.append(torch.cat([p.detach().ravel() for p in training.network.parameters()]))
    assert torch.equal(*weights) and bool(torch.isfinite(weights[0]).all())


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("epochs_before", [0, 1])
def test_timed_training_interrupted_in_its_last_validation_is_ended_by_a_resume(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs_before: int
) -> None:
    """Its time is over, but its last epoch has no metrics and no model yet."""
    own = {"model_path": tmp_path / "m.pth", "lakefs_local_dir": tmp_path / "lakefs", "device": "cpu"}
    chosen = config.load_settings(**own, max_seconds=100, image_size=(32, 32), batch_size=4, app_lang="en")
    clock = iter([1.0] * 3 * epochs_before + [1000.0] * 9)  # a step and the end of each epoch
    monkeypatch.setattr(ModelTrain, "synchronized_elapsed", lambda *_: next(clock))

    def training() -> ModelTrain:
        return ModelTrain(prepare_training(chosen, check_data(sample, 0)), tmp_path)

    class Killed(ModelTrain):
        def validate(self) -> Validation:
            if self.progress_fraction(0) >= 1:
                raise KeyboardInterrupt
            return super().validate()

    first = Killed(training().setup, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    weights = {name: value.clone() for name, value in first.network.state_dict().items()}
    second = training()
    best = second.fit(load_checkpoint(tmp_path / "checkpoint.pth")["state"])
    assert len(second.history) == len(first.history) + 1 and second.history[-1].validation is not None
    assert second.best_file.exists() and best in second.history
    assert all(torch.equal(value, weights[name]) for name, value in second.network.state_dict().items())


def test_an_input_size_that_no_model_file_allows_is_refused(sample: Path) -> None:
    data = check_data(sample, 0)
    small = dataclasses.replace(data, pairs=tuple(dataclasses.replace(pair, height=2, width=2) for pair in data.pairs))
    with pytest.raises(UsageError, match=r"IMAGE_SIZE.*larger than the images by a factor of more than 64"):
        auto_settings.working_size(small, (256, 256))


def test_an_option_replaces_the_other_length_of_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that the environment or .env has; both of them there are refused."""
    monkeypatch.setenv("MAX_SECONDS", "600")
    chosen = config.load_settings(epochs=3)
    assert (chosen.epochs, chosen.max_seconds) == (3, None) and "max_seconds" not in chosen.explicit
    check_request(chosen)
    monkeypatch.setenv("EPOCHS", "5")
    assert (config.load_settings(max_seconds=9.0).epochs, config.load_settings(max_seconds=9.0).max_seconds) == (
        None,
        9.0,
    )
    with pytest.raises(UsageError, match=r"MAX_SECONDS=600.*EPOCHS=5 says how long to train, too"):
        check_request(config.load_settings())


def test_a_directory_is_no_model_path(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"MODEL_PATH.*a directory: name a file"):
        check_request(config.load_settings(model_path=tmp_path))


def test_class_names_may_be_mathematics(tmp_path: Path) -> None:
    classes = ClassMap(ids=(0, 1, 2), names=("$$", "$5 (10%) $", "a"), colors=((0, 0, 0), (1, 1, 1), (2, 2, 2)))
    save_confusion(tmp_path / "confusion.png", ConfusionMatrix(3), classes)
    assert (tmp_path / "confusion.png").stat().st_size


def test_each_class_has_a_metric_of_its_own() -> None:
    names = ["<5 mm", ">5 mm", "a/b", "A:B", "..", "road"]
    iou = {name: place / 10 for place, name in enumerate(names)}
    found = class_metrics("val", Validation(0.0, 0.0, 0.0, dict(iou)))
    expected = ["_5 mm (0)", "_5 mm (1)", "a_b (2)", "A_B (3)", "__", "road"]
    assert found == {f"val_iou/{name}": place / 10 for place, name in enumerate(expected)}


def test_epochs_that_are_not_validated_have_no_metrics_and_are_not_chosen(sample: Path, tmp_path: Path) -> None:
    training = train(sample, tmp_path, epochs=5, validate_every=2, image_size=(32, 32))
    assert [result.validation is not None for result in training.history] == [False, True, False, True, True]
    measured = [result for result in training.history if result.validation is not None]
    assert training.best == max(measured, key=lambda result: result.val.miou)
    rows = list(csv.DictReader((tmp_path / "history.csv").read_text(encoding="utf-8-sig").splitlines()))
    assert [bool(row["val_miou"]) for row in rows] == [False, True, False, True, True] and rows[0]["train_loss"]
    restored = [EpochResult.from_dict(dataclasses.asdict(result)) for result in training.history]
    assert restored == training.history
    save_curves(tmp_path / "curves.png", training.history)


def test_validation_takes_at_most_a_tenth_of_a_long_training() -> None:
    camvid = (367 * 180 * 240, (101 * 240 * 320, 101 * 360 * 480))
    assert [auto_settings.validation_interval(None, epochs, *camvid)[0] for epochs in (1, 10, 19, 20, 39, 40, 500)] == [
        1, 2, 3, 4, 4, 4, 4,
    ]  # fmt: skip
    assert auto_settings.validation_interval(7, 10, *camvid)[0] == 7
    sample = (400 * 128**2, (50 * 128**2, 50 * 128**2))
    assert auto_settings.validation_interval(None, 500, *sample)[0] == 1


def test_decoded_images_are_shared_verified_and_bounded(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = {"image_size": (32, 32), "lakefs_local_dir": tmp_path / "lake"}
    read = train(sample, tmp_path, picture_cache_gb=1e-9, **size)
    assert "each epoch reads the files (PICTURE_CACHE_GB" in capsys.readouterr().out
    folder = tmp_path / "lake/cache/pictures"
    assert read.setup.train_images.decoded is None and not folder.exists()

    data = check_data(shutil.copytree(sample, tmp_path / "data"), 0)
    made = train(data.root, tmp_path, **size)
    assert made.history[0].validation == read.history[0].validation
    files = {file: file.read_bytes() for file in folder.glob("*.pictures")}
    assert len(files) == 2 and len({file.stat().st_ino for file in files}) == 2
    for pair in data.pairs:  # a second run does not need the image files
        pair.image.rename(pair.image.with_suffix(".kept"))
    again = prepare_training(made.settings, data)
    pairs = ((again.train_images, read.setup.train_images), (again.val_images, read.setup.val_images))
    for mine, other in pairs:
        for index in range(len(mine)):
            assert all(map(np.array_equal, mine.arrays(index), other.arrays(index)))

    for pair in data.pairs:
        pair.image.with_suffix(".kept").rename(pair.image)
    damaged, truncated = files
    damaged.write_bytes(b"x" + files[damaged][1:])
    truncated.write_bytes(files[truncated][:-1])
    (folder / f".{truncated.name}.0.part").write_bytes(b"of a killed process")
    capsys.readouterr()
    prepare_training(made.settings, data)
    assert capsys.readouterr().out.count("damaged: decoding again") == 2
    assert {file: file.read_bytes() for file in folder.glob("*.pictures")} == files
    assert not list(folder.glob(".*.part"))

    room = sum(map(len, files.values())) / 1e9
    train(sample, tmp_path, picture_cache_gb=room, image_size=(31, 32), lakefs_local_dir=tmp_path / "lake")
    left = list(folder.glob("*.pictures"))
    assert len(left) == 2 and not files.keys() & set(left), "the older caches were evicted"


def test_image_changed_after_the_check_stops_the_run(sample: Path, tmp_path: Path) -> None:
    root = shutil.copytree(sample, tmp_path / "data")
    data = check_data(root, 0)
    image = data.split("train")[0].image
    image.write_bytes(image.read_bytes() + b" ")
    own = {"model_path": tmp_path / "m.pth", "lakefs_local_dir": tmp_path / "lakefs"}
    chosen = config.load_settings(**own, device="cpu", app_lang="en")
    with pytest.raises(UsageError, match="changed since it was committed"):
        prepare_training(chosen, data)


def test_time_limited_training_ends_on_time_at_the_minimum_learning_rate(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(0, 0.125)  # seconds per call
    ticking = SimpleNamespace(perf_counter=lambda: next(clock), monotonic=time.monotonic)
    monkeypatch.setattr(base_train, "time", ticking)
    training = train(sample, tmp_path, image_size=(32, 32), max_seconds=1.5, batch_size=4)
    assert training.done and training.trained_seconds >= 1.5
    assert training.current_learning_rate() < 0.5 * training.setup.peak_rate
    assert max(result.learning_rate for result in training.history) <= training.setup.peak_rate


@pytest.mark.parametrize(
    "changes",
    [
        {
            "loss": "ce+dice",
            "augmentation": "standard",
            "crop_size": (24, 24),
            "accumulate": 2,
            "class_weights": "none",
        },
        {"model": "lraspp_mobilenet_v3_large", "loss": "focal", "augmentation": "strong", "ema": 0.0, "clip_norm": 0.0},
    ],
)
def test_training_with_other_settings(sample: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    training = train(sample, tmp_path, image_size=(32, 32), batch_size=4, **changes)
    assert np.isfinite(training.history[0].train_loss) and training.best_file.exists()


def test_non_finite_loss_stops_the_run_and_names_epoch_and_batch(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = ModelTrain.train_step

    def broken(self: ModelTrain, epoch: int, number: int, batch: loader.Batch) -> int:
        if number == 1:
            with torch.no_grad():
                next(self.network.parameters()).fill_(torch.nan)
        return step(self, epoch, number, batch)

    monkeypatch.setattr(ModelTrain, "train_step", broken)
    with pytest.raises(AppError, match=r"epoch 1, batch 2: the loss is not finite: lower LEARNING_RATE \(now 0.003\)"):
        train(sample, tmp_path, image_size=(32, 32), batch_size=2)


@pytest.mark.parametrize(("batch", "advice"), [(4, "--batch-size 2"), (1, "--crop-size 16 16")])
def test_memory_that_runs_out_is_one_line_with_smaller_options(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int, advice: str
) -> None:
    def allocate(*_: object) -> int:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nprocess 1 has 3 GiB")

    monkeypatch.setattr(ModelTrain, "train_step", allocate)
    with pytest.raises(AppError) as error:
        train(sample, tmp_path, image_size=(32, 32), batch_size=batch)
    assert str(error.value) == f"out of memory: use {advice}"


def test_overfit_check_passes_or_reports_the_miou(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"model_path": tmp_path / "m.pth", "lakefs_local_dir": tmp_path / "lakefs"}
    chosen = config.load_settings(**own, device="cpu", app_lang="en", model="compact_fpn")
    overfit_check.overfit_check(chosen, check_data(sample, 0), 2)
    assert "the model overfits the images (2)" in capsys.readouterr().out and not (tmp_path / "m.pth").exists()
    monkeypatch.setattr(overfit_check, "EPOCHS", 1)
    with pytest.raises(AppError, match=r"mIoU 0\.\d+ on 2 images, expected 0.95"):
        overfit_check.overfit_check(chosen, check_data(sample, 0), 2)
    with pytest.raises(UsageError, match="--overfit 99: expected 1 to 10"):
        overfit_check.overfit_check(chosen, check_data(sample, 0), 99)
