"""The parts of training by themselves: metrics, schedule, order, augmentation, networks, checkpoint, report."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import config
from train import loader
from train.checkpoint import Model, load_model, save_model
from train.classes import IGNORE_INDEX, ClassMap
from train.data_check import check_data
from train.metrics import ConfusionMatrix
from train.mlflow_train import Result
from train.model_train import ModelTrain, weighted_cross_entropy
from train.networks import NETWORKS, build_network
from train.preprocess import Normalisation, native_logits, to_input
from train.report import percent, report_block
from train.sample_data import generate_sample
from train.schedule import learning_rate
from utils.console import AppError, UsageError
from utils.files import file_sha256
from utils.git_utils import without_credentials
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


@given(st.integers(1, 5000), st.floats(1e-6, 1))
def test_the_learning_rate_rises_then_falls_and_stays_positive(total: int, peak: float) -> None:
    rates = [learning_rate(step, total, peak) for step in range(total)]
    top = rates.index(max(rates))
    assert all(0 < rate <= peak * (1 + 1e-9) for rate in rates)
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert learning_rate(total + 10, total, peak) <= max(rates[-1], peak * 0.0101) + 1e-12


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
    loader.augment(images, masks, 0, 0, 0)
    assert torch.equal(before, torch.get_rng_state())


def test_augmentation_keeps_picture_and_mask_together() -> None:
    masks = torch.randint(0, 3, (64, 6, 5), dtype=torch.uint8)
    images = (masks[:, None] * 80).repeat(1, 3, 1, 1)
    changed, moved = loader.augment(images, masks, seed=1, epoch=2, step=3)
    again, _ = loader.augment(images, masks, seed=1, epoch=2, step=3)
    assert torch.equal(changed, again) and not torch.equal(moved, masks)
    assert torch.equal(changed[:, 0] > 0, moved > 0), "the picture is turned with its mask"


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("size", [(16, 16), (17, 31), (64, 48)])
def test_a_network_gives_logits_at_the_size_of_its_input(name: str, size: tuple[int, int]) -> None:
    network = build_network(name, 4)
    logits = network(torch.randn(2, 3, *size))
    assert logits.shape == (2, 4, *size) and logits.dtype == torch.float32
    logits.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_the_compact_network_has_the_parameters_that_it_claims() -> None:
    assert sum(p.numel() for p in build_network("compact_unet", 11).parameters()) == pytest.approx(1.8e6, rel=0.05)


def test_ignored_pixels_change_nothing_and_a_batch_of_them_is_harmless() -> None:
    logits, weights = torch.randn(2, 3, 4, 4, requires_grad=True), torch.tensor([1.0, 2.0, 0.5])
    labels = torch.randint(0, 3, (2, 4, 4))
    labels[0] = IGNORE_INDEX
    loss, weight = weighted_cross_entropy(logits, labels, weights)
    expected = torch.nn.functional.cross_entropy(logits[1:], labels[1:], weights)
    assert float((loss / weight).detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    loss, weight = weighted_cross_entropy(logits, torch.full_like(labels, IGNORE_INDEX), weights)
    (loss / weight.clamp_min(1e-6)).backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0 and logits.grad is not None and bool((logits.grad == 0).all())


def test_class_weights_are_higher_for_rare_classes_and_absent_ones_weigh_nothing() -> None:
    weights = loader.class_weights([900, 100, 0])
    assert weights[1] > weights[0] > 0 == weights[2]
    assert float(weights[:2].mean()) == pytest.approx(1)


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
        first = native_logits(model.network, images, sizes, model.normalisation, CPU)
        second = native_logits(loaded.network, images, sizes, loaded.normalisation, CPU)
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


def test_a_foreign_architecture_lists_the_known() -> None:
    with pytest.raises(UsageError, match=r"unknown model 'compact_unett' \(did you mean 'compact_unet'\?\)"):
        build_network("compact_unett", 2)


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
    chosen = config.load_settings(model_path=folder / "m.pth", epochs=1, device="cpu", app_lang="en", **changes)
    training = ModelTrain(chosen, data=check_data(sample, 0))
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


def test_pictures_beyond_the_cache_give_the_same_training(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = train(sample, tmp_path, image_size=(32, 32))
    monkeypatch.setattr(loader, "CACHE_BYTES", 0)
    read = train(sample, tmp_path, image_size=(32, 32))
    assert kept.train_pictures.cache is not None and read.train_pictures.cache is None
    assert kept.history[0].validation == read.history[0].validation


def test_a_picture_that_changes_after_the_check_stops_the_run(sample: Path, tmp_path: Path) -> None:
    import shutil

    root = shutil.copytree(sample, tmp_path / "data")
    data = check_data(root, 0)
    image = data.split("train")[0].image
    image.write_bytes(image.read_bytes() + b" ")
    chosen = config.load_settings(model_path=tmp_path / "m.pth", device="cpu", app_lang="en")
    with pytest.raises(UsageError, match="changed since it was committed"):
        ModelTrain(chosen, data=data).fit()


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
