"""An encoder of timm under the decoder of our compact pyramid: `fpn/ENCODER`, and `lite_fpn` for small machines."""

from __future__ import annotations

import io
from importlib import metadata, resources

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UsageError
from core.i18n import tr
from segmentation.archive.origin import require_origin
from segmentation.networks.compact import CompactFPN, Merge, channel_gate, decode_pyramid, resized
from segmentation.networks.names import is_timm_name, unknown_name
from segmentation.networks.packages import LITE_ENCODER, LITE_FILE, LITE_FPN, LITE_PACKAGE, LITE_SHA256
from segmentation.networks.published import PublishedWeights, hash_tensors, parse_normalisation

FPN_PREFIX = "fpn/"


class EncoderFPN(nn.Module):
    """Any encoder of timm that has a pyramid of features, under the decoder of `CompactFPN`."""

    def __init__(self, encoder: str, num_classes: int, channels: int = 3, pretrained: bool = False) -> None:
        super().__init__()
        import timm

        self.encoder = timm.create_model(encoder, pretrained=pretrained, features_only=True, in_chans=channels)
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


def build_pretrained(encoder: str, num_classes: int, channels: int) -> tuple[EncoderFPN, PublishedWeights]:
    """Return a network whose encoder has published weights: of an installed package, else those that timm finds.

    Raises AppError for a package that was changed, OSError if timm cannot download them.
    """
    import timm

    config = timm.get_pretrained_cfg(encoder)
    normalisation = parse_normalisation(encoder, {"mean": config.mean, "std": config.std})
    packaged = _packaged_weights(encoder)
    network = EncoderFPN(encoder, num_classes, channels, pretrained=packaged is None)
    if packaged is None:
        source = f"timm {timm.__version__}, {encoder}, {config.hf_hub_id or config.url}"
    else:
        source = f"{LITE_PACKAGE} {metadata.version(LITE_PACKAGE)}"
        _load_in_order(network.encoder, encoder, packaged, channels)
    return network, PublishedWeights(source, hash_tensors(network.encoder.state_dict()), normalisation)


def _packaged_weights(encoder: str) -> list[Tensor] | None:
    """Return the tensors of the installed package in its order, None without it. Raises AppError for another hash."""
    if encoder.partition(".")[0] != LITE_ENCODER:
        return None
    try:
        content = (resources.files(LITE_PACKAGE.replace("-", "_")) / LITE_FILE).read_bytes()
    except ModuleNotFoundError:
        return None
    require_origin(LITE_FILE, content, LITE_SHA256)
    return list(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True).values())


def _load_in_order(features: nn.Module, encoder: str, tensors: list[Tensor], channels: int) -> None:
    """Fill the encoder with tensors in the order of timm's whole classifier, which has layers that features lack."""
    import timm

    with torch.device("meta"):
        whole = timm.create_model(encoder)
    named = dict(zip(whole.state_dict(), tensors, strict=True))
    first = f"{whole.default_cfg['first_conv']}.weight"
    named[first] = timm.models.adapt_input_conv(channels, named[first])
    features.load_state_dict({name: named[name] for name in features.state_dict()})


def _no_pyramid(encoder: str) -> UsageError:
    return UsageError(
        tr(
            "encoder '{encoder}' has no pyramid of feature maps for images of any size: choose another, such as resnet18",
            encoder=encoder,
        )
    )
