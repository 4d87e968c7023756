"""train.py --folds: models that each hold out a part of train and val, judged together, resumed and reproduced exactly."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import config
from core.hashing import file_sha256
from dataset.data import Pair
from dataset.decoding.image import read_image
from dataset.decoding.mask import read_mask
from dataset.samples import Item
from dataset.sources.synthetic import generate_sample
from dataset.splitting.fold_file import read_folds
from dataset.validation import check_data
from segmentation.evaluation import EvaluationResult, measure
from segmentation.intervals import metric_interval
from segmentation.model_file import load_model
from segmentation.preprocess import native_logits, resize_image
from segmentation.reliability.calibration import LogitSamples, Reliability
from tests.support.processes import free_port
from tests.support.project import SOURCE, Project, make_project
from tests.train.test_resume import is_identical, kill_at_call, recorded_metrics
from train.folds.division import divide
from train.folds.training import FinishedFold, FoldsTraining
from train.resume import find
from utils.ensemble_file import read_ensemble

FOLDS = 3
# Four steps for each fold of 8 images.
OPTIONS = ("--folds", "3", "--epochs", "2", "--batch-size", "4", "--image-size", "32", "32")
EVERY_STEP = {"CHECKPOINT_MINUTES": "0.0000001"}
CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class Reference:
    """An uninterrupted run: its id, what it printed, its metrics, those of its folds, and the weights of all models."""

    run_id: str
    output: str
    metrics: dict[str, list[tuple[int, float]]]
    of_folds: list[dict[str, list[tuple[int, float]]]]
    weights: list[dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = make_project(tmp_path_factory.mktemp("folds"), images=14)
    (project.folder / "tests/support").mkdir(parents=True)
    shutil.copy(SOURCE / "tests/support/kill_training.py", project.folder / "tests/support/kill_training.py")
    return project


def newest_parent(project: Project) -> Any:
    return next(run for run in project.runs() if "mlflow.parentRunId" not in run.data.tags)


def folds_of(project: Project, run_id: str) -> list[Any]:
    """Return the runs of the folds, in their order."""
    children = [run for run in project.runs() if run.data.tags.get("mlflow.parentRunId") == run_id]
    return sorted(children, key=lambda run: int(run.data.tags["fold"]))


def described(project: Project, run_id: str, output: str) -> Reference:
    models = project.folder / "models"
    files = [models / member.file for member in read_ensemble(models / "ensemble.json").members]
    return Reference(
        run_id,
        output,
        recorded_metrics(project, run_id),
        [recorded_metrics(project, run.info.run_id) for run in folds_of(project, run_id)],
        [torch.load(file, weights_only=True)["state_dict"] for file in files],
    )


@pytest.fixture(scope="module")
def reference(project: Project) -> Reference:
    done = project.run("train.py", *OPTIONS)
    assert done.returncode == 0, done.stdout + done.stderr
    return described(project, newest_parent(project).info.run_id, done.stdout)


def test_one_run_has_the_runs_of_all_folds_and_one_model(project: Project, reference: Reference) -> None:
    run, children = project.mlflow().get_run(reference.run_id), folds_of(project, reference.run_id)
    assert run.info.status == "FINISHED" and run.data.params["folds"] == "3"
    assert [child.info.status for child in children] == ["FINISHED"] * 3
    assert [child.data.tags["fold"] for child in children] == ["1", "2", "3"]
    assert all("lakefs_model_path" not in child.data.params and len(child.data.metrics) > 8 for child in children)
    assert "best_val_miou" not in run.data.metrics and run.data.tags["oof_classes"] == "4/4"
    lock = (project.folder / "lakefs.lock").read_text()
    ensemble = project.folder / "models/ensemble.json"
    assert run.data.params["lakefs_model_path"].endswith("/models/ensemble.json") and reference.run_id in lock
    assert run.data.tags["model_sha256"] == file_sha256(ensemble) and file_sha256(ensemble) in lock
    for member in read_ensemble(ensemble).members:
        assert file_sha256(project.folder / "models" / member.file) == member.sha256
    listed = {Path(a.path).name for a in project.mlflow().list_artifacts(reference.run_id)}
    assert {"report.html", "confusion.png", "oof_images.csv", "folds.csv", "worst.png", "overlays.png"} <= listed
    assert "- 업로드된 파일: models/ensemble.json" in reference.output
    page = (project.folder / "models" / reference.run_id / "report.html").read_text()
    assert "out-of-fold mIoU" in page and "fold 3" in page and "95 % interval" in page
    assert not list((project.folder / "models" / reference.run_id).rglob("*.pth"))


def test_out_of_fold_metrics_are_those_of_the_models_that_have_not_seen_the_image(
    project: Project, reference: Reference
) -> None:
    data = check_data(project.folder / "data", 0)
    judged = [pair for pair in data.pairs if pair.split != "test"]
    members = read_ensemble(project.folder / "models/ensemble.json").members
    assert sorted(sha256 for member in members for sha256 in member.held_out) == sorted(p.image_sha256 for p in judged)
    assert max(len(member.held_out) for member in members) - min(len(member.held_out) for member in members) <= 1
    parts = []
    for member in members:
        model = load_model(project.folder / "models" / member.file, member.sha256, CPU)
        assert model.lineage["run_id"] == reference.run_id
        items = [Item(p.name, p.image, p.mask) for p in judged if p.image_sha256 in member.held_out]
        parts.append(measure(model, items, data.classes, CPU))
    names = tuple(name for part in parts for name in part.images)
    whole = EvaluationResult(names, names, data.classes, np.concatenate([part.counts for part in parts]), 0.0)
    assert reference.metrics["oof_miou"] == [(3, whole.metric("miou"))]
    assert reference.metrics["oof_accuracy"] == [(3, whole.metric("accuracy"))]
    interval = metric_interval(whole, "miou", 0.95)
    assert interval == (reference.metrics["oof_miou_low"][0][1], reference.metrics["oof_miou_high"][0][1])
    assert [value for _, value in reference.metrics["fold_miou"]] == [part.metric("miou") for part in parts]


def test_the_test_split_is_measured_once_with_the_mean_of_all_models(project: Project, reference: Reference) -> None:
    data = check_data(project.folder / "data", 0)
    ensemble = project.folder / "models/ensemble.json"
    model = load_model(ensemble, file_sha256(ensemble), CPU)
    items = [Item(pair.name, pair.image, pair.mask) for pair in data.split("test")]
    assert reference.metrics["test_miou"] == [(3, measure(model, items, data.classes, CPU).metric("miou"))]
    assert not any("test_miou" in metrics for metrics in reference.of_folds)


def test_calibration_errors_are_those_of_held_out_images_and_of_the_mean_on_test(
    project: Project, reference: Reference
) -> None:
    data, models = check_data(project.folder / "data", 0), project.folder / "models"

    def reliability(file: Path, pairs: list[Pair]) -> Reliability:
        model = load_model(file, file_sha256(file), CPU)
        samples = LogitSamples(len(pairs), data.classes.num_classes)
        for number, pair in enumerate(pairs):
            pixels = torch.from_numpy(resize_image(read_image(pair.image, data.reading), model.input_size).copy())
            mask = torch.from_numpy(read_mask(pair.mask, data.classes, data.reading).copy())
            with torch.inference_mode():
                batch = pixels.permute(2, 0, 1)[None]
                (logits,) = native_logits(
                    model.network.eval(), batch, [(pair.height, pair.width)], model.normalisation, CPU
                )
            samples.add(number, logits, mask)
        return Reliability.of(*samples.pixels(), model.temperature)

    held_out = [
        reliability(models / member.file, [pair for pair in data.pairs if pair.image_sha256 in member.held_out])
        for member in read_ensemble(models / "ensemble.json").members
    ]
    bins = [sum(getattr(part, name) for part in held_out) for name in ("pixels", "confidence", "correct")]
    expected = np.abs(bins[1] - bins[2]).sum() / bins[0].sum()
    ((step, found),) = reference.metrics["oof_ece"]
    assert step == 3 and found == pytest.approx(expected, abs=1e-3)
    of_mean = reliability(models / "ensemble.json", list(data.split("test"))).error
    ((_, found),) = reference.metrics["test_ece"]
    assert found == pytest.approx(of_mean, abs=1e-3)


def test_trace_and_reproduction_follow_the_run_of_all_folds(project: Project, reference: Reference) -> None:
    traced = project.run("lake.py", "trace", reference.run_id)
    assert traced.returncode == 0 and "0 of" in traced.stdout and "3 folds" in traced.stdout, traced.stdout
    done = project.run("train.py", "--reproduce", reference.run_id)
    assert done.returncode == 0 and "all metrics are bit-identical." in done.stdout, done.stdout + done.stderr
    assert all(name in done.stdout for name in ("fold_train_loss", "oof_miou", "oof_ece", "test_miou", "test_ece"))
    assert "not compared" not in done.stdout + done.stderr
    child = folds_of(project, reference.run_id)[1].info.run_id
    refused = project.run("train.py", "--reproduce", child)
    assert refused.returncode == 2 and f"it is fold 2 of run {reference.run_id}" in refused.stderr, refused.stderr


def test_infer_predicts_with_the_mean_and_the_lock_brings_all_models_back(
    project: Project, reference: Reference
) -> None:
    predicted = project.run("infer.py", "--model", "lock", "--split", "test", "--output", "out")
    assert predicted.returncode == 0, predicted.stdout + predicted.stderr
    listing = json.loads((project.folder / "out/predictions.json").read_bytes())
    assert listing["miou"] == reference.metrics["test_miou"][0][1]
    members = read_ensemble(project.folder / "models/ensemble.json").members
    assert listing["ensemble"] == [{"file": member.file, "sha256": member.sha256} for member in members]
    traced = project.run("lake.py", "trace", "out")
    assert traced.returncode == 0 and "models/fold-3.pth" in traced.stdout, traced.stdout
    shutil.copy(project.folder / "models/fold-1.pth", project.folder / "moved.pth")
    assert project.run("infer.py", "--model", "moved.pth", "--split", "test", "--output", "one").returncode == 0
    child = folds_of(project, reference.run_id)[0].info.run_id
    for target, note in (
        ("moved.pth", "the one that it states, one member of the ensemble: fold-1.pth"),
        ("one", "one member of the ensemble: fold-1.pth"),
        (child, "fold 1"),
    ):
        traced = project.run("lake.py", "trace", target)
        assert traced.returncode == 0 and note in traced.stdout and "3 folds" in traced.stdout, traced.stdout
    refused = project.run("infer.py", "--run-id", child, "--split", "test", "--output", "two")
    assert refused.returncode == 2 and f"is fold 1 of run {reference.run_id}" in refused.stderr, refused.stderr
    model = project.folder / "models/fold-2.pth"
    model.unlink()
    assert "fold-2.pth (missing)" in project.run("lake.py", "status").stdout
    pulled = project.run("lake.py", "pull", "lock")
    assert pulled.returncode == 0 and file_sha256(model) == members[1].sha256, pulled.stderr


@pytest.mark.parametrize("seed", range(int(os.environ.get("TEST_KILLS", "1"))))  # about 30 seconds each
def test_resume_after_kills_in_folds_and_between_them_is_bit_identical(
    project: Project, reference: Reference, seed: int
) -> None:
    steps = sum(len(metrics["train_loss"]) for metrics in reference.of_folds) * 2
    place = random.Random(seed)
    first = place.randrange(1, steps - 1)
    kill_at_call(project, "train_step", first, *OPTIONS, **EVERY_STEP)
    run_id = newest_parent(project).info.run_id
    remaining = FOLDS - (first - 1) // 4  # folds that are not finished
    kill_at_call(
        project, place.choice(["measure_best", "finish", "save"]), place.randint(1, remaining), "--resume", "last"
    )
    kill_at_call(project, place.choice(["publish_model", "write_ensemble"]), 1, "--resume", run_id)
    done = project.run("train.py", "--resume", "last")
    assert done.returncode == 0 and "=== LakeFS 커밋 완료 ===" in done.stdout, done.stdout + done.stderr
    again = described(project, run_id, done.stdout)
    assert newest_parent(project).info.run_id == run_id and len(folds_of(project, run_id)) == FOLDS
    assert again.metrics == reference.metrics and again.of_folds == reference.of_folds
    assert is_identical(again.weights, reference.weights)
    assert all(run.info.status == "FINISHED" for run in folds_of(project, run_id))


def test_images_that_are_added_move_no_other_and_two_batches_are_enough(tmp_path: Path) -> None:
    project = make_project(tmp_path, images=10)
    data, smoke = project.folder / "data", ("--smoke", *OPTIONS[:2], *OPTIONS[4:])

    def folds_after_a_smoke_run() -> dict[str, int]:
        done = project.run("train.py", *smoke)
        assert done.returncode == 0 and "out-of-fold" in done.stdout, done.stdout + done.stderr
        folds = read_folds(data, FOLDS)
        split = [n for part in ("train", "val") for n in (data / f"splits/{part}.txt").read_text().splitlines()[1:]]
        assert folds is not None and sorted(folds) == sorted(split) and set(folds.values()) == {1, 2, 3}
        return folds

    before = folds_after_a_smoke_run()
    for number, name in enumerate(sorted(path.stem for path in (data / "images").iterdir())[:6]):
        for kind in ("images", "masks"):
            source = next((data / kind).glob(f"{name}.*"))
            Image.open(source).rotate(180).save(source.with_stem(f"added{number}"))
    after = folds_after_a_smoke_run()
    assert len(after) > len(before) and all(after[name] == fold for name, fold in before.items())


def test_folds_start_from_the_models_that_have_not_seen_their_images(
    tmp_path: Path, project: Project, reference: Reference
) -> None:
    del reference  # the project has a run
    copy = Project(tmp_path / "copy", project.env)
    shutil.copytree(project.folder, copy.folder)  # what other tests know as the newest run must stay
    first = newest_parent(copy).info.run_id
    before = read_ensemble(copy.folder / "models/ensemble.json").members
    (copy.folder / "data/splits/folds-3.tsv").unlink()  # the model alone decides
    done = copy.run("train.py", "--init", first, "--smoke", *OPTIONS[:2], *OPTIONS[4:])
    assert done.returncode == 0, done.stdout + done.stderr
    after = read_ensemble(copy.folder / "models/ensemble.json").members
    assert [member.held_out for member in after] == [member.held_out for member in before]
    run = newest_parent(copy)
    path = copy.mlflow().get_run(first).data.params["lakefs_model_path"]
    assert run.data.params["init"] == path and run.data.params["init_run_id"] == first
    for member, child in zip(before, folds_of(copy, run.info.run_id), strict=True):
        assert child.data.params["init"] == path.replace("ensemble.json", member.file)
        assert child.data.params["init_sha256"] == member.sha256
    for options, text in (
        (("--folds", "4", "--init", first), "is an ensemble of 3 models: use --folds 3"),
        (("--folds", "3", "--init", path.replace("ensemble.json", "fold-1.pth")), "has images that the folds hold out"),
    ):
        refused = copy.run("train.py", *options)
        assert refused.returncode == 2 and text in refused.stderr, refused.stderr


# --- without processes ---------------------------------------------------------------------------------------


def settings(folder: Path, **values: Any) -> config.Settings:
    options = {"folds": 3, "epochs": 1, "batch_size": 4, "image_size": (32, 32), "device": "cpu", **values}
    return config.load_settings(model_path=folder / "m.pth", lakefs_local_dir=folder / "lakefs", **options)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sample") / "data"
    generate_sample(root, seed=0, count=10)
    return root


def test_the_epoch_is_not_chosen_on_the_held_out_images(sample: Path, tmp_path: Path) -> None:
    chosen = settings(tmp_path, epochs=3, learning_rate=0.05)
    training = FoldsTraining(chosen, divide(chosen, check_data(sample, 0), store=False), tmp_path, smoke=False)
    training.fit()
    for fold in training.finished:
        assert [epoch.best for epoch in fold.history] == [False, False, True]
        assert fold.metrics(training.division.data.classes.names).miou == fold.history[-1].val.miou
    assert len({fold.sha256 for fold in training.finished}) == 3


def test_a_fold_counts_its_own_pixels_and_keeps_no_warning_about_val(sample: Path, tmp_path: Path) -> None:
    data = check_data(sample, 0)
    division = divide(settings(tmp_path), data, store=False)
    fold = division.data_of(2)
    assert {pair.split for pair in fold.pairs} == {"train", "val"} and len(fold.pairs) == len(division.pairs)
    assert any(warning.split == "val" for warning in data.warnings)
    assert not any(warning.split == "val" for warning in fold.warnings)
    for split in ("train", "val"):
        only = dataclasses.replace(data, pairs=fold.split(split))
        masks = divide(
            settings(tmp_path),
            dataclasses.replace(only, pairs=tuple(dataclasses.replace(p, split="train") for p in only.pairs)),
            False,
        )
        assert fold.pixel_counts[split] == masks.all_pixels()


def test_a_second_division_keeps_the_folds_of_known_images(sample: Path, tmp_path: Path) -> None:
    data = check_data(sample, 0)
    first = divide(settings(tmp_path), data, store=False)
    moved = {pair.image_sha256: 1 + fold % 3 for pair, fold in zip(first.pairs, first.fold_of, strict=True)}
    second = divide(settings(tmp_path), data, store=False, earlier=moved)
    assert second.fold_of == tuple(1 + fold % 3 for fold in first.fold_of)


def test_wrong_options_are_refused_in_one_line(project: Project) -> None:
    for options, text in (
        (("--folds", "1"), "--folds 1: expected a number from 2 to 100"),
        (("--folds", "3", "--patience", "2"), "--patience 2: with FOLDS"),
        (("--folds", "3", "--overfit", "2"), "--folds"),
        (("--folds", "3", "--audit-labels"), "--folds"),
        (("--folds", "14"), "--folds 14: 13 groups of images in train and val"),
    ):
        done = project.run("train.py", *options)
        assert done.returncode == 2 and text in done.stderr and len(done.stderr.strip().splitlines()) <= 3, done.stderr
    main = {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    done = project.run("train.py", "--folds", "3", env=main)
    assert done.returncode == 2 and "--folds uses one process: start train.py without torchrun" in done.stderr


def test_a_fold_is_resumed_by_the_run_of_all_folds(tmp_path: Path) -> None:
    (tmp_path / "parent/child").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    for file, age in (("parent/checkpoint.pth", 30), ("other/checkpoint.pth", 20), ("parent/child/checkpoint.pth", 10)):
        (tmp_path / file).write_bytes(b"x")
        os.utime(tmp_path / file, (1e9 - age, 1e9 - age))
    for which in ("last", "child"):  # the newest training is that of the fold
        with pytest.raises(Exception, match=r"parent/checkpoint\.pth"):
            find(tmp_path, which)


def test_the_data_check_proposes_folds_for_few_images(project: Project, tmp_path: Path) -> None:
    done = project.run("train.py", "--check-only")
    line = "images in train and val: 13: python train.py --folds 5 judges a model by all of them, not by the 1 of val"
    assert line in done.stdout, done.stdout
    assert "--folds" not in project.run("train.py", "--check-only", env={"FOLDS": "4"}).stdout


def test_a_fold_of_an_earlier_version_has_no_calibration() -> None:
    counts = np.zeros((2, 4, 4), np.int64)
    fold = FinishedFold(
        1, "f" * 32, "0" * 64, (), counts, Reliability(np.ones(15, np.int64), np.ones(15), np.ones(15, np.int64))
    )
    assert fold.reliability is not None
    restored = FinishedFold.from_dict(fold.to_dict())
    assert restored.reliability is not None and restored.reliability.error == fold.reliability.error
    earlier = {key: value for key, value in fold.to_dict().items() if key != "reliability"}
    assert FinishedFold.from_dict(earlier).reliability is None
