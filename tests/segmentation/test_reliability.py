"""Calibrated probabilities, uncertainty, and images unlike those of the training."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.errors import AppError
from core.hashing import file_sha256
from dataset.classes import IGNORE_INDEX, UInt8
from segmentation.model_file import load_model, save_model
from segmentation.networks.registry import build_network
from segmentation.predictor import Method, Predictor
from segmentation.reliability.calibration import Calibrated, LogitSamples, Reliability, fit_temperature
from segmentation.reliability.drift import Observations, TrainingDistribution, fit_distribution
from segmentation.reliability.features import find_deepest
from segmentation.reliability.input_watch import InputWatch
from segmentation.reliability.statistics import REASONS, image_statistics, statistic_names
from segmentation.reliability.stored import join_distributions
from segmentation.reliability.uncertainty import ErrorRanking, entropies, image_confidence
from tests.support.images import noise
from tests.support.models import CPU, make_model

CLASSES = 5


def drawn(images: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits (N,C,40,50) and labels that are drawn from exactly their probabilities."""
    torch.manual_seed(seed)
    logits = torch.randn(images, CLASSES, 40, 50) * 2
    draws = torch.multinomial(logits.softmax(1).permute(0, 2, 3, 1).reshape(-1, CLASSES), 1)
    return logits, draws.view(images, 40, 50).to(torch.uint8)


def sampled(logits: torch.Tensor, labels: torch.Tensor) -> LogitSamples:
    samples = LogitSamples(len(logits), logits.shape[1])
    for index, (one, mask) in enumerate(zip(logits, labels, strict=True)):
        samples.add(index, one, mask)
    return samples


# --- calibration ---


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_temperature_takes_a_factor_of_the_logits_back(factor: float) -> None:
    logits, labels = drawn(8)
    samples = sampled(logits * factor, labels)
    temperature = fit_temperature(samples)
    found = Calibrated.of(samples, temperature)
    assert temperature == pytest.approx(factor, rel=0.03) and found is not None
    assert found.after.error < 0.02
    assert found.before.error == pytest.approx(found.after.error, abs=0.01) or found.before.error > 0.1


def test_temperature_is_the_same_each_time_and_ignores_pixels_without_a_class() -> None:
    logits, labels = drawn(4)
    spoiled = logits.clone()
    labels[:, :10] = IGNORE_INDEX
    spoiled[:, :, :10] = 1e4
    first, second = sampled(logits, labels), sampled(spoiled, labels)
    assert fit_temperature(first) == fit_temperature(second)
    assert torch.equal(first.pixels()[0], second.pixels()[0])


def test_split_without_labels_leaves_probabilities_as_they_are() -> None:
    samples = sampled(torch.randn(2, CLASSES, 8, 8), torch.full((2, 8, 8), IGNORE_INDEX, dtype=torch.uint8))
    assert fit_temperature(samples) == 1.0
    assert Calibrated.of(samples, 1.0) is None


def test_sampled_pixels_are_bounded_and_spread_over_the_image() -> None:
    logits, labels = torch.arange(300.0 * 400).view(1, 1, 300, 400), torch.zeros(1, 300, 400, dtype=torch.uint8)
    values = sampled(logits, labels).pixels()[0].flatten()
    assert len(values) == 4096 and values[0] == 0 and values[-1] == 300 * 400 - 1


