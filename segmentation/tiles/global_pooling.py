"""Replace global average poolings by the means of the full image, so that every tile is computed with the same ones.

Squeeze-and-excitation gates and pooled context branches use the mean of a feature map. The mean over a tile differs from
the mean over the image, and changes every logit of the tile. The means of the full image are therefore computed first, in
one pass over the tiles for each pooling, and every tile is then computed with them.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from segmentation.ensemble.network import EnsembleNetwork
from segmentation.tiles.tiling import ALIGN, Forward, PixelSource, tile_starts

GLOBAL_OUTPUT_SIZES = (1, (1, 1))  # of a pooling over the full map
Means = dict[nn.Module, Tensor]  # of each pooling, (1,C,1,1)


class _StopForward(Exception):
    """Stop of a forward pass at a pooling whose mean is not known yet.

    PyTorch has no other way to leave a forward pass from a hook. Computing the rest of the network only to discard it
    would be repeated for every pooling and tile. Raised by `_hook`, caught in `_input_of_next_pool`, nowhere else.
    """

    def __init__(self, pool: nn.Module, features: Tensor) -> None:
        super().__init__()
        self.pool, self.features = pool, features


class GlobalPoolingOverride:
    """Replacement of a network's global average poolings by given means; threads may share it.

    Only `nn.AdaptiveAvgPool2d(1)` is supported, which our networks and torchvision's use. Without one, the object is
    false, and forward passes are unchanged.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network, self._local = network, threading.local()
        # The members of an ensemble do not need each other's outputs: to find the means of one, the others need not run.
        parts = list(network.members) if isinstance(network, EnsembleNetwork) else [network]
        self._parts = [(part, pools) for part in parts if (pools := _global_pools(part))]
        self._pools = [pool for _, pools in self._parts for pool in pools]
        for pool in self._pools:
            pool.register_forward_hook(self._hook)

    def __bool__(self) -> bool:
        return bool(self._pools)

    def with_means(self, means: Means, forward: Forward) -> Forward:
        """Return `forward`, which has to run this network, with its poolings replaced by these means."""

        def forward_with_means(images: Tensor) -> Tensor:
            with self._overridden(means):
                return forward(images)

        return forward_with_means

    def forward_without_means(self, images: Tensor) -> Tensor:
        """Return the network's logits with all means set to 0, to measure the receptive field of everything else."""
        zeros: Means = {pool: torch.zeros(1, 1, 1, 1, device=images.device) for pool in self._pools}
        return self.with_means(zeros, self._network)(images)

    def compute_means(self, image: PixelSource, tile: int, margin: int) -> Means:
        """Return the means of an image (C,H,W) float32, normalised, computed in tiles as `tiling.predict_bands` cuts it."""
        means: Means = {}
        for part, pools in self._parts:
            for _ in pools:
                found = self._compute_next_mean(part, image, tile, margin, means)
                if found is None:
                    break
                pool, mean = found
                means[pool] = mean
        return means

    @contextmanager
    def _overridden(self, means: Means) -> Iterator[None]:
        """Use these means in this thread's forward passes within the block; they stop where a mean is missing."""
        self._local.means = means
        try:
            yield
        finally:
            self._local.means = None

    def _hook(self, pool: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
        means: Means | None = getattr(self._local, "means", None)
        if means is None:
            return None
        if pool not in means:
            raise _StopForward(pool, inputs[0])
        return means[pool].expand_as(output)

    def _compute_next_mean(
        self, network: nn.Module, image: PixelSource, tile: int, margin: int, known: Means
    ) -> tuple[nn.Module, Tensor] | None:
        """Return the first pooling without a known mean, and its mean; None where the forward pass reaches no other.

        Each cell of the feature map is taken from the tile that it is deepest in.
        """
        total, cells, pool = torch.zeros((), device=image.device), 0, None
        rows = partition_tiles(image.shape[-2], tile, margin)
        columns = partition_tiles(image.shape[-1], tile, margin)
        for (top, row), (left, column) in itertools.product(rows, columns):
            part = image[None, :, top : top + tile, left : left + tile]
            reached = self._input_of_next_pool(network, part.contiguous(memory_format=torch.channels_last), known)
            if reached is None:
                return None
            pool, features = reached
            vertical, horizontal = (_stride(part.shape[axis], features.shape[axis]) for axis in (-2, -1))
            owned = features[..., _to_cells(row, vertical), _to_cells(column, horizontal)]
            total, cells = total + owned.sum((2, 3), keepdim=True), cells + owned.shape[-2] * owned.shape[-1]
        return None if pool is None else (pool, total / cells)

    def _input_of_next_pool(self, network: nn.Module, images: Tensor, known: Means) -> tuple[nn.Module, Tensor] | None:
        """Run the network up to the first pooling without a known mean; return that pooling and its input (N,C,h,w)."""
        try:
            self.with_means(known, network)(images)
        except _StopForward as stop:
            return stop.pool, stop.features
        return None


def _global_pools(network: nn.Module) -> list[nn.Module]:
    return [
        module
        for module in network.modules()
        if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in GLOBAL_OUTPUT_SIZES
    ]


def partition_tiles(length: int, tile: int, margin: int) -> list[tuple[int, slice]]:
    """Return (start of a tile, its pixels that count), so that each pixel counts once, in the tile that it is deepest in."""
    begins = tile_starts(length, tile, margin)
    cuts = [(begin + before + tile) // 2 // ALIGN * ALIGN for before, begin in itertools.pairwise(begins)]
    edges = zip([0, *cuts], [*cuts, None], begins, strict=True)
    return [(begin, slice(first - begin, None if end is None else end - begin)) for first, end, begin in edges]


def _stride(pixels: int, cells: int) -> int:
    """Return how many pixels a cell of a feature map stands for: networks halve, and round up."""
    return int(2 ** round(math.log2(pixels / cells)))


def _to_cells(pixels: slice, stride: int) -> slice:
    return slice(pixels.start // stride, None if pixels.stop is None else pixels.stop // stride)
