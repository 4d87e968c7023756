"""Networks by name: one registry, so that a checkpoint rebuilds its own.

`compact_unet` and `compact_fpn` are ours; `fcn_*`, `deeplabv3_*` and `lraspp_*` are torchvision's;
`smp:ARCHITECTURE/ENCODER` is any of segmentation_models.pytorch, where that is installed.

All of them: images (N,channels,H,W) float32, normalised, any H and W of at least 16 -> logits (N,num_classes,H,W).
In training, one with an auxiliary head gives (logits, auxiliary logits).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import AppError, UsageError, describe_error
from core.i18n import tr
from segmentation.archive.entries import shown
from segmentation.preprocess import IMAGENET, Normalisation

SMP_PREFIX = "smp:"
TIMM_PREFIX = "tu-"  # of smp's encoders that timm has, such as tu-resnet18 or tu-resnet18.a1_in1k
TIMM_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?", re.ASCII)
SMP_MULTIPLE = 32  # sides that every encoder of segmentation_models.pytorch can halve five times
Outputs = Tensor | tuple[Tensor, Tensor]


def _conv_bn_relu(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class CompactUNet(nn.Module):
    """A U-Net (Ronneberger et al., 2015, arXiv:1505.04597) of 1.8 M parameters for machines of few cores.

    A stem of stride 2 halves the resolution before anything costs much; the decoder meets each skip at the skip's own
    size, so that any input of at least 16 pixels a side works without padding.
    """

    def __init__(self, num_classes: int, channels: int = 3, width: int = 24) -> None:
        super().__init__()
        widths = [width, width * 2, width * 4, width * 6, width * 8]
        self.stem = _conv_bn_relu(channels, widths[0], stride=2)
        self.down = nn.ModuleList(
            nn.Sequential(_conv_bn_relu(a, b, stride=2), _conv_bn_relu(b, b)) for a, b in pairwise(widths)
        )
        self.up = nn.ModuleList(_conv_bn_relu(a + b, a) for a, b in pairwise(widths))
        self.head = nn.Conv2d(widths[0], num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        skips = [self.stem(images)]
        for down in self.down:
            skips.append(down(skips[-1]))
        x = skips.pop()
        for up, skip in zip(reversed(self.up), reversed(skips), strict=True):
            x = up(torch.cat([F.interpolate(x, skip.shape[-2:]), skip], dim=1))
        return _resized(self.head(x), images)


class Residual(nn.Module):
    """Two convolutions beside a short cut (He et al., 2016, arXiv:1512.03385); starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv_bn_relu(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.second(self.first(x))))


