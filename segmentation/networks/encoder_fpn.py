"""An encoder of timm under the decoder of our compact pyramid: `fpn/ENCODER`, and `lite_fpn` for small machines."""

from __future__ import annotations

from importlib import metadata, resources
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UsageError
from core.i18n import tr
from segmentation.archive.origin import require_origin
from segmentation.networks.compact import CompactFPN, Merge, channel_gate, decode_pyramid, resized
from segmentation.networks.names import is_timm_name, unknown_name
from segmentation.networks.packages import LITE_ENCODER, LITE_FILE, LITE_FPN, LITE_SHA256
from segmentation.networks.published import PublishedWeights, hash_tensors, parse_normalisation
from segmentation.networks.search import (
    SAFE,
    Places,
    WeightsFile,
    cached_repository_file,
    hub_file,
    no_fit,
    read_tensors,
)
from utils.published_weights import LITE_PACKAGE

FPN_PREFIX = "fpn/"
NOWHERE = Places()


class EncoderFPN(nn.Module):
    """Any encoder of timm that has a pyramid of features, under the decoder of `CompactFPN`."""

    def __init__(
        self,
        encoder: str,
        num_classes: int,
        channels: int = 3,
        pretrained: bool = False,
        weights: dict[str, Tensor] | None = None,
    ) -> None:
        """Build the network; `pretrained` lets timm find the weights of the encoder, `weights` are those of a file."""
        super().__init__()
        self.encoder = create_features(encoder, channels, pretrained, weights)
        _fix_padding(self.encoder)
        widths, strides = self.encoder.feature_info.channels(), self.encoder.feature_info.reduction()
        if len(strides) < 3 or strides != sorted(set(strides)) or not _is_channels_first(self.encoder):
            raise _no_pyramid(encoder)
        self.smallest = strides[-1]  # side in pixels below which some encoders have no coarsest map
        decoder = _decoder_widths(len(widths))
        self.gate = channel_gate(widths[-1])
        self.up = nn.ModuleList(
            Merge(coarse, skip, out)
            for coarse, skip, out in zip((*decoder[1:], widths[-1]), widths[:-1], decoder, strict=True)
        )
        self.head = nn.Conv2d(decoder[0], num_classes, 1)

    def freeze_first_levels(self, levels: int) -> None:
        """Let an optimizer keep all layers up to the map of this level, counted from 1: the backward pass ends there."""
        last = self.encoder.feature_info.module_name()[levels - 1] + "."
        named = list(self.encoder.named_parameters())
        count = max(place for place, (name, _) in enumerate(named, 1) if name.startswith(last))
        for _, parameter in named[:count]:
            parameter.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        below, right = (_missing(side, self.smallest) for side in (height, width))
        padded = F.pad(images, (0, right, 0, below), mode="replicate")
        features = decode_pyramid(self.encoder(padded), self.gate, self.up)
        return resized(self.head(features), padded)[..., :height, :width]


def _missing(side: int, smallest: int) -> int:
    """Return the pixels that a side lacks, without a branch on it, which an export to ONNX would fix.

    TorchScript cannot pad by a computed number: its exports take no images below the smallest side.
    """
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return 0
    return torch.sym_max(0, smallest - side)  # type: ignore[return-value]  # symbolic in an export


