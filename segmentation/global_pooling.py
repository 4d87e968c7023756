"""What a network averages over the whole picture, kept the same in each of its tiles.

Squeeze-and-excitation gates and pooled context branches look at the mean of a map. The mean of a tile is another, and with
it the logits of the whole tile. So the picture's own means are taken first, in a pass over the tiles for each of them,
and every tile is computed with those.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from segmentation.tiling import ALIGN, Forward, starts

ONE = (1, (1, 1))  # output sizes of a global pooling
Means = dict[nn.Module, Tensor]  # of each pooling, (1,C,1,1)


class _Reached(Exception):
    """The next map whose mean is wanted has been computed: the rest of the network need not be."""

    def __init__(self, pool: nn.Module, features: Tensor) -> None:
        self.pool, self.features = pool, features


class GlobalPoolingOverride:
    """Takes the place of a network's global average poolings; threads may share it.

    Only `nn.AdaptiveAvgPool2d(1)` is known, which is what our networks and torchvision's use. Where there is none, it is
    false, and nothing is added to a forward pass.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network, self._local = network, threading.local()
        self._pools = [m for m in network.modules() if isinstance(m, nn.AdaptiveAvgPool2d) and m.output_size in ONE]
        for pool in self._pools:
            pool.register_forward_hook(self._pooled)

    def __bool__(self) -> bool:
        return bool(self._pools)

    @contextmanager
    def using(self, means: Means) -> Iterator[None]:
        """Within the block, forward passes of this thread take these means, and stop (`_Reached`) where one is missing."""
        self._local.means = means
        try:
            yield
        finally:
            self._local.means = None

    def given(self, means: Means, forward: Forward) -> Forward:
        """`forward`, a way through the network, with these means."""

        def through(images: Tensor) -> Tensor:
            with self.using(means):
                return forward(images)

        return through

    def left_out(self, images: Tensor) -> Tensor:
        """The network's logits without any of its means: to see what else a pixel reaches."""
        nothing: Means = {pool: torch.zeros(1, 1, 1, 1, device=images.device) for pool in self._pools}
        return self.given(nothing, self._network)(images)

    def _pooled(self, pool: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
        means: Means | None = getattr(self._local, "means", None)
        if means is None:
            return None
        if pool not in means:
            raise _Reached(pool, inputs[0])
        return means[pool].expand_as(output)

    def measured(self, image: Tensor, tile: int, margin: int) -> Means:
        """The means of a picture (3,H,W) float32, normalised, that is cut as `tiles.tiled` cuts it."""
        means: Means = {}
        while len(means) < len(self._pools) and (found := self._next(image, tile, margin, means)):
            means[found[0]] = found[1]
        return means

    def _next(self, image: Tensor, tile: int, margin: int, before: Means) -> tuple[nn.Module, Tensor] | None:
        """The first pooling behind those `before`, and its mean: each cell of the map from the tile that sees around it."""
        total, cells, reached = torch.zeros((), device=image.device), 0, None
        rows, columns = owned(image.shape[-2], tile, margin), owned(image.shape[-1], tile, margin)
        for (top, row), (left, column) in itertools.product(rows, columns):
            part = image[None, :, top : top + tile, left : left + tile]
            reached = self._reached(part.contiguous(memory_format=torch.channels_last), before)
            if reached is None:
                return None
            features = reached.features
            down, across = (_stride(part.shape[i], features.shape[i]) for i in (-2, -1))
            own = features[..., _cells(row, down), _cells(column, across)]
            total, cells = total + own.sum((2, 3), keepdim=True), cells + own.shape[-2] * own.shape[-1]
        return (reached.pool, total / cells) if reached else None

    def _reached(self, images: Tensor, before: Means) -> _Reached | None:
        try:
            with self.using(before):
                self._network(images)
        except _Reached as reached:
            return reached
        return None


def owned(length: int, tile: int, margin: int) -> list[tuple[int, slice]]:
    """(where a tile begins, the pixels of it that count) so that each pixel counts once, in the tile that it is deepest in."""
    begins = starts(length, tile, margin)
    cuts = [(begin + before + tile) // 2 // ALIGN * ALIGN for before, begin in itertools.pairwise(begins)]
    edges = zip([0, *cuts], [*cuts, None], begins, strict=True)
    return [(begin, slice(first - begin, None if end is None else end - begin)) for first, end, begin in edges]


def _stride(pixels: int, cells: int) -> int:
    """How many pixels a cell of a map stands for: networks halve, and round up."""
    return int(2 ** round(math.log2(pixels / cells)))


def _cells(pixels: slice, stride: int) -> slice:
    return slice(pixels.start // stride, None if pixels.stop is None else pixels.stop // stride)
