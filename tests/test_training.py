"""The parts of training by themselves: metrics, schedule, order, augmentation, networks, checkpoint, report."""

from __future__ import annotations

import itertools
import pickle
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import config
from core.errors import AppError, UsageError
from core.git import without_credentials
from core.hashing import file_sha256
from dataset.classes import IGNORE_INDEX, ClassMap
from dataset.synthetic import generate_sample
from dataset.validation import check_data
from segmentation.losses import SegmentationLoss, class_weights
from segmentation.metrics import ConfusionMatrix
from segmentation.model_file import Model, load_model, save_model
from segmentation.networks import build_network
from segmentation.preprocess import Normalisation, native_logits, to_input
from train import auto_settings, base_train, model_train, overfit_check
from train.loading import loader
from train.loading.augmentation import STRENGTHS, augment
from train.model_train import ModelTrain
from train.optim.ema import AveragedWeights
from train.optim.schedule import learning_rate
from train.release.commit_message import percent, report_block
from train.setup import prepare_training
from train.tracking.result import Result
from utils.lakefs_utils import LakePath

CPU = torch.device("cpu")
CLASSES = ClassMap((0, 1, 2), ("a", "b", "c"), ((0, 0, 0), (255, 0, 0), (0, 255, 0)))


@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
def test_metrics_agree_with_counting_by_hand(seed: int, classes: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.choice([*range(classes), IGNORE_INDEX], size=(2, 9, 7)).astype(np.uint8)
    predicted = random.integers(0, classes, labels.shape).astype(np.uint8)
    matrix = ConfusionMatrix(classes)
    for one, other in zip(predicted, labels, strict=True):
        matrix.update(torch.from_numpy(one), torch.from_numpy(other))
    known = labels != IGNORE_INDEX
    assert matrix.accuracy == pytest.approx((predicted == labels)[known].mean() if known.any() else 0)
    ious = []
    for c in range(classes):
        both, either = ((predicted == c) & (labels == c)).sum(), ((predicted == c) & known | (labels == c)).sum()
        ious.append(both / either if (labels == c).any() else None)
    assert matrix.iou() == pytest.approx(ious)
    present = [value for value in ious if value is not None]
    assert matrix.miou == pytest.approx(np.mean(present) if present else 0)


def test_an_absent_class_is_left_out_and_named() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([0, 0, 2]), torch.tensor([0, 0, 0]))
    assert matrix.iou() == [pytest.approx(2 / 3), None, None]
    assert matrix.miou == pytest.approx(2 / 3) and matrix.absent(["a", "b", "c"]) == ["b", "c"]
    with pytest.raises(ValueError, match=r"labels of no class: \[7\]"):
        matrix.update(torch.tensor([0]), torch.tensor([7], dtype=torch.uint8))


@given(st.integers(2, 5000), st.floats(1e-6, 1))
def test_the_learning_rate_rises_then_falls_and_stays_positive(steps: int, peak: float) -> None:
    rates = [learning_rate((step + 1) / steps, peak) for step in range(steps)]
    top = rates.index(max(rates))
    assert all(0 < rate <= peak * (1 + 1e-9) for rate in rates)
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert learning_rate(0, peak) > 0 and learning_rate(1.1, peak) == rates[-1] == pytest.approx(peak * 0.01)


@given(st.integers(1, 200), st.integers(1, 33), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_has_every_picture_and_no_batch_of_one(count: int, size: int, seed: int, epoch: int) -> None:
    batches = loader.epoch_batches(count, size, seed, epoch)
    shown = [index for batch in batches for index in batch]
    assert set(shown) == set(range(count)) and batches == loader.epoch_batches(count, size, seed, epoch)
    assert all(len(batch) > 1 for batch in batches[-1:])
    if size > 1 and count > 1:
        assert len(shown) == count, "each once"


def test_the_order_differs_between_epochs_and_does_not_touch_the_global_generator() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert loader.epoch_batches(50, 8, 0, 0) != loader.epoch_batches(50, 8, 0, 1)
    images, masks = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, 8, 8, dtype=torch.uint8)
    augment(images, masks, STRENGTHS["strong"], (8, 8), np.random.default_rng(0))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("strength", sorted(STRENGTHS))
