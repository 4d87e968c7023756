"""A trained model in memory: a network with everything that is needed to predict with it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from dataset.classes import ClassMap
from dataset.decoding.options import DEFAULT_READING, ReadOptions
from dataset.faults import DataWarning
from segmentation.preprocess import Normalisation
from segmentation.reliability.drift import TrainingDistribution
from utils.ensemble_file import Member

SCALES = 1e-6, 64.0  # least and largest number of input pixels per pixel of an image


@dataclass(frozen=True)
class Model:
    """A network in evaluation mode with its settings; `lineage` and `metrics` record its origin."""

    network: nn.Module
    architecture: str
    classes: ClassMap
    input_size: tuple[int, int]
    normalisation: Normalisation
    metrics: dict[str, float]
    lineage: dict[str, str]
    # Input pixels per pixel of a typical training image: vertical, horizontal.
    scale: tuple[float, float] = (1.0, 1.0)
    reading: ReadOptions = DEFAULT_READING
    warnings: tuple[DataWarning, ...] = ()  # about the data that it was trained and validated on
    members: tuple[Member, ...] = ()  # of an ensemble: the files that its network is made of
    temperature: float = 1.0  # that logits are divided by before their softmax; fitted on val
    inputs: TrainingDistribution | None = None  # what the training images are like; None: not known
