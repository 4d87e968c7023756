"""Compare the images that a predictor sees with those of the training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from segmentation.model import Model
from segmentation.reliability.drift import Drift
from segmentation.reliability.features import FeatureProbe
from segmentation.reliability.statistics import Figures


class InputWatch:
    """The training distribution of a model, and a probe of its features; threads may share it.

    An exported network has no features to look at: only statistics are compared then.
    """

    def __init__(self, model: Model, engine: str) -> None:
        assert model.inputs is not None  # the predictor has looked
        self._distribution, features = model.inputs, model.inputs.features
        self._probe = FeatureProbe(model.network, features.module) if features and engine == "torch" else None

    def recording(self) -> contextlib.AbstractContextManager[list[Tensor]]:
        """Return a context in which the forward passes of this thread add their features (N,channels) to a list."""
        return self._probe.recording() if self._probe else _nothing()

    def paused(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which forward passes of this thread add nothing: those that measure the network."""
        return self._probe.paused() if self._probe else contextlib.nullcontext()

    def compare(self, statistics: Sequence[Figures | None], recorded: Sequence[Tensor]) -> list[Drift | None]:
        """Compare images with these statistics; `recorded` are features: of all images, or of the tiles of one image."""
        features = None
        if recorded:
            joined = torch.cat(list(recorded))
            features = (joined.mean(0, True) if len(statistics) == 1 else joined).cpu().numpy()
        return [
            None if found is None else self._distribution.check(found, None if features is None else features[row])
            for row, found in enumerate(statistics)
        ]


@contextlib.contextmanager
def _nothing() -> Iterator[list[Tensor]]:
    yield []