@pytest.mark.parametrize("size", [(24, 36), (12, 18), (30, 20)])
def test_augmentation_keeps_picture_and_mask_together(strength: str, size: tuple[int, int]) -> None:
    """Two halves of one class each, drawn in the picture too: after any change the picture still shows the mask."""
    masks = torch.zeros(32, 24, 36, dtype=torch.uint8)
    masks[:, :, 20:] = 1
    masks[:, 18:] = IGNORE_INDEX
    images = (masks == 1)[:, None].repeat(1, 3, 1, 1).to(torch.uint8) * 200 + 20
    changed, moved = augment(images, masks, STRENGTHS[strength], size, np.random.default_rng(1))
    again, _ = augment(images, masks, STRENGTHS[strength], size, np.random.default_rng(1))
    assert changed.shape == (32, 3, *size) and moved.shape == (32, *size) and moved.dtype == torch.uint8
    assert torch.equal(changed, again) and set(moved.flatten().tolist()) <= {0, 1, IGNORE_INDEX}
    for image, mask in zip(changed.mean(1), moved, strict=True):
        if (mask == 1).any() and (mask == 0).any():
            middle = (image[mask == 1].mean() + image[mask == 0].mean()) / 2
            assert ((image > middle) == (mask == 1))[mask != IGNORE_INDEX].float().mean() > 0.9
    if size == (24, 36):
        assert torch.equal(moved, masks) == (strength == "none")


def test_the_average_of_the_weights_follows_them_over_a_share_of_the_steps() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    network = torch.nn.Sequential(layer, torch.nn.BatchNorm1d(1))
    average, weight = AveragedWeights(network, fraction=0.1), layer.weight
    for step in range(1, 201):
        with torch.no_grad():
            weight.fill_(float(step))
        average.update(step)
        if step == 1:
            assert float(average.network[0].weight) == 1  # type: ignore[index]
    assert float(average.network[0].weight) == pytest.approx(200 * 10 / 11, rel=0.01)  # type: ignore[index]


LOSSES = ("ce", "dice", "ce+dice", "focal")


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_leaves_ignored_pixels_out_and_falls_to_nothing_for_the_truth(name: str) -> None:
    criterion = SegmentationLoss(name, torch.tensor([1.0, 2.0, 0.5]))
    labels = torch.randint(0, 3, (2, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    labels[0] = IGNORE_INDEX
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss, weight = criterion(logits, labels)
    loss.backward()
    assert logits.grad is not None and bool((logits.grad[0] == 0).all()) and bool((logits.grad[1] != 0).any())
    assert float(weight) == pytest.approx(float(criterion.table[labels.long()].sum()))
    assert float(criterion(logits[1:].detach(), labels[1:])[0]) == pytest.approx(float(loss.detach()), rel=1e-5)
    truth = torch.nn.functional.one_hot(labels[1:].long(), 3).permute(0, 3, 1, 2) * 50.0
    assert float(criterion(truth, labels[1:])[0]) == pytest.approx(0, abs=1e-5)
    nothing, weight = criterion(logits, torch.full_like(labels, IGNORE_INDEX))
    nothing.backward()
    assert float(nothing.detach()) == 0 == float(weight)


def test_losses_are_what_their_names_say() -> None:
    torch.manual_seed(0)
    logits, labels, weights = torch.randn(2, 3, 5, 4), torch.randint(0, 3, (2, 5, 4)), torch.tensor([1.0, 2.0, 0.5])
    loss = {name: float(SegmentationLoss(name, weights)(logits, labels)[0]) for name in LOSSES}
    assert loss["ce"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels, weights)))
    assert loss["ce+dice"] == pytest.approx(loss["ce"] + loss["dice"])
    shares = logits.softmax(1).transpose(0, 1).flatten(1)
    truth = torch.stack([(labels == c).flatten() for c in range(3)]).float()
    by_hand = 1 - 2 * (shares * truth).sum(1) / (shares.sum(1) + truth.sum(1))
    assert loss["dice"] == pytest.approx(float(by_hand.mean()))
    p, w = (shares * truth).sum(0), (weights[:, None] * truth).sum(0)
    assert loss["focal"] == pytest.approx(float((w * (1 - p) ** 2 * -p.log()).sum() / w.sum()))
    main, auxiliary = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    criterion = SegmentationLoss("ce", weights)
    assert float(criterion((main, auxiliary), labels)[0]) == pytest.approx(
        float(criterion(main, labels)[0] + 0.5 * criterion(auxiliary, labels)[0])
    )


