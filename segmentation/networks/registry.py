"""Networks by name: one registry, so that a checkpoint rebuilds its own.

`compact_unet` and `compact_fpn` are ours; `lite_fpn` and `fpn/ENCODER` are an encoder of timm under our decoder; `fcn_*`,
`deeplabv3_*` and `lraspp_*` are torchvision's; `smp:ARCHITECTURE/ENCODER` is any of segmentation_models.pytorch. timm and
segmentation_models.pytorch are optional packages.

All of them: images (N,channels,H,W) float32, normalised, any H and W of at least 16 -> logits (N,num_classes,H,W).
In training, one with an auxiliary head gives (logits, auxiliary logits).
"""

from __future__ import annotations

from torch import nn

from core.errors import AppError, describe_error
from core.i18n import tr
from segmentation.networks import encoder_fpn, smp_models, torchvision_models
from segmentation.networks.compact import CompactFPN, CompactUNet
from segmentation.networks.encoder_fpn import FPN_PREFIX, NOWHERE, EncoderFPN, encoder_of
from segmentation.networks.names import check_timm_weights, no_published_weights, unknown_name
from segmentation.networks.packages import LITE_FPN
from segmentation.networks.published import PublishedWeights
from segmentation.networks.search import Places
from segmentation.networks.smp_models import SMP_PREFIX, SmpNetwork, parse_smp_name
from segmentation.networks.torchvision_models import TORCHVISION, TorchvisionNetwork

COMPACT = {"compact_unet": CompactUNet, "compact_fpn": CompactFPN}
NETWORKS = (*COMPACT, LITE_FPN, *TORCHVISION)


def build_network(name: str, num_classes: int, channels: int = 3) -> nn.Module:
    """Return the network of that name for images of so many channels, with random weights. Raises UsageError."""
    check_network(name, pretrained=False)
    if name in COMPACT:
        network: nn.Module = COMPACT[name](num_classes, channels)
        return network
    if (encoder := encoder_of(name)) is not None:
        return EncoderFPN(encoder, num_classes, channels)
    if name.startswith(SMP_PREFIX):
        return SmpNetwork(name, num_classes, pretrained=False, channels=channels)
    return TorchvisionNetwork(name, num_classes, channels)


def build_pretrained(
    name: str, num_classes: int, channels: int = 3, places: Places = NOWHERE
) -> tuple[nn.Module, PublishedWeights]:
    """Return the network of that name with published weights, and what to record about them.

    `places` are where they are looked for before the internet. They are those of RGB images: for other channels, the
    filters of the first layer are repeated in the order R, G, B, and scaled so that its output keeps its size.
    Raises UsageError for an unknown name, or if the network has no published weights; AppError if they cannot be read or
    downloaded.
    """
    check_network(name, pretrained=True)
    try:
        if (encoder := encoder_of(name)) is not None:
            return encoder_fpn.build_pretrained(encoder, num_classes, channels, places)
        if name.startswith(SMP_PREFIX):
            return smp_models.build_pretrained(name, num_classes, channels, places)
        return torchvision_models.build_pretrained(name, num_classes, channels, places)
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
    if (encoder := encoder_of(name)) is not None:
        if pretrained:
            check_timm_weights(encoder)
    elif name.startswith(SMP_PREFIX):
        parse_smp_name(name)
        if pretrained:
            smp_models.check_published(name)
    elif name not in NETWORKS:
        raise unknown_name(tr("model"), name, [*NETWORKS, FPN_PREFIX + "resnet18", SMP_PREFIX + "unet/resnet34"])
    elif pretrained and name in COMPACT:
        raise no_published_weights(name)
