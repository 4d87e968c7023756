"""Our own networks, small enough to train on a few cores: a U-Net and a feature pyramid."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn_relu(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Return a 3x3 convolution, batch normalisation and ReLU: (N,inputs,H,W) -> (N,outputs,H/stride,W/stride)."""
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
        self.stem = conv_bn_relu(channels, widths[0], stride=2)
        self.down = nn.ModuleList(
            nn.Sequential(conv_bn_relu(a, b, stride=2), conv_bn_relu(b, b)) for a, b in pairwise(widths)
        )
        self.up = nn.ModuleList(conv_bn_relu(a + b, a) for a, b in pairwise(widths))
        self.head = nn.Conv2d(widths[0], num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        skips = [self.stem(images)]
        for down in self.down:
            skips.append(down(skips[-1]))
        x = skips.pop()
        for up, skip in zip(reversed(self.up), reversed(skips), strict=True):
            x = up(torch.cat([F.interpolate(x, skip.shape[-2:]), skip], dim=1))
        return resized(self.head(x), images)


class Residual(nn.Module):
    """Two convolutions beside a short cut (He et al., 2016, arXiv:1512.03385); starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv_bn_relu(channels, channels)
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
        self.out = conv_bn_relu(outputs, outputs)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        merged = F.interpolate(self.coarse(coarse), skip.shape[-2:]) + self.skip(skip)
        out: Tensor = self.out(F.relu(self.norm(merged)))
        return out


def decode_pyramid(maps: list[Tensor], gate: nn.Module, merges: nn.ModuleList) -> Tensor:
    """Merge the maps of an encoder, finest first, into one at the size of the finest; `merges` has one less, same order."""
    *skips, coarsest = maps
    x: Tensor = coarsest * gate(coarsest)
    for merge, skip in zip(reversed(merges), reversed(skips), strict=True):
        x = merge(x, skip)
    return x


def channel_gate(channels: int) -> nn.Sequential:
    """Return a module that maps (N,channels,H,W) to a factor of each channel in 0..1, from the mean over the pixels."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1), nn.Sigmoid())


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
        self.stem = conv_bn_relu(channels, c[0], stride=2)
        self.down = nn.ModuleList(
            nn.Sequential(conv_bn_relu(a, b, stride=2), conv_bn_relu(b, b) if b == c[1] else Residual(b))
            for a, b in pairwise(c)
        )
        self.gate = channel_gate(c[-1])
        self.up = nn.ModuleList(
            Merge(coarse, skip, out) for coarse, skip, out in zip((*d[1:], c[-1]), c[:-1], d, strict=True)
        )
        self.head = nn.Conv2d(d[0], num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = [self.stem(images)]
        for down in self.down:
            maps.append(down(maps[-1]))
        return resized(self.head(decode_pyramid(maps, self.gate, self.up)), images)


def resized(logits: Tensor, images: Tensor) -> Tensor:
    """Return logits (N,num_classes,h,w) resized to the height and width of the images, bilinear."""
    return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)