def test_class_weights_are_higher_for_rare_classes_and_absent_ones_weigh_nothing() -> None:
    weights, _ = class_weights("auto", [900, 100, 0])
    assert weights[1] > weights[0] > 0 == weights[2]
    assert float(weights[:2].mean()) == pytest.approx(1)
    assert class_weights("none", [900, 100, 0])[0].tolist() == [1, 1, 0]
    assert class_weights("1, 3 9", [900, 100, 0])[0].tolist() == [0.5, 1.5, 0]
    with pytest.raises(UsageError, match="2 numbers for the 3 classes"):
        class_weights("1 2", [9, 9, 9])
    with pytest.raises(UsageError, match="CLASS_WEIGHTS='often': expected auto, none"):
        class_weights("often", [9, 9])


def test_what_is_open_comes_from_data_and_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_network("compact_unet", 3)
    small, large = (auto_settings.batch_size(None, network, size, CPU)[0] for size in ((64, 64), (360, 480)))
    assert small == 16 and large == 4, "about as many pixels in a step"
    one = auto_settings.step_memory(network, (64, 64))
    assert auto_settings.step_memory(network, (128, 128)) == pytest.approx(4 * one, rel=0.1)
    monkeypatch.setattr(auto_settings, "free_memory", lambda _: 6 * one)
    batch, reason = auto_settings.batch_size(None, network, (64, 64), CPU)
    assert batch == 3 and "limited by memory" in reason
    assert auto_settings.batch_size(7, network, (64, 64), CPU)[0] == 7
    assert auto_settings.precision("auto", CPU)[0] == torch.float32
    assert [auto_settings.augmentation("auto", passes)[0] for passes in (1, 29.9, 30)] == ["light", "light", "standard"]
    assert auto_settings.augmentation("strong", 1) == ("strong", "as set")
    assert auto_settings.step_seconds(network, 2, (32, 32), CPU) < auto_settings.step_seconds(
        network, 8, (128, 128), CPU
    )
    assert all(p.grad is None for p in network.parameters()), "tried on a copy"


def make_model(**changes: object) -> Model:
    torch.manual_seed(0)
    values: dict[str, object] = {
        "network": build_network("compact_unet", 3).eval(),
        "architecture": "compact_unet",
        "classes": CLASSES,
        "input_size": (32, 48),
        "normalisation": Normalisation((0.5, 0.5, 0.5), (0.2, 0.2, 0.2)),
        "metrics": {"best_val_miou": 0.5},
        "lineage": {"run_id": "r"},
    }
    return Model(**{**values, **changes})  # type: ignore[arg-type]


