"""Whether a network can be trained at all, before the data is read: it is built and run once without memory for it."""

from __future__ import annotations

import functools

import torch
from torch import nn

from core.errors import UsageError, describe_error
from core.i18n import tr
from segmentation.networks.encoder_fpn import FPN_PREFIX
from segmentation.networks.registry import build_network, check_network
from segmentation.networks.smp_models import SMP_PREFIX

SIZE = 352, 416  # multiples of 32 as images are padded to, and no size that an encoder of timm was trained at
CLASSES, CHANNELS = 2, 3


def check_new_network(name: str, pretrained: bool) -> None:
    """Raise UsageError for a name that `check_network` refuses, and for a network that cannot take images of any size.

    Which encoder fits which decoder, and which sizes it takes, is known only by trying: timm marks some encoders as of a
    fixed size that are not, and does not mark others. A network that was trained already needs only `check_network`.
    """
    check_network(name, pretrained)
    if name.startswith((FPN_PREFIX, SMP_PREFIX)):
        _run_without_memory(name)


@functools.cache  # a sweep asks again for each of its trials
def _run_without_memory(name: str) -> None:
    """Run the network once on torch's device without data. Raises UsageError if it fails."""
    try:
        network = _build_without_memory(name).eval()
        with torch.inference_mode():
            network(torch.empty(1, CHANNELS, *SIZE, device="meta"))
    except UsageError:
        raise
    except Exception as error:  # the libraries raise many types, AssertionError without a text among them
        raise UsageError(
            tr(
                "model '{name}': expected a network that takes images of any size, found '{reason}': "
                "choose another encoder, such as resnet34, or another architecture",
                name=name,
                reason=describe_error(error).strip(".: "),
            )
        ) from error


def _build_without_memory(name: str) -> nn.Module:
    """Return the network on torch's device without data; few encoders compute while they are built, and need the CPU first."""
    try:
        with torch.device("meta"):
            return build_network(name, CLASSES, CHANNELS)
    except RuntimeError as error:
        if "meta tensors" not in str(error):
            raise
        return build_network(name, CLASSES, CHANNELS).to("meta")
