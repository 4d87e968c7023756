"""The result of a training run, and the summary that its report shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from utils.lakefs_utils import LakePath

if TYPE_CHECKING:
    from core.git import GitFacts
    from dataset.classes import ClassMap
    from segmentation.metrics import ConfusionMatrix
    from train.base_train import EpochResult


@dataclass(frozen=True)
class DataCommit:
    """The data of a run in lakeFS; `manifest_sha256` is a hash over the paths and hashes of all files."""

    path: LakePath
    manifest_sha256: str


@dataclass(frozen=True)
class Result:
    """What a run produced; `accuracy` and `miou` are those of the saved model on the validation split."""

    run_id: str
    data_path: LakePath
    data_manifest_sha256: str
    model_path: LakePath
    model_sha256: str
    accuracy: float
    miou: float


@dataclass(frozen=True)
class RunSummary:
    """What the report of a finished run shows."""

    result: Result
    settings: dict[str, str]  # without secrets
    git: GitFacts
    run_page: str | None  # in MLflow
    lakefs_page: str  # base URL of a lakeFS server; empty: none
    history: tuple[EpochResult, ...]
    best: EpochResult
    classes: ClassMap
    pixel_counts: dict[str, tuple[int, ...]]  # labelled pixels of each class, by split
    image_counts: dict[str, int]  # by split
    confusion: ConfusionMatrix | None  # of the best epoch, on the validation split
    worst: tuple[tuple[str, float], ...]  # validation images with the lowest mIoU, worst first
