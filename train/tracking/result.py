"""The result of a training run, and the summary that its report shows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from utils.lakefs_utils import LakePath

if TYPE_CHECKING:
    from core.git import GitFacts
    from dataset.classes import ClassMap
    from dataset.faults import DataWarning
    from segmentation.metrics import ConfusionMatrix
    from train.base_train import EpochResult, Validation
    from train.tracking.used_settings import UsedSetting


@dataclass(frozen=True)
class DataCommit:
    """The data of a run in lakeFS; `manifest_sha256` is a hash over the paths and hashes of all files."""

    path: LakePath
    manifest_sha256: str


@dataclass(frozen=True)
class Result:
    """What a run produced: the saved model, and its metrics on the validation and the test split."""

    run_id: str
    data_path: LakePath
    data_manifest_sha256: str
    model_path: LakePath
    model_sha256: str
    val: Validation
    test: Validation | None  # None: there is no test split


@dataclass(frozen=True)
class RunSummary:
    """What the report of a finished run shows."""

    result: Result
    settings: tuple[UsedSetting, ...]  # those that somebody set first
    git: GitFacts
    run_page: str | None  # in MLflow
    lakefs_page: str  # base URL of a lakeFS server; empty: none
    history: tuple[EpochResult, ...]
    best: EpochResult
    classes: ClassMap
    pixel_counts: dict[str, tuple[int, ...]]  # labelled pixels of each class, by split
    image_counts: dict[str, int]  # by split
    confusion: ConfusionMatrix | None  # of the best epoch, on the validation split
    warnings: tuple[DataWarning, ...]  # about the data


def split_metrics(val: Validation, test: Validation | None) -> dict[str, float]:
    """Return the means of the saved model, under the names of runs, versions and commits."""
    metrics = {"best_val_miou": val.miou, "best_val_accuracy": val.accuracy}
    return metrics | ({"test_miou": test.miou, "test_accuracy": test.accuracy} if test is not None else {})


def class_metrics(split: str, measured: Validation) -> dict[str, float]:
    """Return the IoU of each class that occurs, as metrics of a run."""
    return {f"{split}_iou/{_metric_name(name)}": iou for name, iou in measured.iou.items() if iou is not None}


def _metric_name(name: str) -> str:
    """Return a class name with only the characters that MLflow allows in a metric's name."""
    return re.sub(r"[^\w.\- ]", "_", name)
