"""Networks of segmentation_models.pytorch, `smp:ARCHITECTURE/ENCODER`, where that is installed."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UsageError
from core.i18n import tr
from segmentation.networks.names import check_timm_weights, is_timm_name, no_published_weights, unknown_name
from segmentation.networks.published import PublishedWeights, hash_tensors, parse_normalisation

SMP_PREFIX = "smp:"
TIMM_PREFIX = "tu-"  # of smp's encoders that timm has, such as tu-resnet18 or tu-resnet18.a1_in1k
MULTIPLE = 32  # sides that every encoder of segmentation_models.pytorch can halve five times
WEIGHTS = "imagenet"  # of the published weights of an encoder, the ones that every encoder has


class SmpNetwork(nn.Module):
    """One of segmentation_models.pytorch; images are padded at the bottom and right to sides that it supports."""

    def __init__(self, name: str, num_classes: int, pretrained: bool, channels: int = 3) -> None:
        super().__init__()
        smp, architecture, encoder = parse_smp_name(name)
        self.inner = smp.create_model(
            architecture,
            encoder,
            encoder_weights=WEIGHTS if pretrained else None,
            in_channels=channels,
            classes=num_classes,
        )

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        below, right = -height % MULTIPLE, -width % MULTIPLE
        logits: Tensor = self.inner(F.pad(images, (0, right, 0, below), mode="replicate"))
        return logits[..., :height, :width]


def build_pretrained(name: str, num_classes: int, channels: int) -> tuple[SmpNetwork, PublishedWeights]:
    """Return a network with the published weights of its encoder. Raises OSError if they cannot be downloaded."""
    smp, _, encoder = parse_smp_name(name)
    normalisation = parse_normalisation(encoder, smp.encoders.get_preprocessing_params(encoder, WEIGHTS))
    network = SmpNetwork(name, num_classes, True, channels)
    source = f"segmentation_models.pytorch {smp.__version__}, {encoder} {WEIGHTS}"
    return network, PublishedWeights(source, hash_tensors(network.inner.encoder.state_dict()), normalisation)


def parse_smp_name(name: str) -> tuple[Any, str, str]:
    """Return the library, architecture and encoder of 'smp:unet/resnet34'. Raises UsageError."""
    try:
        import segmentation_models_pytorch as smp
    except ImportError:
        raise UsageError(tr("model '{name}' needs: pip install segmentation-models-pytorch", name=name)) from None
    architecture, _, encoder = name.removeprefix(SMP_PREFIX).partition("/")
    if architecture not in smp.MODEL_ARCHITECTURES_MAPPING:
        raise unknown_name(tr("architecture of smp"), architecture, smp.MODEL_ARCHITECTURES_MAPPING)
    encoders = smp.encoders.get_encoder_names()
    if encoder not in encoders and not _is_timm_encoder(encoder):
        raise unknown_name(tr("encoder of smp"), encoder, [*encoders, TIMM_PREFIX + "resnet18"])
    return smp, architecture, encoder


def _is_timm_encoder(encoder: str) -> bool:
    return encoder.startswith(TIMM_PREFIX) and is_timm_name(encoder.removeprefix(TIMM_PREFIX))


def check_published(name: str) -> None:
    """Raise UsageError if the encoder of that name has no published weights."""
    smp, _, encoder = parse_smp_name(name)
    if encoder.startswith(TIMM_PREFIX):
        check_timm_weights(encoder.removeprefix(TIMM_PREFIX))
    elif WEIGHTS not in smp.encoders.encoders[encoder]["pretrained_settings"]:
        raise no_published_weights(name)