def test_expected_calibration_error_is_the_weighted_distance_of_confidence_and_accuracy() -> None:
    logits = torch.log(torch.tensor([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10))
    labels = torch.tensor([0] * 7 + [1] * 3 + [0] * 6 + [1] * 4)
    found = Reliability.of(logits, labels, 1.0)
    assert found.error == pytest.approx((10 * 0.2 + 10 * 0.0) / 20, abs=1e-6)
    assert found.curve() == [pytest.approx((0.6, 0.6)), pytest.approx((0.9, 0.7))]


# --- uncertainty ---


def test_auroc_is_that_of_all_pairs_of_wrong_and_correct_pixels() -> None:
    random = np.random.default_rng(0)
    levels = random.integers(0, 30, (20, 20)).astype(np.uint16)
    predicted, labels = (random.integers(0, 2, (20, 20)).astype(np.uint8) for _ in range(2))
    labels[:3] = IGNORE_INDEX
    ranking = ErrorRanking()
    ranking.update(levels, predicted, labels)
    known = labels != IGNORE_INDEX
    wrong, right = (levels[known & (chosen)] for chosen in (predicted != labels, predicted == labels))
    pairs = wrong.astype(int)[:, None] - right.astype(int)[None]
    assert ranking.auroc == pytest.approx(float(((pairs > 0) + (pairs == 0) / 2).mean()))
    perfect = ErrorRanking()
    perfect.update(levels, predicted, predicted)
    assert perfect.auroc is None


def test_confidence_of_a_small_image_is_the_mean_of_its_largest_probabilities() -> None:
    logits = torch.randn(CLASSES, 30, 40) * 3
    assert image_confidence(logits, 1.7) == pytest.approx(
        float((logits / 1.7).softmax(0).max(0).values.mean()), abs=1e-6
    )
    large = torch.randn(CLASSES, 1, 40_000) * 3
    assert 0 < image_confidence(large, 1.0) < 1
    known = torch.zeros(30, 40, dtype=torch.bool)
    assert math.isnan(image_confidence(logits, 1.7, known))
    known[:, :10] = True
    assert image_confidence(logits, 1.7, known) == pytest.approx(image_confidence(logits[..., :10], 1.7), abs=1e-6)


@pytest.mark.parametrize("method", [Method(), Method(flip=True), Method(tile=128), Method(tile=0, flip=True)])
def test_temperature_changes_probabilities_and_no_class(method: Method) -> None:
    method = replace(method, probabilities=True, uncertainty_map=True)
    model = make_model((64, 96))
    image = noise(200, 150)
    found = []
    for temperature in (1.0, 2.5):
        predictor = Predictor(replace(model, temperature=temperature), CPU, method)
        found.append(predictor.predict([predictor.prepare(image, "")])[0])
    cold, warm = found
    assert np.array_equal(cold.indices, warm.indices)
    assert cold.probabilities is not None and warm.probabilities is not None and warm.levels is not None
    assert warm.confidence is not None and cold.confidence is not None and warm.confidence < cold.confidence
    logits = np.log(cold.probabilities.astype(np.float64))
    expected = np.exp(logits / 2.5) / np.exp(logits / 2.5).sum(0)
    assert np.abs(warm.probabilities - expected).max() < 2e-3
    entropy = -(expected * np.log2(expected)).sum(0)
    assert np.abs(warm.levels / 65535 - entropy).max() < 2e-3
    assert warm.uncertainty == pytest.approx(entropy.mean(), abs=1e-3)


def test_entropy_is_0_for_one_class() -> None:
    assert entropies(torch.zeros(1, 3, 3), 1.0).max() == 0


# --- images unlike those of the training ---


def scenes(count: int, seed: int) -> list[UInt8]:
    """Return images (60,80,3) of a blue sky over a brown ground with a few bright things."""
    random, found = np.random.default_rng(seed), []
    for _ in range(count):
        image = np.empty((60, 80, 3), np.float64)
        horizon = random.integers(20, 40)
        image[:horizon], image[horizon:] = (90, 130, 190), (120, 90, 60)
        for _ in range(4):
            top, left = random.integers(0, 50), random.integers(0, 70)
            image[top : top + 10, left : left + 10] = random.integers(60, 230, 3)
        image *= random.uniform(0.85, 1.15)
        found.append(np.clip(image + random.normal(0, 3, image.shape), 0, 255).astype(np.uint8))
    return found


def observed(images: list[UInt8]) -> Observations:
    return Observations(np.stack([image_statistics(image, image.shape[:2]) for image in images]), None)


def distribution() -> TrainingDistribution:
    found = fit_distribution(3, observed(scenes(60, 0)), None)
    assert found is not None
    return found


def test_images_of_the_same_kind_are_not_flagged() -> None:
    assert distribution().alarms(observed(scenes(200, 1))) <= 0.02


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda image: 255 - image, "contrast"),
        (lambda image: np.repeat(image.mean(2, keepdims=True).astype(np.uint8), 3, 2), "colour"),
        (lambda image: noise(*image.shape[:2]), "detail"),
        (lambda image: (image // 6).astype(np.uint8), "brightness"),
        (np.zeros_like, "dark"),
        (lambda image: np.full_like(image, 255), "saturated"),
        (lambda image: np.repeat(image, 3, 1), "aspect"),
        (lambda image: image[::-1], "layout"),
    ],
)
def test_other_images_are_flagged_with_the_reason(change: Any, reason: str) -> None:
    for image in map(change, scenes(5, 2)):
        found = distribution().check(image_statistics(image, image.shape[:2]), None)
        assert found.flagged and found.score > 1 and reason in found.reasons
        assert set(found.reasons) <= set(REASONS)


