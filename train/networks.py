"""Networks by name: one registry, so that a checkpoint rebuilds its own."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.console import UsageError, t


def _conv_bn_relu(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class CompactUNet(nn.Module):
    """A U-Net (Ronneberger et al., 2015, arXiv:1505.04597) of 1.8 M parameters for machines of few cores.

    A stem of stride 2 halves the resolution before anything costs much; the decoder meets each skip at the skip's own
    size, so that any input of at least 16 pixels a side works without padding.

    images (N,3,H,W) float32, normalised -> logits (N,num_classes,H,W) float32.
    """

    def __init__(self, num_classes: int, width: int = 24) -> None:
        super().__init__()
        channels = [width, width * 2, width * 4, width * 6, width * 8]
        self.stem = _conv_bn_relu(3, channels[0], stride=2)
        self.down = nn.ModuleList(
            nn.Sequential(_conv_bn_relu(a, b, stride=2), _conv_bn_relu(b, b)) for a, b in pairwise(channels)
        )
        self.up = nn.ModuleList(_conv_bn_relu(a + b, a) for a, b in pairwise(channels))
        self.head = nn.Conv2d(channels[0], num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        skips = [self.stem(images)]
        for down in self.down:
            skips.append(down(skips[-1]))
        x = skips.pop()
        for up, skip in zip(reversed(self.up), reversed(skips), strict=True):
            x = up(torch.cat([F.interpolate(x, skip.shape[-2:]), skip], dim=1))
        return F.interpolate(self.head(x), images.shape[-2:], mode="bilinear", align_corners=False)


NETWORKS: dict[str, Callable[[int], nn.Module]] = {"compact_unet": CompactUNet}


def build_network(name: str, num_classes: int) -> nn.Module:
    """The network of that name with fresh weights. Raises UsageError that lists the known names."""
    if name not in NETWORKS:
        known, near = ", ".join(sorted(NETWORKS)), difflib.get_close_matches(name, NETWORKS, n=1)
        meant = t(f" ('{near[0]}' 인가요?)", f" (did you mean '{near[0]}'?)") if near else ""
        raise UsageError(
            t(f"모르는 모델 '{name}'{meant}: 가능한 값은 {known}", f"unknown model '{name}'{meant}: known are {known}")
        )
    return NETWORKS[name](num_classes)
