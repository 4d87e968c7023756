"""The result of a training run, and the summary that its report shows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from utils.lakefs_utils import LakePath

if TYPE_CHECKING:
    from core.git import GitFacts
    from dataset.classes import ClassMap
    from dataset.faults import DataWarning
    from segmentation.metrics import ConfusionMatrix
    from train.base_train import EpochResult, Validation
    from train.reliability.calibration import Calibration
    from train.tracking.used_settings import UsedSetting


@dataclass(frozen=True)
class DataCommit:
    """The data of a run in lakeFS; `manifest_sha256` is a hash over the paths and hashes of all files."""

    path: LakePath
    manifest_sha256: str


VAL, OOF = "val", "oof"  # what judges a model: the validation split, or out-of-fold predictions of train and val


@dataclass(frozen=True)
class TrainedModel:
    """The model of a finished training, to be published.

    `file` is a model file, or an ensemble.json that names the model files `members`. `judged` are its metrics on what
    judges it, VAL or OOF. `figures` are further metrics of the run.
    """

    file: Path
    judged: Validation
    test: Validation | None  # None: there is no test split
    step: int  # at which MLflow records the metrics: the best epoch, counted as the run counts them
    split: str = VAL
    members: tuple[Path, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    calibration: Calibration | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """The means under the names of runs, versions and commits."""
        calibrated = self.calibration.metrics() if self.calibration is not None else {}
        return split_metrics(self.judged, self.test, self.split) | calibrated

    @property
    def splits(self) -> dict[str, Validation]:
        """What was measured, by the name of the split."""
        return {self.split: self.judged} | ({"test": self.test} if self.test is not None else {})


@dataclass(frozen=True)
class Result:
    """What a run produced: the saved model, and its metrics on what judges it (`split`: VAL or OOF) and the test split."""

    run_id: str
    data_path: LakePath
    data_manifest_sha256: str
    model_path: LakePath
    model_sha256: str
    val: Validation
    test: Validation | None  # None: there is no test split
    split: str = VAL  # that `val` was measured on
    calibration: Calibration | None = None


@dataclass(frozen=True)
class FoldSummary:
    """What the report shows of a fold: its number from 1, its run, the images that it held out, and its epochs."""

    number: int
    run_id: str
    images: int
    held_out: Validation  # metrics of its model on them
    history: tuple[EpochResult, ...]


@dataclass(frozen=True)
class RunSummary:
    """What the report of a finished run shows."""

    result: Result
    settings: tuple[UsedSetting, ...]  # those that somebody set first
    git: GitFacts
    run_page: str | None  # in MLflow
    lakefs_page: str  # base URL of a lakeFS server; empty: none
    history: tuple[EpochResult, ...]  # empty with folds, which have their own
    best: EpochResult | None  # None with folds
    classes: ClassMap
    pixel_counts: dict[str, tuple[int, ...]]  # labelled pixels of each class, by split
    image_counts: dict[str, int]  # by split
    confusion: ConfusionMatrix | None  # of the saved model, on what judges it
    warnings: tuple[DataWarning, ...]  # about the data
    folds: tuple[FoldSummary, ...] = ()
    interval: tuple[float, float] | None = None  # of the mIoU; with folds


def split_metrics(judged: Validation, test: Validation | None, split: str = VAL) -> dict[str, float]:
    """Return the means of the saved model, under the names of runs, versions and commits."""
    prefix = "best_val" if split == VAL else split
    metrics = {f"{prefix}_miou": judged.miou, f"{prefix}_accuracy": judged.accuracy}
    return metrics | ({"test_miou": test.miou, "test_accuracy": test.accuracy} if test is not None else {})


def class_metrics(split: str, measured: Validation) -> dict[str, float]:
    """Return the IoU of each class that occurs, as metrics of a run."""
    names = _metric_names(list(measured.iou))
    return {f"{split}_iou/{names[name]}": iou for name, iou in measured.iou.items() if iou is not None}


def _metric_names(classes: Sequence[str]) -> dict[str, str]:
    """Return class -> name with only the characters that MLflow allows in a metric's name.

    Where two classes would have one name, the position of each is added.
    """
    plain = {name: re.sub(r"[^\w.\- ]", "_", name) for name in classes}
    plain = {
        name: "_" * len(shown) if not shown.strip(".") else shown for name, shown in plain.items()
    }  # a path: . or ..
    counts = Counter(shown.casefold() for shown in plain.values())
    return {
        name: shown if counts[shown.casefold()] == 1 else f"{shown} ({place})"
        for place, (name, shown) in enumerate(plain.items())
    }
