"""Networks of segmentation_models.pytorch, `smp:ARCHITECTURE/ENCODER`, where that is installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UsageError
from core.i18n import tr
from core.safety.json_object import JsonObject
from segmentation.networks import encoder_fpn
from segmentation.networks.names import check_timm_weights, is_timm_name, no_published_weights, unknown_name
from segmentation.networks.published import PublishedWeights, hash_tensors, parse_normalisation
from segmentation.networks.search import Places, WeightsFile, cached_repository_file, no_fit, read_tensors

SMP_PREFIX = "smp:"
TIMM_PREFIX = "tu-"  # of smp's encoders that timm has, such as tu-resnet18 or tu-resnet18.a1_in1k
MULTIPLE = 32  # sides that every encoder of segmentation_models.pytorch can halve five times
HUB_FILE = "model.safetensors"
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


def build_pretrained(name: str, num_classes: int, channels: int, places: Places) -> tuple[SmpNetwork, PublishedWeights]:
    """Return a network with the published weights of its encoder. Raises OSError if they cannot be downloaded."""
    smp, _, encoder = parse_smp_name(name)
    found = _find_weights(smp, encoder, places)
    if found is None:
        normalisation = parse_normalisation(encoder, smp.encoders.get_preprocessing_params(encoder, WEIGHTS))
        network = SmpNetwork(name, num_classes, True, channels)
        source = f"segmentation_models.pytorch {smp.__version__}, {encoder} {WEIGHTS}"
    else:
        normalisation = parse_normalisation(encoder, _preprocessing(smp, encoder, found))
        network, source = SmpNetwork(name, num_classes, False, channels), found.source
        _load_encoder(smp, network, encoder, found, channels)
    return network, PublishedWeights(source, hash_tensors(network.inner.encoder.state_dict()), normalisation)


def _find_weights(smp: Any, encoder: str, places: Places) -> WeightsFile | None:
    """Return the file of an encoder's weights; None if they are not on this machine."""
    if encoder.startswith(TIMM_PREFIX):
        return encoder_fpn.find_weights(encoder.removeprefix(TIMM_PREFIX), places)
    published = smp.encoders.encoders[encoder]["pretrained_settings"][WEIGHTS]
    folder = published["repo_id"].rpartition("/")[2]
    cached = cached_repository_file(published["repo_id"], HUB_FILE, published["revision"])
    return places.find([f"{folder}/{HUB_FILE}"], [cached])


def _preprocessing(smp: Any, encoder: str, found: WeightsFile) -> Mapping[str, Any]:
    """Return how the images of the weights were normalised, by timm or by config.json beside the file. Raises AppError."""
    if encoder.startswith(TIMM_PREFIX):
        known: Mapping[str, Any] = smp.encoders.get_preprocessing_params(encoder, WEIGHTS)
        return known
    if found.config is None:
        raise no_fit(found, encoder, tr("config.json, which says how images are normalised, is not beside it"))
    return JsonObject.parse(found.config, f"{found.source}: config.json", tr("download it again")).content


def _load_encoder(smp: Any, network: SmpNetwork, encoder: str, found: WeightsFile, channels: int) -> None:
    """Fill the encoder with the tensors of a file. Raises AppError for those of another one."""
    own = network.inner.encoder
    try:
        if encoder.startswith(TIMM_PREFIX):
            name = encoder.removeprefix(TIMM_PREFIX)
            tensors = encoder_fpn.read_classifier(name, found)
            known = encoder_fpn.create_features(name, channels, weights=tensors).state_dict()
            own.model.load_state_dict({key: known[key] for key in own.model.state_dict()})
        else:
            of_rgb = smp.encoders.get_encoder(encoder, in_channels=3, weights=None)
            of_rgb.load_state_dict(read_tensors(found))
            of_rgb.set_in_channels(channels, pretrained=True)
            own.load_state_dict(of_rgb.state_dict())
    except (RuntimeError, KeyError) as error:
        raise no_fit(found, encoder, error) from error


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