class _PaddedConvolution(nn.Conv2d):
    """A convolution with TensorFlow's padding "same", for images whose sides the stride divides.

    timm's own computes the padding from each size, which takes an exporter of dynamic sizes many minutes. At other sizes
    this one drops the last row or column where timm's adds one.
    """

    def forward(self, input: Tensor) -> Tensor:
        sizes = zip(self.kernel_size, self.stride, self.dilation, strict=True)
        totals = [max(0, (kernel - 1) * dilation + 1 - stride) for kernel, stride, dilation in sizes]
        edges = [edge for total in reversed(totals) for edge in (total // 2, total - total // 2)]
        output: Tensor = self._conv_forward(F.pad(input, edges), self.weight, self.bias)
        return output


def _fix_padding(encoder: nn.Module) -> None:
    """Replace timm's convolutions whose padding depends on the size of their input; names of weights are kept."""
    from timm.layers import Conv2dSame

    for module in list(encoder.modules()):
        for name, child in module.named_children():
            if isinstance(child, Conv2dSame):
                fixed = _PaddedConvolution(
                    child.in_channels,
                    child.out_channels,
                    child.kernel_size,
                    child.stride,
                    dilation=child.dilation,
                    groups=child.groups,
                    bias=child.bias is not None,
                )
                fixed.weight, fixed.bias = child.weight, child.bias
                setattr(module, name, fixed)


def _decoder_widths(levels: int) -> tuple[int, ...]:
    """Return the channels of the decoder at each level but the coarsest, which has none."""
    missing = max(0, levels - 1 - len(CompactFPN.DECODER))
    return (CompactFPN.DECODER[0],) * missing + CompactFPN.DECODER[missing + len(CompactFPN.DECODER) - levels + 1 :]


def _is_channels_first(encoder: nn.Module) -> bool:
    return str(getattr(encoder, "output_fmt", "NCHW")).endswith("NCHW")


def encoder_of(name: str) -> str | None:
    """Return the encoder of 'fpn/ENCODER' or 'lite_fpn', None for another kind of name. Raises UsageError."""
    if name != LITE_FPN and not name.startswith(FPN_PREFIX):
        return None
    try:
        import timm
    except ImportError:
        raise UsageError(tr("model '{name}' needs: pip install {package}", name=name, package="timm")) from None
    if name == LITE_FPN:
        return LITE_ENCODER
    encoder = name.removeprefix(FPN_PREFIX)
    if not is_timm_name(encoder):
        raise unknown_name(tr("encoder of timm"), encoder, timm.list_models())
    if getattr(timm.get_pretrained_cfg(encoder), "fixed_input_size", False):
        raise _no_pyramid(encoder)
    return encoder


def create_features(
    encoder: str, channels: int, pretrained: bool = False, weights: dict[str, Tensor] | None = None
) -> Any:
    """Return the feature maps of an encoder of timm: at random, with the weights that timm finds, or with these."""
    import timm

    known = {} if weights is None else {"pretrained_cfg_overlay": {"state_dict": dict(weights)}}
    return timm.create_model(
        encoder, pretrained=pretrained or bool(known), features_only=True, in_chans=channels, **known
    )


def build_pretrained(
    encoder: str, num_classes: int, channels: int, places: Places = NOWHERE
) -> tuple[EncoderFPN, PublishedWeights]:
    """Return a network whose encoder has published weights: of an installed package, of a file, or those that timm finds.

    Raises AppError for a package or file that was changed, OSError if timm cannot download them.
    """
    import timm

    config = timm.get_pretrained_cfg(encoder)
    normalisation = parse_normalisation(encoder, {"mean": config.mean, "std": config.std})
    found = find_weights(encoder, places)
    if found is None:
        source = f"timm {timm.__version__}, {encoder}, {config.hf_hub_id or config.url}"
        network = EncoderFPN(encoder, num_classes, channels, pretrained=True)
    else:
        source = found.source
        network = EncoderFPN(encoder, num_classes, channels, weights=read_classifier(encoder, found))
    return network, PublishedWeights(source, hash_tensors(network.encoder.state_dict()), normalisation)


def find_weights(encoder: str, places: Places) -> WeightsFile | None:
    """Return the published weights of an encoder of timm, None if they are not on this machine. Raises AppError."""
    import timm

    packaged = None if places.named else _packaged_weights(encoder)
    if packaged is not None:
        return packaged
    config = timm.get_pretrained_cfg(encoder)
    names = [f"{encoder}{suffix}" for suffix in (SAFE, ".pth", ".bin")]
    names += [str(config.url).rpartition("/")[2]] if config.url else []
    names += [Path(LITE_FILE).name] if encoder.partition(".")[0] == LITE_ENCODER else []
    cached = [cached_repository_file(config.hf_hub_id, config.hf_hub_filename or "model.safetensors")]
    cached += [hub_file(config.url)] if config.url else []
    return places.find(names, cached)


def read_classifier(encoder: str, found: WeightsFile) -> dict[str, Tensor]:
    """Return the tensors of timm's whole classifier, of which the features are a part. Raises AppError for other ones."""
    import timm

    tensors = read_tensors(found)
    try:
        if found.sha256 == LITE_SHA256:  # its names are those of another library, in the same order
            with torch.device("meta"):
                names = timm.create_model(encoder).state_dict()
            tensors = dict(zip(names, tensors.values(), strict=True))
        timm.create_model(encoder, pretrained=True, pretrained_cfg_overlay={"state_dict": dict(tensors)})
    except (RuntimeError, KeyError, ValueError) as error:
        raise no_fit(found, encoder, error) from error
    return tensors


def _packaged_weights(encoder: str) -> WeightsFile | None:
    """Return the weights of the installed package, None without it. Raises AppError for another hash."""
    if encoder.partition(".")[0] != LITE_ENCODER:
        return None
    try:
        content = (resources.files(LITE_PACKAGE.replace("-", "_")) / LITE_FILE).read_bytes()
    except ModuleNotFoundError:
        return None
    require_origin(LITE_FILE, content, LITE_SHA256)
    return WeightsFile(f"{LITE_PACKAGE} {metadata.version(LITE_PACKAGE)}", LITE_FILE, content)


def _no_pyramid(encoder: str) -> UsageError:
    return UsageError(
        tr(
            "encoder '{encoder}' has no pyramid of feature maps for images of any size: choose another, such as resnet18",
            encoder=encoder,
        )
    )
