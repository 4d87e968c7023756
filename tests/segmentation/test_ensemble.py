"""An ensemble is one model: the mean of its members' class probabilities, whole and in tiles; members that disagree are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from core.errors import AppError
from core.hashing import file_sha256
from dataset.classes import build_classes
from dataset.decoding.options import ReadOptions
from dataset.faults import DataWarning
from segmentation.model import Model
from segmentation.model_file import load_model, read_record, save_model
from segmentation.networks.registry import build_network
from segmentation.predictor import Method, Predictor
from segmentation.preprocess import Normalisation, to_input
from segmentation.tiles import tiling
from segmentation.tiles.activations import measure_activations
from segmentation.tiles.global_pooling import GlobalPoolingOverride
from tests.segmentation.test_tiles import randomized_network
from tests.support.ensembles import make_members, write_ensemble
from tests.support.images import noise
from tests.support.models import CPU
from utils.ensemble_file import Ensemble, Member


@torch.inference_mode()
def probabilities(model: Model, images: Tensor) -> Tensor:
    logits: Tensor = model.network(to_input(images, model.normalisation, CPU))
    return logits.softmax(1)


def test_the_network_averages_the_probabilities_of_differently_normalised_members(tmp_path: Path) -> None:
    members = make_members()
    path = write_ensemble(tmp_path, members)
    model = load_model(path, file_sha256(path), CPU)
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    expected = torch.stack([probabilities(member, images) for member in members]).mean(0)
    found = probabilities(model, images)
    assert (found - expected).abs().max() < 1e-5
    assert (probabilities(members[0], images) - expected).abs().max() > 1e-3, "members differ"
    assert (model.classes, model.input_size, model.scale) == (members[0].classes, (64, 96), (1.0, 1.0))
    assert [member.file for member in model.members] == ["fold-1.pth", "fold-2.pth", "fold-3.pth"]
    assert not model.network.training and model.lineage == {"git_commit": "none"} and model.metrics == {}


def test_each_member_keeps_its_temperature(tmp_path: Path) -> None:
    members = [replace(model, temperature=value) for model, value in zip(make_members(2), (0.5, 3.0), strict=True)]
    path = write_ensemble(tmp_path, members)
    model = load_model(path, file_sha256(path), CPU)
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    with torch.inference_mode():
        each = [m.network(to_input(images, m.normalisation, CPU)).div(m.temperature).softmax(1) for m in members]
    assert (probabilities(model, images) - torch.stack(each).mean(0)).abs().max() < 1e-5
    assert model.temperature == 1


def test_every_tensor_is_on_the_device_of_the_members(tmp_path: Path) -> None:
    path = write_ensemble(tmp_path, make_members())
    network = load_model(path, file_sha256(path), torch.device("meta")).network
    assert {value.device.type for value in network.state_dict().values()} == {"meta"}


def test_an_impossible_class_has_a_finite_logit(tmp_path: Path) -> None:
    members = make_members(2)
    for member in members:
        last = [module for module in member.network.modules() if isinstance(module, torch.nn.Conv2d)][-1]
        assert last.bias is not None
        last.bias.data += torch.tensor([500.0, -500.0])
    path = write_ensemble(tmp_path, members)
    model = load_model(path, file_sha256(path), CPU)
    with torch.inference_mode():
        logits = model.network(torch.zeros(1, 3, 64, 96))
    assert torch.isfinite(logits).all() and logits[:, 1].max() < -900


def test_warnings_are_united_and_facts_that_differ_are_left_out(tmp_path: Path) -> None:
    one, two = make_members(2)
    first, second = DataWarning("a", "of both"), DataWarning("b", "of one")
    one = replace(one, lineage={"run_id": "1", "git_commit": "c"}, warnings=(first,), scale=(0.5, 1.0))
    two = replace(two, lineage={"run_id": "2", "git_commit": "c"}, warnings=(first, second), scale=(2.0, 1.0))
    path = write_ensemble(tmp_path, [one, two])
    model = load_model(path, file_sha256(path), CPU)
    assert model.warnings == (first, second) and model.scale == (1.0, 1.0)
    record = read_record(path)
    assert record.lineage == model.lineage == {"git_commit": "c"} and record.metrics == {}
    assert record.sha256 == file_sha256(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_size": (32, 96)}, r"fold-2.pth has another input size than fold-1.pth \(expected \(64, 96\), found \(32, 96\)\)"),
        ({"reading": ReadOptions(raw_orientation=True)}, "fold-2.pth has another way to read images than fold-1.pth"),
        ({"classes": build_classes([(0, "sky", None, False), (7, "tree", None, False), (9, "off", None, True)])},
         r"fold-2.pth has another list of classes than fold-1.pth \(expected \('sky', 'road'\), found \('sky', 'tree'\)\)"),
        ({"classes": build_classes([(0, "sky", None, False), (8, "road", None, False), (9, "off", None, True)])},
         r"another list of classes than fold-1.pth \(expected \(0, 7\), found \(0, 8\)\)"),
    ],
)  # fmt: skip
def test_members_that_disagree_are_refused_in_one_line(tmp_path: Path, change: dict[str, object], message: str) -> None:
    one, two = make_members(2)
    path = write_ensemble(tmp_path, [one, replace(two, **change)])  # type: ignore[arg-type]
    with pytest.raises(AppError, match=message) as caught:
        load_model(path, file_sha256(path), CPU)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_member_with_other_bands_is_refused(tmp_path: Path) -> None:
    one, two = make_members(2)
    wide = replace(
        two,
        network=build_network("compact_unet", 2, channels=4).eval(),
        normalisation=Normalisation((0.5,) * 4, (0.25,) * 4),
        reading=ReadOptions(channels=4),
    )
    path = write_ensemble(tmp_path, [one, wide])
    with pytest.raises(AppError, match=r"fold-2.pth has another way to read images"):
        load_model(path, file_sha256(path), CPU)


def tampered(path: Path, kind: str) -> str:
    """Change an ensemble and return what the error must say."""
    content = json.loads(path.read_bytes())
    member = path.with_name("fold-2.pth")
    if kind == "missing":
        member.unlink()
        return "its member .*fold-2.pth is missing"
    if kind == "other bytes":
        member.write_bytes(member.read_bytes() + b"x")
        return "fold-2.pth: SHA-256 differs from its record"
    if kind == "nested":
        member.write_bytes(path.read_bytes())
        content["members"][1]["sha256"] = file_sha256(member)
        path.write_text(json.dumps(content))
        return "fold-2.pth: not a model file of this project"
    content["members"][1]["file"] = "../fold-2.pth"
    path.write_text(json.dumps(content))
    return "members 2: file of a member: expected letters"


@pytest.mark.parametrize("kind", ["missing", "other bytes", "nested", "outside"])
def test_a_hostile_ensemble_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    path = write_ensemble(tmp_path, make_members(2))
    message = tampered(path, kind)
    for read in (lambda: load_model(path, file_sha256(path), CPU), lambda: read_record(path)):
        with pytest.raises(AppError, match=message) as caught:
            read()
        assert "\n" not in str(caught.value)


def test_an_ensemble_of_other_bytes_than_its_record_is_not_opened(tmp_path: Path) -> None:
    path = write_ensemble(tmp_path, make_members(1))
    with pytest.raises(AppError, match=r"ensemble.json: SHA-256 differs from its record"):
        load_model(path, "0" * 64, CPU)


# --- prediction ---


def joined(names: list[str], size: tuple[int, int] = (64, 96)) -> Model:
    from segmentation.ensemble.joining import join_models

    members = make_members(len(names), size)
    models = [
        replace(one, network=randomized_network(name, 2), architecture=name)
        for one, name in zip(members, names, strict=True)
    ]
    for number, model in enumerate(models):
        with torch.no_grad():
            for value in model.network.parameters():
                value.mul_(1 + 0.01 * number)
    return join_models("e", Ensemble(tuple(Member(f"fold-{n}.pth", "a" * 64) for n in range(len(names)))), models)


@pytest.mark.parametrize("flip", [False, True])
def test_an_ensemble_in_tiles_is_equal_to_the_whole(flip: bool) -> None:
    """One member averages over the full image: each tile is computed with that mean."""
    model = joined(["compact_fpn", "compact_unet"], (600, 720))
    image = noise(600, 720) // 2 + np.linspace(0, 127, 720, dtype=np.uint8)[:, None]
    predictors = (Predictor(model, CPU, Method(tile=tile, flip=flip, probabilities=True)) for tile in (None, 480))
    expected, found = (one.predict([one.prepare(image, "")])[0].probabilities for one in predictors)
    assert expected is not None and found is not None
    assert np.abs(expected.astype(np.float32) - found.astype(np.float32)).max() < 1e-3


def test_the_means_of_one_member_are_found_without_running_the_others() -> None:
    model, calls = joined(["compact_fpn"] * 3), [0, 0, 0]
    for index, member in enumerate(model.network.members):  # type: ignore[arg-type]
        member.register_forward_pre_hook(lambda *_, index=index: calls.__setitem__(index, calls[index] + 1))
    means = GlobalPoolingOverride(model.network)
    with torch.inference_mode():
        found = means.compute_means(torch.randn(3, 64, 96), 128, 0)
    assert len(found) == 3 and calls == [1, 1, 1]


def test_the_receptive_field_is_that_of_the_widest_member() -> None:
    model = joined(["compact_unet", "compact_unet"])
    single = tiling.measure_receptive_field(randomized_network("compact_unet", 2), CPU)
    assert tiling.measure_receptive_field(model.network, CPU) == single


def test_the_memory_estimate_counts_one_member_at_a_time() -> None:
    one, three = (measure_activations(joined(["compact_unet"] * count).network, CPU, 3) for count in (1, 3))
    assert one <= three < 1.5 * one


def test_an_ensemble_of_one_is_its_member(tmp_path: Path) -> None:
    (member,) = make_members(1)
    save_model(tmp_path / "model.pth", member)
    path = write_ensemble(tmp_path, [member])
    image = noise(64, 96)
    found = []
    for file in (path, tmp_path / "model.pth"):
        predictor = Predictor(load_model(file, file_sha256(file), CPU), CPU)
        found.append(predictor.predict([predictor.prepare(image, "")])[0].indices)
    assert np.array_equal(found[0], found[1])
