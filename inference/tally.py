"""What is counted of predictions: pixels by label and prediction, errors by entropy, images unlike those of the training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from core.i18n import tr
from core.reporting import warn
from dataset.classes import UInt8
from segmentation.metrics import ConfusionMatrix
from segmentation.prediction import Prediction
from segmentation.reliability.reasons import count_reasons, describe_counts, drift_record
from segmentation.reliability.uncertainty import ErrorRanking, UInt16


@dataclass
class Tally:
    """Labelled pixels of one image or of many; `ranking` only where entropy maps are written."""

    confusion: ConfusionMatrix
    ranking: ErrorRanking | None = None

    @classmethod
    def empty(cls, num_classes: int) -> Tally:
        """Return one of no pixels."""
        return cls(ConfusionMatrix(num_classes))

    @classmethod
    def of(cls, num_classes: int, predicted: UInt8, labels: UInt8, levels: UInt16 | None) -> Tally:
        """Count an image: class indices and labels (H,W) uint8, entropies (H,W) uint16."""
        tally = cls.empty(num_classes)
        tally.confusion.update(torch.from_numpy(predicted), torch.from_numpy(labels))
        if levels is not None:
            tally.ranking = ErrorRanking()
            tally.ranking.update(levels, predicted, labels)
        return tally

    def add(self, other: Tally) -> None:
        """Add the pixels of another image."""
        self.confusion.counts += other.confusion.counts
        if other.ranking is not None:
            self.ranking = self.ranking or ErrorRanking()
            self.ranking.counts += other.ranking.counts

    @property
    def auroc(self) -> float | None:
        """How well entropy tells wrong pixels from correct ones; None: not measured."""
        return self.ranking.auroc if self.ranking is not None else None


def read_levels(path: Path) -> UInt16:
    """Return the entropies (H,W) uint16 of a map that infer.py wrote."""
    with Image.open(path) as image:
        return np.asarray(image).astype(np.uint16)


def reliability_record(prediction: Prediction) -> dict[str, Any]:
    """Return what the record of an image says of its confidence, its uncertainty, and its distance to the training."""
    record: dict[str, Any] = {}
    if prediction.confidence is not None:
        record["confidence"] = round(prediction.confidence, 9)
    if prediction.drift is not None:
        record["drift"] = drift_record(prediction.drift)
    if prediction.uncertainty is not None:
        record["uncertainty"] = round(prediction.uncertainty, 9)
    return record


def summarize_drift(records: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return how many images were compared with those of the training and how many are unlike them; None if none was."""
    compared = [record["drift"] for record in records if "drift" in record]
    flagged = [drift["reasons"] for drift in compared if drift["flagged"]]
    if not compared:
        return None
    return {"compared": len(compared), "flagged": len(flagged), "reasons": count_reasons(flagged)}


def report_drift(found: Mapping[str, Any] | None) -> None:
    """Warn of images unlike those of the training, in one line."""
    if found is not None and found["flagged"]:
        warn(
            tr(
                "unlike the images of the training: {flagged} of {compared} ({reasons})",
                flagged=found["flagged"],
                compared=found["compared"],
                reasons=describe_counts(found["reasons"]),
            )
        )
