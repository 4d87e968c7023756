"""Compute the windows of an image that is read in parts, because it does not fit into memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch

from segmentation.tiles.out_of_memory import memory_error
from segmentation.tiles.tiling import Forward, Window, WindowSource

Parts = Sequence[tuple[int, slice]]  # start of a tile and the part of it that counts, along one axis


def compute_windows(forward: Forward, image: WindowSource, tile: int, parts: tuple[Parts, Parts]) -> Iterator[Window]:
    """Yield the windows of these rows and columns, row by row; a window without data is not computed.

    Raises AppError when memory runs out.
    """
    rows, columns = parts
    for (top, row), (left, column) in itertools.product(rows, columns):
        try:
            with torch.inference_mode():
                part = image[None, :, top : top + tile, left : left + tile]
                height, width = part.shape[-2:]
                logits = None
                if image.has_data(row, column):
                    logits = forward(part.contiguous(memory_format=torch.channels_last))[0].float()
        except Exception as error:
            raise memory_error(error, "--tile 512") from error
        window = Window(top, left, _placed(top, row, height), _placed(left, column, width), logits)
        del part, logits  # only the window holds them: they must not exist beside the next one
        yield window


def _placed(start: int, part: slice, length: int) -> slice:
    """Return where a part of a tile of this length that starts here lies in the image."""
    begin, end, _ = part.indices(length)
    return slice(start + begin, start + end)
