"""Weights of a model in a network for other classes or bands: what is copied, what starts anew, what is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from core.errors import UsageError
from segmentation.networks.registry import build_network
from segmentation.preprocess import Normalisation
from train.warm_start.initial import InitialModel
from train.warm_start.transfer import ClassChange, compare_classes, transfer

NAMES = ("sky", "road", "car", "tree")
FIRST = {
    "compact_fpn": "stem.0.weight",
    "compact_unet": "stem.0.weight",
    "lraspp_mobilenet_v3_large": "inner.backbone.0.0.weight",
}
HEADS = {
    "compact_fpn": ("head.weight", "head.bias"),
    "compact_unet": ("head.weight", "head.bias"),
    "lraspp_mobilenet_v3_large": (
        *("inner.classifier.low_classifier.weight", "inner.classifier.low_classifier.bias"),
        *("inner.classifier.high_classifier.weight", "inner.classifier.high_classifier.bias"),
    ),
}


def initial_of(architecture: str, names: tuple[str, ...] = NAMES, channels: int = 3) -> InitialModel:
    torch.manual_seed(1)
    weights = build_network(architecture, len(names), channels).state_dict()
    normalisation = Normalisation((0.4,) * channels, (0.2,) * channels)
    return InitialModel(
        "lakefs://repo/1/models/model.pth", "0" * 64,
        architecture=architecture, weights=weights, classes=names, normalisation=normalisation,
        input_size=(32, 32), scale=(1.0, 1.0),
    )  # fmt: skip


@pytest.mark.parametrize("architecture", list(HEADS))
def test_rows_follow_their_classes_by_name(architecture: str) -> None:
    initial, names = initial_of(architecture), ("tree", "bus", "sky", "road", "bike")
    torch.manual_seed(2)
    fresh = build_network(architecture, len(names)).state_dict()
    torch.manual_seed(2)
    own = transfer(initial, architecture, names, 3).state_dict()
    for key, value in own.items():
        if key not in HEADS[architecture]:
            assert torch.equal(value, initial.weights[key]), key
            continue
        for row, name in enumerate(names):
            known = name in NAMES
            wanted = initial.weights[key][NAMES.index(name)] if known else fresh[key][row]
            assert torch.equal(value[row], wanted), (key, name)


def test_the_same_number_of_classes_in_another_order_is_reordered() -> None:
    initial = initial_of("compact_fpn")
    own = transfer(initial, "compact_fpn", NAMES[::-1], 3).state_dict()
    assert torch.equal(own["head.weight"], initial.weights["head.weight"].flip(0))
    assert torch.equal(own["head.bias"], initial.weights["head.bias"].flip(0))


def test_classes_are_compared_by_name() -> None:
    change = compare_classes(initial_of("compact_unet"), ("road", "Sky", "tree"))
    assert change == ClassChange(kept=("road", "tree"), new=("Sky",), dropped=("sky", "car"))


@pytest.mark.parametrize("architecture", list(FIRST))
def test_additional_bands_start_from_the_mean_of_the_known_ones(architecture: str) -> None:
    initial, first = initial_of(architecture), FIRST[architecture]
    known = initial.weights[first]
    more = transfer(initial, architecture, NAMES, 5).state_dict()[first]
    assert torch.equal(more[:, :3], known)
    assert all(torch.equal(more[:, band], known.mean(dim=1)) for band in (3, 4))


def test_fewer_bands_keep_the_first_ones() -> None:
    initial = initial_of("compact_fpn", channels=5)
    fewer = transfer(initial, "compact_fpn", NAMES, 3).state_dict()["stem.0.weight"]
    assert torch.equal(fewer, initial.weights["stem.0.weight"][:, :3])


def test_another_network_is_refused_in_one_line_that_names_a_tensor() -> None:
    with pytest.raises(
        UsageError, match=r"those of compact_unet and do not fit compact_fpn: tensor .*leave out --model"
    ) as e:
        transfer(initial_of("compact_unet"), "compact_fpn", NAMES, 3)
    assert "\n" not in str(e.value)
    changed = dict(initial_of("compact_fpn").weights)
    changed["gate.1.weight"] = changed["gate.1.weight"][:10]
    damaged = dataclasses.replace(initial_of("compact_fpn"), weights=changed)
    with pytest.raises(UsageError, match=r"tensor gate\.1\.weight: expected 192x192x1x1, found 10x192x1x1"):
        transfer(damaged, "compact_fpn", NAMES, 3)


def test_a_network_of_the_same_tensors_under_another_name_fits() -> None:
    pytest.importorskip("timm")
    initial = initial_of("lite_fpn")
    own = transfer(initial, "fpn/tf_efficientnet_lite0", NAMES, 3).state_dict()
    assert all(torch.equal(value, initial.weights[key]) for key, value in own.items())
    other = transfer(initial, "lite_fpn", NAMES[:2], 4).state_dict()
    assert other["encoder.conv_stem.weight"].shape[1] == 4 and len(other["head.bias"]) == 2


def test_networks_of_smp_keep_their_weights_too() -> None:
    pytest.importorskip("segmentation_models_pytorch")
    initial = initial_of("smp:unet/resnet18")
    own = transfer(initial, "smp:unet/resnet18", ("road", "bus"), 4).state_dict()
    head, first = "inner.segmentation_head.0.weight", "inner.encoder.conv1.weight"
    assert torch.equal(own[head][0], initial.weights[head][1])
    assert torch.equal(own[first][:, 3], initial.weights[first].mean(dim=1))
