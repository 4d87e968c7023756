"""Measure how much memory a network's forward pass takes, so that the tiles of an image can be chosen to fit."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segmentation.tiles.tiling import Forward

PROBE = 256  # pixels per side of the image by which a network is measured


class _PeakMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types for it
    """The largest sum of the tensors that exist at one time within the block, in bytes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._live = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and count the storages that it made until they are freed."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        self.peak = max(self.peak, self._live)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self._live += storage.nbytes()
            weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._live -= size


@torch.inference_mode()
def measure_activations(forward: Forward, device: torch.device, channels: int) -> float:
    """Return the bytes of activations that a forward pass holds at its peak, per pixel of the image; the image excluded."""
    image = torch.zeros(1, channels, PROBE, PROBE, device=device).contiguous(memory_format=torch.channels_last)
    with _PeakMemory() as memory:
        forward(image)
    peak: int = memory.peak
    return peak / PROBE**2