class Merge(nn.Module):
    """One step up the pyramid: the coarse map and the skip, each brought to `outputs` channels by 1x1, are added.

    Adding costs a third of what a U-Net's concatenation costs in the 3x3 convolution after it.
    """

    def __init__(self, coarse: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.coarse = nn.Conv2d(coarse, outputs, 1, bias=False)
        self.skip = nn.Conv2d(skip, outputs, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.out = _conv_bn_relu(outputs, outputs)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        merged = F.interpolate(self.coarse(coarse), skip.shape[-2:]) + self.skip(skip)
        out: Tensor = self.out(F.relu(self.norm(merged)))
        return out


class CompactFPN(nn.Module):
    """A residual encoder under a feature pyramid (Lin et al., 2017, arXiv:1612.03144), 1.5 M parameters.

    Less than half of the compact U-Net's cost per image: the decoder adds instead of concatenating, and depth goes where
    maps are small. The coarsest map is gated by its own mean, which tells every pixel what the whole image shows.
    """

    CHANNELS = (16, 32, 64, 128, 192)  # of the maps at stride 2, 4, 8, 16, 32
    DECODER = (16, 32, 48, 64)  # of the pyramid at stride 2, 4, 8, 16

    def __init__(self, num_classes: int, channels: int = 3) -> None:
        super().__init__()
        c, d = self.CHANNELS, self.DECODER
        self.stem = _conv_bn_relu(channels, c[0], stride=2)
        self.down = nn.ModuleList(
            nn.Sequential(_conv_bn_relu(a, b, stride=2), _conv_bn_relu(b, b) if b == c[1] else Residual(b))
            for a, b in pairwise(c)
        )
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(c[-1], c[-1], 1), nn.Sigmoid())
        self.up = nn.ModuleList(
            Merge(coarse, skip, out) for coarse, skip, out in zip((*d[1:], c[-1]), c[:-1], d, strict=True)
        )
        self.head = nn.Conv2d(d[0], num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        skips = [self.stem(images)]
        for down in self.down:
            skips.append(down(skips[-1]))
        x = skips.pop()
        x = x * self.gate(x)
        for up, skip in zip(reversed(self.up), reversed(skips), strict=True):
            x = up(x, skip)
        return _resized(self.head(x), images)


def _resized(logits: Tensor, images: Tensor) -> Tensor:
    """Return the logits resized to the images."""
    return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)


# --- networks of libraries ---------------------------------------------------------------------------------------------


class TorchvisionNetwork(nn.Module):
    """One of torchvision's; its auxiliary head is used in training only."""

    def __init__(self, name: str, num_classes: int) -> None:
        super().__init__()
        from torchvision import models

        auxiliary = {} if name.startswith("lraspp") else {"aux_loss": True}
        self.inner = models.get_model(name, weights=None, weights_backbone=None, num_classes=num_classes, **auxiliary)

    def forward(self, images: Tensor) -> Outputs:
        features = self.inner.backbone(images)
        auxiliary = getattr(self.inner, "aux_classifier", None)
        logits = _resized(self.inner.classifier(features if auxiliary is None else features["out"]), images)
        if auxiliary is None or not self.training:
            return logits
        return logits, _resized(auxiliary(features["aux"]), images)


class SmpNetwork(nn.Module):
    """One of segmentation_models.pytorch; images are padded at the bottom and right to sides that it supports."""

    def __init__(self, name: str, num_classes: int, pretrained: bool, channels: int = 3) -> None:
        super().__init__()
        smp, architecture, encoder = _smp(name)
        self.inner = smp.create_model(
            architecture,
            encoder,
            encoder_weights="imagenet" if pretrained else None,
            in_channels=channels,
            classes=num_classes,
        )

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        below, right = -height % SMP_MULTIPLE, -width % SMP_MULTIPLE
        logits: Tensor = self.inner(F.pad(images, (0, right, 0, below), mode="replicate"))
        return logits[..., :height, :width]


def _smp(name: str) -> tuple[Any, str, str]:
    """Return the library, architecture and encoder of 'smp:unet/resnet34'. Raises UsageError."""
    try:
        import segmentation_models_pytorch as smp
    except ImportError:
        raise UsageError(tr("model '{name}' needs: pip install segmentation-models-pytorch", name=name)) from None
    architecture, _, encoder = name.removeprefix(SMP_PREFIX).partition("/")
    if architecture not in smp.MODEL_ARCHITECTURES_MAPPING:
        raise _unknown(tr("architecture of smp"), architecture, smp.MODEL_ARCHITECTURES_MAPPING)
    encoders = smp.encoders.get_encoder_names()
    if encoder not in encoders and not _is_timm_encoder(encoder):
        raise _unknown(tr("encoder of smp"), encoder, [*encoders, TIMM_PREFIX + "resnet18"])
    return smp, architecture, encoder


def _is_timm_encoder(encoder: str) -> bool:
    """Return whether timm has this encoder built in; its other names are places on a hub or in the file system."""
    import timm

    name = encoder.removeprefix(TIMM_PREFIX)
    return name != encoder and bool(TIMM_NAME.fullmatch(name)) and bool(timm.is_model(name))


# --- the registry ---------------------------------------------------------------------------------------------------

COMPACT = {"compact_unet": CompactUNet, "compact_fpn": CompactFPN}
TORCHVISION = (
    *("fcn_resnet50", "fcn_resnet101", "lraspp_mobilenet_v3_large"),
    *("deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "deeplabv3_resnet101"),
)
NETWORKS = (*COMPACT, *TORCHVISION)


def build_network(name: str, num_classes: int, pretrained: bool = False, channels: int = 3) -> nn.Module:
    """Return the network of that name for images of so many channels, with random or published weights.

    Published weights are those of RGB images: for other channels, the filters of the first layer are repeated in the
    order R, G, B, and scaled so that its output keeps its size.
    Raises UsageError for an unknown name, or if the network has no published weights; AppError if their download fails.
    """
    check_network(name, pretrained)
    if name in COMPACT:
        network: nn.Module = COMPACT[name](num_classes, channels)
        return network
    try:
        if name.startswith(SMP_PREFIX):
            return SmpNetwork(name, num_classes, pretrained, channels)
        foreign = TorchvisionNetwork(name, num_classes)
        if pretrained:
            foreign = _with_published_weights(foreign, name)
        if channels != 3:
            _adapt_first_layer(foreign.inner.backbone, channels)
        return foreign
    except OSError as error:  # any failed download: no network, an incomplete response, a full disk
        raise AppError(
            tr(
                "cannot download the published weights of '{name}' ({error}): check the network, or train without --pretrained",
                name=name,
                error=describe_error(error),
            )
        ) from error


def check_network(name: str, pretrained: bool) -> None:
    """Raise UsageError for an unknown name or missing published weights; cheap, so that it can run first."""
    if name.startswith(SMP_PREFIX):
        _smp(name)
    elif name not in NETWORKS:
        raise _unknown(tr("model"), name, [*NETWORKS, SMP_PREFIX + "unet/resnet34"])
    elif pretrained and name in COMPACT:
        raise UsageError(
            tr(
                "no weights are published for '{name}': leave out --pretrained, or take one of {torchvision}",
                name=name,
                torchvision=", ".join(TORCHVISION),
            )
        )


def published_normalisation(pretrained: bool, channels: int = 3) -> Normalisation | None:
    """Return the normalisation of published weights; None if it is computed from the data, as for other than 3 channels."""
    return IMAGENET if pretrained and channels == 3 else None


def _with_published_weights(network: TorchvisionNetwork, name: str) -> TorchvisionNetwork:
    """Load torchvision's weights (COCO images, VOC classes); layers of another number of classes keep random weights."""
    from torchvision import models

    published = models.get_model_weights(name).DEFAULT.get_state_dict(check_hash=True, weights_only=True)
    own = network.inner.state_dict()
    fitting = {key: value for key, value in published.items() if key in own and own[key].shape == value.shape}
    network.inner.load_state_dict(own | fitting)
    return network


def _adapt_first_layer(backbone: nn.Module, channels: int) -> None:
    """Replace the first convolution of RGB images by one of so many channels, with the same filters repeated."""
    name, first = next((name, module) for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d))
    adapted = nn.Conv2d(
        channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]  # always a pair
        first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    with torch.no_grad():
        adapted.weight.copy_(first.weight[:, torch.arange(channels) % 3] * (3 / channels))
        if first.bias is not None and adapted.bias is not None:
            adapted.bias.copy_(first.bias)
    parent, _, child = name.rpartition(".")
    setattr(backbone.get_submodule(parent), child, adapted)


def _unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    meant = tr(" (did you mean '{near}'?)", near=near[0]) if near else ""
    listed = ", ".join(names)
    return UsageError(
        tr(
            "unknown {kind} '{name}'{meant}: available: {listed}",
            kind=kind,
            name=shown(name),
            meant=meant,
            listed=listed,
        )
    )
