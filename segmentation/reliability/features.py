"""The means of the deepest feature map of a network, and how far those of an image are from those of the training."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

MOST_DIRECTIONS = 16  # in which the features of the training vary, that are kept
PROBE_SIDE = 256  # pixels of the noise by which the deepest map is found
SMALLEST_STD = 0.05  # of a channel, as a fraction of the median of all channels
Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FeatureDistribution:
    """Mean and covariance of channel means: `directions` (k,d) of `variances` (k,), and one variance in all others.

    Channels are divided by `std` (d,) first. `module`: name of the one whose output they are of. All float32.
    """

    module: str
    mean: Features
    std: Features
    directions: Features
    variances: Features
    rest: float

    @classmethod
    def fit(cls, module: str, features: Features) -> FeatureDistribution:
        """Measure features (N,d) of N >= 2 images."""
        mean, std = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
        std = np.maximum(std, max(SMALLEST_STD * float(np.median(std)), 1e-6))
        whitened = (features - mean) / std
        count, channels = whitened.shape
        kept = min(MOST_DIRECTIONS, count // 4, channels)
        _, singular, directions = np.linalg.svd(whitened, full_matrices=False)
        variances = singular**2 / count
        left = max(1, channels - kept)
        rest = max(float(variances[kept:].sum()) / left, 1e-3)
        return cls(
            module,
            mean.astype(np.float32),
            std.astype(np.float32),
            directions[:kept].astype(np.float32),
            np.maximum(variances[:kept], rest).astype(np.float32),
            rest,
        )

    def distances(self, features: Features) -> npt.NDArray[np.float64]:
        """Return the Mahalanobis distance of features (N,d), per channel: about 1 in the training."""
        whitened = (features.astype(np.float64) - self.mean) / self.std
        along = whitened @ self.directions.T.astype(np.float64)
        inside = (along**2 / self.variances).sum(1)
        outside = np.maximum((whitened**2).sum(1) - (along**2).sum(1), 0) / self.rest
        return np.asarray(np.sqrt((inside + outside) / whitened.shape[1]))


def find_deepest(network: nn.Module, channels: int) -> str | None:
    """Return the name of the module whose output has the least pixels (but more than one), the last of the widest ones.

    None for a network without such a module.
    """
    found: list[tuple[int, int, int, str]] = []

    def note(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[-2:]) > 1:
            found.append((output.shape[-2] * output.shape[-1], -output.shape[1], -len(found), name))

    with contextlib.ExitStack() as stack:
        for name, module in network.named_modules():
            hook = _noting(name, note)
            stack.callback(module.register_forward_hook(hook).remove)
        device = next(network.parameters()).device
        was_training = network.training
        network.eval()
        with torch.inference_mode():
            network(torch.zeros(1, channels, PROBE_SIDE, PROBE_SIDE, device=device))
        network.train(was_training)
    return min(found)[3] or None if found else None


def _noting(name: str, note: Any) -> Any:
    return lambda _module, _inputs, output: note(name, output)


class FeatureProbe:
    """Records the channel means of a module's output in the threads that ask for it, while the network runs."""

    def __init__(self, network: nn.Module, module: str) -> None:
        self._local = threading.local()
        self._hook = network.get_submodule(module).register_forward_hook(self._record)

    def remove(self) -> None:
        """Detach from the network."""
        self._hook.remove()

    @contextlib.contextmanager
    def recording(self) -> Iterator[list[Tensor]]:
        """Yield a list that gets (N,channels) of each forward pass of this thread within the block."""
        made: list[Tensor] = []
        self._local.made = made
        try:
            yield made
        finally:
            self._local.made = None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Record nothing in this thread within the block."""
        made = getattr(self._local, "made", None)
        self._local.made = None
        try:
            yield
        finally:
            self._local.made = made

    def _record(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        made: list[Tensor] | None = getattr(self._local, "made", None)
        if made is not None:
            made.append(output.detach().float().mean((2, 3)))
