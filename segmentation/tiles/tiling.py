"""Run a network on images of any size in tiles without visible seams; equal to one pass over the full image.

A tile's logits are wrong where they depend on pixels beyond its edge. `measure_receptive_field` finds how far that
goes; tiles overlap by more, and the wrong part is discarded. Tiles begin at multiples of ALIGN, where a network that
halves its input has the same grid as in the full image.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

ALIGN = 32  # pixels; the networks of this project halve their input five times at most
BLEND = 32  # pixels; width of the linear blend between two tiles
Forward = Callable[[Tensor], Tensor]  # images (N,C,H,W) float32, normalised -> logits (N,num_classes,H,W) float32


class PixelSource(Protocol):
    """An image (C,H,W) float32, normalised, that is read in parts: a tensor, or a file that does not fit into memory."""

    @property
    def shape(self) -> torch.Size:
        """(C, H, W)."""

    @property
    def device(self) -> torch.device:
        """Where the parts are."""

    def __getitem__(self, key: Any, /) -> Tensor:
        """Return `[None, :, top:bottom, left:right]` as (1,C,h,w)."""


class WindowSource(PixelSource, Protocol):
    """An image that is read in windows, because it does not fit into memory."""

    @property
    def row_bytes(self) -> int:
        """Bytes that it keeps in memory for each row of a tile; 0: none."""

    def has_data(self, rows: slice, columns: slice) -> bool:
        """Return whether the part of the tile that was read last has pixels with data; slices within the tile."""


@dataclass
class Window:
    """A tile of an image and the part of it that counts. Set `logits` to None when they are no longer needed.

    `top`, `left`: where the tile begins in the image. `rows`, `columns`: the part that counts, in the image.
    `logits` (num_classes,h,w) float32 of the tile; None where no pixel of that part has data.
    """

    top: int
    left: int
    rows: slice
    columns: slice
    logits: Tensor | None


@torch.inference_mode()
def measure_receptive_field(forward: Forward, device: torch.device, limit: int = 256, channels: int = 3) -> int:
    """Return how many pixels beyond a cut still change the output, rounded up to ALIGN, at most `limit`.

    NaN left of a cut marks every output that depends on pixels there, through any layer, and the mirrored strip those
    on the other side. A strip across the cut is enough. A network that averages over the full image reaches `limit`.
    """
    strips = torch.zeros(2, channels, 2 * ALIGN, 2 * limit, device=device)
    strips[0, ..., :limit] = strips[1, ..., limit:] = float("nan")
    farthest = 0
    for images in (strips, strips.mT):
        marked = forward(images.contiguous(memory_format=torch.channels_last)).isnan()
        right, left = marked.any(1).any(1 if images is strips else 2)
        farthest = max(farthest, int(right[limit:].sum()), int(left[:limit].sum()))
    return min(limit, -(-farthest // ALIGN) * ALIGN)


def tile_starts(length: int, tile: int, margin: int) -> list[int]:
    """Return where tiles of `tile` pixels begin so that they cover `length`, overlapping by at least 2 x `margin` + BLEND."""
    if length <= tile:
        return [0]
    step = max(ALIGN, (tile - 2 * margin - BLEND) // ALIGN * ALIGN)
    count = -(-(length - tile) // step) + 1
    return [i * step for i in range(count)]


def limit_margin(tile: int, wanted: int) -> int:
    """Return the wanted margin, reduced so that at least ALIGN + BLEND pixels of a tile remain to advance by."""
    return max(0, min(wanted, (tile - BLEND - ALIGN) // 2))


@functools.lru_cache(64)
def _blend_weights(length: int, margin: int, first: bool, last: bool) -> Tensor:
    """Return weights (length,) of a tile along one axis: 0 in the margins, then a ramp of BLEND; no margin at the image edge."""
    weights = torch.ones(length)
    fade = torch.linspace(0, 1, BLEND + 2)[1:-1]
    if not first:
        weights[:margin] = 0
        weights[margin : margin + BLEND] = fade[: length - margin]
    if not last:
        weights[length - margin :] = 0
        weights[length - margin - BLEND : length - margin] = torch.minimum(
            fade.flip(0), weights[length - margin - BLEND : length - margin]
        )
    return weights


def predict_bands(forward: Forward, image: Tensor, tile: int, margin: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (first row, logits (num_classes,h,W) float32) of the image's bands from top to bottom.

    image (C,H,W) float32, normalised. Only one row of tiles is in memory.
    """
    height, width = image.shape[-2:]
    tops, lefts = tile_starts(height, tile, margin), tile_starts(width, tile, margin)
    total: Tensor | None = None
    for i, top in enumerate(tops):
        bottom = min(top + tile, height)
        vertical = _blend_weights(bottom - top, margin, i == 0, i == len(tops) - 1)
        for j, left in enumerate(lefts):
            right = min(left + tile, width)
            weights = vertical[:, None] * _blend_weights(right - left, margin, j == 0, j == len(lefts) - 1)
            part = image[None, :, top:bottom, left:right].contiguous(memory_format=torch.channels_last)
            logits = forward(part)[0].float()
            if total is None:
                total = logits.new_zeros(len(logits) + 1, min(tile, height), width)
            weights = weights.to(logits.device)
            total[:-1, : bottom - top, left:right] += logits * weights
            total[-1, : bottom - top, left:right] += weights
        assert total is not None  # there is at least one tile
        finished = (tops[i + 1] if i + 1 < len(tops) else height) - top
        yield top, total[:-1, :finished] / total[-1:, :finished]
        rest = total[:, finished : bottom - top]
        following = torch.zeros_like(total)
        following[:, : rest.shape[1]] = rest
        total = following
