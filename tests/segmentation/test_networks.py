"""Every network by the same tester: shapes, gradients, odd sizes, evaluation of one image; names and published weights."""

from __future__ import annotations

import sys
import urllib.error

import pytest
import torch

from core.errors import AppError, UsageError
from segmentation.networks import COMPACT, TORCHVISION, build_network, published_normalisation
from segmentation.preprocess import IMAGENET

SMALLEST, ODD = (16, 16), (33, 47)


def check_network_of(name: str, channels: int = 3) -> None:
    """What every network has to do; a new one's test is one line."""
    torch.manual_seed(0)
    network = build_network(name, 4, channels=channels).train()
    for size in (SMALLEST, ODD):
        images = torch.randn(2, channels, *size)
        outputs = network(images)
        each = outputs if isinstance(outputs, tuple) else (outputs,)
        assert all(logits.shape == (2, 4, *size) and logits.dtype == torch.float32 for logits in each)
    sum(logits.square().sum() for logits in each).backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in network.parameters())
    with torch.inference_mode():
        alone = network.eval()(images[:1])
    assert isinstance(alone, torch.Tensor) and alone.shape == (1, 4, *ODD), "one image, and no auxiliary head"


# The larger ones of torchvision's are the same code with more layers, and would cost CI minutes.
@pytest.mark.parametrize(
    "name", [*COMPACT, "lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large", "fcn_resnet50"]
)
def test_a_network_by_name(name: str) -> None:
    check_network_of(name)


@pytest.mark.parametrize("name", ["smp:unet/resnet18", "smp:fpn/mobilenet_v2"])
def test_a_network_of_segmentation_models_pytorch(name: str) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    check_network_of(name)


@pytest.mark.parametrize(("name", "parameters"), [("compact_unet", 1.77e6), ("compact_fpn", 1.5e6)])
def test_a_compact_network_has_the_parameters_that_it_claims(name: str, parameters: float) -> None:
    assert sum(p.numel() for p in build_network(name, 11).parameters()) == pytest.approx(parameters, rel=0.05)


def test_all_networks_of_torchvision_are_available() -> None:
    from torchvision import models

    assert sorted(TORCHVISION) == models.list_models(module=models.segmentation)


@pytest.mark.parametrize("name", [*COMPACT, "lraspp_mobilenet_v3_large", "smp:unet/resnet18"])
@pytest.mark.parametrize("channels", [2, 8])
def test_a_network_takes_any_number_of_channels(name: str, channels: int) -> None:
    if name.startswith("smp:"):
        pytest.importorskip("segmentation_models_pytorch")
    check_network_of(name, channels)


def test_published_filters_are_repeated_for_other_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models._api import WeightsEnum

    name, first = "lraspp_mobilenet_v3_large", "backbone.0.0.weight"
    published = build_network(name, 21).inner.state_dict()  # type: ignore[union-attr]
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: published)
    own = build_network(name, 4, pretrained=True, channels=6).inner.state_dict()  # type: ignore[union-attr]
    assert torch.allclose(own[first], published[first].repeat(1, 2, 1, 1) / 2)
    assert torch.equal(own["backbone.1.block.0.0.weight"], published["backbone.1.block.0.0.weight"])
    assert published_normalisation(True) == IMAGENET and published_normalisation(True, 6) is None


def test_unknown_name_lists_the_available_names() -> None:
    with pytest.raises(UsageError, match=r"unknown model 'compact_unett' \(did you mean 'compact_unet'\?\).*lraspp"):
        build_network("compact_unett", 2)
    pytest.importorskip("segmentation_models_pytorch")
    with pytest.raises(UsageError, match=r"unknown architecture of smp 'unett' \(did you mean 'unet'\?\)"):
        build_network("smp:unett/resnet18", 2)
    with pytest.raises(UsageError, match=r"unknown encoder of smp 'resnet19' \(did you mean 'resnet1"):
        build_network("smp:unet/resnet19", 2)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(UsageError, match="needs: pip install segmentation-models-pytorch"):
        build_network("smp:unet/resnet18", 2)


def test_published_weights_are_loaded_where_shapes_match(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models._api import WeightsEnum

    name = "lraspp_mobilenet_v3_large"
    torch.manual_seed(1)
    published = build_network(name, 21).inner.state_dict()  # type: ignore[union-attr]
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: published)
    own = build_network(name, 4, pretrained=True).inner.state_dict()  # type: ignore[union-attr]
    different = [key for key, value in own.items() if value.shape != published[key].shape]
    assert {key.split(".")[1] for key in different} == {"low_classifier", "high_classifier"}
    assert all(torch.equal(own[key], published[key]) for key in own if key not in different)


def test_unavailable_published_weights_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no weights are published for 'compact_unet'"):
        build_network(next(iter(COMPACT)), 2, pretrained=True)

    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(AppError, match=r"cannot download the published weights of 'fcn_resnet50' .*no route to host"):
        build_network("fcn_resnet50", 2, pretrained=True)