def test_a_checkpoint_rebuilds_its_model_with_no_flags(tmp_path: Path) -> None:
    model = make_model()
    save_model(tmp_path / "new/model.pth", model)
    loaded = load_model(tmp_path / "new/model.pth", file_sha256(tmp_path / "new/model.pth"), CPU)
    assert (loaded.classes, loaded.input_size, loaded.normalisation) == (model.classes, (32, 48), model.normalisation)
    assert (loaded.metrics, loaded.lineage) == (model.metrics, model.lineage)
    images = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    sizes = [(32, 48), (64, 10)]
    with torch.inference_mode():
        first = list(native_logits(model.network, images, sizes, model.normalisation, CPU))
        second = list(native_logits(loaded.network, images, sizes, loaded.normalisation, CPU))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(first, second, strict=True))
    assert [tuple(one.shape) for one in second] == [(3, 32, 48), (3, 64, 10)]


class Payload:
    """Would make a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_file_that_is_no_model_is_refused_and_nothing_of_it_runs(tmp_path: Path) -> None:
    path, trap = tmp_path / "model.pth", tmp_path / "executed"
    contents = [b"", b"junk", pickle.dumps(Payload(trap))]
    save_model(path, make_model())
    whole = path.read_bytes()
    contents += [whole[: len(whole) // 2], whole[:2000] + b"\0" * 500 + whole[2500:]]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(AppError, match="not a model file of this project"):
            load_model(path, file_sha256(path), CPU)
    torch.save({"format": 1, "architecture": Payload(trap)}, path)
    with pytest.raises(AppError, match="not a model file of this project"):
        load_model(path, file_sha256(path), CPU)
    assert not trap.exists()
    torch.save({"format": 99}, path)
    with pytest.raises(AppError, match="format 99, expected 1"):
        load_model(path, file_sha256(path), CPU)
    with pytest.raises(AppError, match="SHA-256 differs"):
        load_model(path, "0" * 64, CPU)


def test_the_input_is_normalised() -> None:
    images = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    out = to_input(images, Normalisation((0.5, 0.0, 1.0), (0.5, 1.0, 0.25)), CPU)
    assert out[0, :, 0, 0].tolist() == pytest.approx([1.0, 1.0, 0.0])


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
def test_training_is_repeatable_to_the_bit_with_any_last_batch(sample: Path, tmp_path: Path, batch_size: int) -> None:
    """Ten training pictures: batches of 9 leave one over, batches of one are shown twice."""
    weights = []
    for _ in range(2):
        training = train(sample, tmp_path, batch_size=batch_size, image_size=(32, 32))
        assert np.isfinite(training.history[0].train_loss)
        weights.append(torch.cat([p.detach().ravel() for p in training.network.parameters()]))
    assert torch.equal(*weights) and bool(torch.isfinite(weights[0]).all())


def test_decoded_pictures_are_shared_verified_and_bounded(
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
    for pair in data.pairs:  # a second run has no need of the files themselves
        pair.image.rename(pair.image.with_suffix(".kept"))
    again = prepare_training(made.settings, data)
    pairs = ((again.train_images, read.setup.train_images), (again.val_images, read.setup.val_images))
    for mine, other in pairs:
        for index in range(len(mine)):
            assert all(map(np.array_equal, mine.arrays(index), other.arrays(index)))

    for pair in data.pairs:
        pair.image.with_suffix(".kept").rename(pair.image)
    damaged, whole = files
    damaged.write_bytes(b"x" + files[damaged][1:])
    whole.write_bytes(files[whole][:-1])
    (folder / f".{whole.name}.0.part").write_bytes(b"of a killed process")
    capsys.readouterr()
    prepare_training(made.settings, data)
    assert capsys.readouterr().out.count("damaged: decoding again") == 2
    assert {file: file.read_bytes() for file in folder.glob("*.pictures")} == files
    assert not list(folder.glob(".*.part"))

    room = sum(map(len, files.values())) / 1e9
    train(sample, tmp_path, picture_cache_gb=room, image_size=(31, 32), lakefs_local_dir=tmp_path / "lake")
    left = list(folder.glob("*.pictures"))
    assert len(left) == 2 and not files.keys() & set(left), "the older ones had to go"


def test_a_picture_that_changes_after_the_check_stops_the_run(sample: Path, tmp_path: Path) -> None:
    root = shutil.copytree(sample, tmp_path / "data")
    data = check_data(root, 0)
    image = data.split("train")[0].image
    image.write_bytes(image.read_bytes() + b" ")
    own = {"model_path": tmp_path / "m.pth", "lakefs_local_dir": tmp_path / "lakefs"}
    chosen = config.load_settings(**own, device="cpu", app_lang="en")
    with pytest.raises(UsageError, match="changed since it was committed"):
        prepare_training(chosen, data)


@settings(max_examples=200)
@given(st.floats(0, 1))
def test_percent_never_says_more_than_was_measured(share: float) -> None:
    assert percent(share) <= share * 100 + 1e-6 and percent(share) >= int(share * 100)
    assert [percent(x) for x in (0.85, 0.57, 0.29, 0.999, 1.0, 0.0)] == [85, 57, 29, 99, 100, 0]


def test_the_report_is_the_one_of_the_design() -> None:
    commit = "a" * 64
    result = Result(
        "run",
        LakePath("r", "b" * 64, "data/"),
        "1" * 64,
        LakePath("r", commit, "models/model.pth"),
        "0" * 64,
        0.8567,
        0.7,
    )
    assert report_block(result) == (
        "=== LakeFS 커밋 완료 ===\n"
        f"커밋 ID: {commit}\n"
        "=== Git 커밋 시 추가할 내용 ===\n"
        "LakeFS 업로드 정보:\n"
        f"- LakeFS 커밋: {commit}\n"
        "- 업로드된 파일: models/model.pth\n"
        "- 모델 성능: accuracy 85%"
    )


def test_credentials_in_addresses_are_never_recorded() -> None:
    assert without_credentials("https://me:pw@host:1/x") == "https://host:1/x"
    assert without_credentials("git@github.com:a/b.git") == "git@github.com:a/b.git"
    public = config.load_settings(mlflow_tracking_uri="http://me:pw@host:5000", lakefs_access_key_id="AKIA").public()
    assert public["mlflow_tracking_uri"] == "http://host:5000" and "AKIA" not in str(public) and "pw" not in str(public)


def test_a_training_by_time_ends_at_its_time_and_at_the_floor_of_the_rate(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(0, 0.125)  # seconds, at each look at it
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
def test_a_training_by_other_settings(sample: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    training = train(sample, tmp_path, image_size=(32, 32), batch_size=4, **changes)
    assert np.isfinite(training.history[0].train_loss) and training.best_file.exists()


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_place(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = ModelTrain.train_step

    def broken(self: ModelTrain, epoch: int, number: int, batch: model_train.Batch) -> int:
        if number == 1:
            with torch.no_grad():
                next(self.network.parameters()).fill_(torch.nan)
        return step(self, epoch, number, batch)

    monkeypatch.setattr(ModelTrain, "train_step", broken)
    with pytest.raises(AppError, match=r"epoch 1, batch 2: the loss is not finite: lower LEARNING_RATE \(now 0.003\)"):
        train(sample, tmp_path, image_size=(32, 32), batch_size=2)


def test_a_few_pictures_are_learnt_by_heart_or_it_is_said(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"model_path": tmp_path / "m.pth", "lakefs_local_dir": tmp_path / "lakefs"}
    chosen = config.load_settings(**own, device="cpu", app_lang="en", model="compact_fpn")
    overfit_check.overfit_check(chosen, check_data(sample, 0), 2)
    assert "the model overfits 2 images" in capsys.readouterr().out and not (tmp_path / "m.pth").exists()
    monkeypatch.setattr(overfit_check, "EPOCHS", 1)
    with pytest.raises(AppError, match=r"mIoU 0\.\d+ on 2 images, expected 0.95"):
        overfit_check.overfit_check(chosen, check_data(sample, 0), 2)
    with pytest.raises(UsageError, match="--overfit 99: expected 1 to 10"):
        overfit_check.overfit_check(chosen, check_data(sample, 0), 99)
