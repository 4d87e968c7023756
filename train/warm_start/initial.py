"""What a training starts from: a model of this project, or the published weights of an installed package."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from segmentation.preprocess import Normalisation
from utils.lineage import INIT_KEYS


@dataclass(frozen=True)
class Initial:
    """Weights that a training starts from; `reference` always names the same file, whose hash is `sha256`."""

    reference: str
    sha256: str
    run_id: str = ""  # of its training; empty if it is not known, as `data_path`
    data_path: str = ""  # lakeFS path of the data that it was trained on

    def record(self) -> dict[str, str]:
        """Return what run, commit and model file say about it."""
        values = (self.reference, self.sha256, self.run_id, self.data_path)
        return dict(zip(INIT_KEYS, values, strict=True))


@dataclass(frozen=True, kw_only=True)
class InitialModel(Initial):
    """A model of this project; plain values, so that it can be sent to other processes."""

    architecture: str
    weights: dict[str, Tensor]
    classes: tuple[str, ...]
    normalisation: Normalisation
    input_size: tuple[int, int]
    scale: tuple[float, float]

    @property
    def channels(self) -> int:
        """Number of channels of its input."""
        return len(self.normalisation.mean)


@dataclass(frozen=True)
class InitialPackage(Initial):
    """Published weights of an encoder that an installed package has."""