def test_features_of_the_network_are_compared_too() -> None:
    random = np.random.default_rng(0)
    mixing = random.normal(size=(6, 40))
    features = (random.normal(size=(100, 6)) @ mixing + random.normal(0, 0.1, (100, 40))).astype(np.float32)
    seen = observed(scenes(100, 0))
    fitted = fit_distribution(3, Observations(seen.statistics, features), "layer")
    assert fitted is not None
    same = (random.normal(size=6) @ mixing).astype(np.float32)
    other = (same + 2 * random.normal(size=40)).astype(np.float32)
    statistics = seen.statistics[0]
    assert not fitted.check(statistics, same).flagged
    assert fitted.check(statistics, other).reasons == ("features",)
    with pytest.raises(AppError, match="features that its network does not have"):
        fitted.check(statistics, other[:7])


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 50, 3), (50, 1, 3), (40, 40, 5), (2000, 3000, 3)])
def test_image_of_any_size_and_number_of_bands_has_its_statistics(shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    found = image_statistics(image, shape[:2])
    assert len(found) == len(statistic_names(shape[2])) and np.isfinite(found).all()


def test_few_images_say_nothing_about_what_is_usual() -> None:
    assert fit_distribution(3, observed(scenes(7, 0)), None) is None


def test_validation_images_widen_the_threshold_up_to_a_limit() -> None:
    fitted = distribution()
    darker = observed([(image * 0.55).astype(np.uint8) for image in scenes(50, 3)])
    black = observed([np.zeros_like(image) for image in scenes(50, 3)])
    assert fitted.widened(observed(scenes(50, 1))).threshold == fitted.threshold
    assert fitted.alarms(darker) > 0.02
    assert fitted.threshold < fitted.widened(darker).threshold <= 1.5 * fitted.threshold
    assert fitted.widened(black).alarms(black) == 1.0


@pytest.mark.parametrize(
    "name", ["compact_unet", "compact_fpn", "lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"]
)
def test_deepest_map_of_a_network_is_found(name: str) -> None:
    network = build_network(name, 3).eval()
    module = find_deepest(network, 3)
    assert module is not None
    sizes: list[torch.Size] = []
    network.get_submodule(module).register_forward_hook(lambda _m, _i, output: sizes.append(output.shape))
    with torch.inference_mode():
        network(torch.zeros(1, 3, 128, 128))
    assert max(sizes[0][-2:]) <= 16 and sizes[0][1] >= 32


# --- the model file ---


def described_model() -> Any:
    model = make_model((64, 64))
    module = find_deepest(model.network, 3)
    assert module is not None
    width = 192
    features = np.random.default_rng(0).normal(size=(60, width)).astype(np.float32)
    inputs = fit_distribution(3, Observations(observed(scenes(60, 0)).statistics, features), module)
    return replace(model, temperature=1.75, inputs=inputs)


def test_model_file_has_temperature_and_what_the_training_images_are_like(tmp_path: Path) -> None:
    model = described_model()
    save_model(tmp_path / "model.pth", model)
    loaded = load_model(tmp_path / "model.pth", file_sha256(tmp_path / "model.pth"), CPU)
    assert loaded.temperature == 1.75 and loaded.inputs is not None
    for name in ("center", "below", "above", "threshold", "scales"):
        assert getattr(loaded.inputs, name) == getattr(model.inputs, name)
    assert loaded.inputs.features is not None
    for name, value in vars(model.inputs.features).items():
        assert np.array_equal(getattr(loaded.inputs.features, name), value)


@pytest.mark.parametrize("others", [0, 1])
def test_a_training_of_equal_images_has_a_model_that_can_be_loaded(tmp_path: Path, others: int) -> None:
    same, model = scenes(1, 0)[0], make_model((64, 64))
    images = [same] * 10 + [noise(60, 80)] * others
    features = np.ones((len(images), 192), np.float32)
    inputs = fit_distribution(3, Observations(observed(images).statistics, features), find_deepest(model.network, 3))
    save_model(tmp_path / "model.pth", replace(model, inputs=inputs, scale=(16 / 6000, 64.0)))
    loaded = load_model(tmp_path / "model.pth", file_sha256(tmp_path / "model.pth"), CPU)
    assert loaded.scale == (16 / 6000, 64.0)
    assert loaded.inputs is not None and inputs is not None and loaded.inputs.scales == inputs.scales


def test_model_file_of_an_earlier_version_has_neither(tmp_path: Path) -> None:
    save_model(tmp_path / "model.pth", described_model())
    content = torch.load(tmp_path / "model.pth", weights_only=True)
    del content["temperature"], content["inputs"]
    torch.save(content, tmp_path / "model.pth")
    loaded = load_model(tmp_path / "model.pth", file_sha256(tmp_path / "model.pth"), CPU)
    assert (loaded.temperature, loaded.inputs) == (1.0, None)
    predictor = Predictor(loaded, CPU, Method(compare=True))
    (found,) = predictor.predict([predictor.prepare(noise(64, 64), "")])
    assert found.drift is None and found.confidence is not None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("temperature", 0.0),
        ("temperature", float("nan")),
        ("temperature", "1"),
        ("inputs", [1]),
        ("inputs/statistics", ["mean/0"]),
        ("inputs/center", [0.0]),
        ("inputs/below", [0.0] * len(statistic_names(3))),
        ("inputs/threshold", float("inf")),
        ("inputs/combination", None),
        ("inputs/combination/mean", torch.zeros(3)),
        ("inputs/combination/scale", 0.0),
        ("inputs/combination/module", "down.3"),
        ("inputs/features/module", "no.such.module"),
        ("inputs/features/mean", torch.zeros(3)),
        ("inputs/features/std", torch.zeros(192)),
        ("inputs/features/directions", torch.full((2, 192), float("nan"))),
        ("inputs/features/variances", torch.ones(5, dtype=torch.float64)),
        ("inputs/features/rest", -1.0),
    ],
)
def test_damaged_description_is_refused(tmp_path: Path, path: str, value: object) -> None:
    save_model(tmp_path / "model.pth", described_model())
    content = torch.load(tmp_path / "model.pth", weights_only=True)
    place, keys = content, path.split("/")
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(AppError, match="not a model file of this project") as error:
        load_model(tmp_path / "model.pth", file_sha256(tmp_path / "model.pth"), CPU)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", [Method(), Method(flip=True), Method(tile=128)])
def test_predictor_compares_each_image_in_one_batch_or_alone_alike(method: Method) -> None:
    predictor = Predictor(described_model(), CPU, replace(method, compare=True))
    images = [predictor.prepare(image, "") for image in (*scenes(2, 5), noise(60, 80))]
    together, alone = predictor.predict(images), [predictor.predict([image])[0] for image in images]
    for one, other in zip(together, alone, strict=True):
        assert one.drift is not None and other.drift is not None
        assert one.drift.score == pytest.approx(other.drift.score, rel=1e-3)
    assert together[2].drift is not None and "detail" in together[2].drift.reasons


@pytest.mark.parametrize("flip", [False, True])
def test_an_image_that_is_cut_into_tiles_is_compared_by_its_features(flip: bool) -> None:
    """The first one, too, for which the network is measured with NaN."""
    predictor = Predictor(described_model(), CPU, Method(tile=128, flip=flip, compare=True))
    image = predictor.prepare(noise(200, 300), "")
    first, second = (predictor.predict([image])[0].drift for _ in range(2))
    assert first is not None and second is not None and np.isfinite(first.score)
    assert first == second and "features" not in first.reasons


def test_features_that_are_no_numbers_are_flagged() -> None:
    inputs = described_model().inputs
    broken = np.full(192, np.nan, np.float32)
    drift = inputs.check(observed(scenes(1, 0)).statistics[0], broken)
    assert np.isfinite(drift.score) and drift.reasons[0] == "features"


def test_the_pass_over_the_image_itself_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the mean with its mirror image, which a batch of several images does not have either."""
    seen, real = [], InputWatch.compare

    def compare(self: InputWatch, statistics: Any, recorded: Any) -> Any:
        seen.append([tuple(features.shape) for features in recorded])
        return real(self, statistics, recorded)

    monkeypatch.setattr(InputWatch, "compare", compare)
    predictor = Predictor(described_model(), CPU, Method(flip=True, compare=True))
    images = [predictor.prepare(image, "") for image in scenes(2, 3)]
    predictor.predict(images[:1])
    predictor.predict(images)
    assert seen == [[(1, 192)], [(2, 192)]]


def test_members_are_joined_to_the_widest_of_what_they_know() -> None:
    first, second = distribution(), fit_distribution(3, observed(scenes(60, 9)), None)
    joined = join_distributions([first, second], "members.0.")
    assert joined is not None and second is not None
    for one in (first, second):
        assert np.all(np.subtract(joined.center, joined.below) <= np.subtract(one.center, one.below) + 1e-9)
        assert np.all(np.add(joined.center, joined.above) >= np.add(one.center, one.above) - 1e-9)
    assert join_distributions([first, None], "") is None and join_distributions([], "") is None
