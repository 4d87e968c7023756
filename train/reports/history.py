"""Tables of a run as CSV: one row per epoch, one row per class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from core.files import write_atomically
from core.safety.spreadsheet import csv_bytes
from dataset.classes import ClassMap
from segmentation.metrics import ConfusionMatrix
from train.base_train import EpochResult, best_of

HISTORY_FILE, CLASSES_TABLE = "history.csv", "per_class.csv"


def write_history(path: Path, history: Sequence[EpochResult]) -> None:
    """Write one row per epoch, counted from 1; floats with full precision. The metrics of one without validation are empty.

    The whole file is rewritten each time, so that after a resume it has no epoch twice.
    """
    best = best_of(history)
    classes = list(best.val.iou) if best else []
    head = ["epoch", "train_loss", "val_loss", "val_accuracy", "val_miou", "best", "learning_rate", "seconds"]
    rows: list[list[object]] = [[*head, "images_per_second", *(f"iou/{name}" for name in classes)]]
    for r in history:
        v = r.validation
        measured = [v.loss, v.accuracy, v.miou] if v else [None] * 3
        figures = [r.number, r.train_loss, *measured, int(r.best), r.learning_rate]
        iou = v.iou if v else {}
        rows.append(
            [*figures, round(r.seconds, 3), round(r.images_per_second, 3), *(iou.get(name) for name in classes)]
        )
    write_atomically(path, csv_bytes(rows), durable=False)  # a checkpoint has the same rows


def class_rows(confusion: ConfusionMatrix, classes: ClassMap) -> list[list[object]]:
    """Return name, labelled pixels, predicted pixels, IoU, precision and recall of each class; None for 0/0."""
    hit, labelled, predicted = confusion.counts.diagonal(), confusion.counts.sum(1), confusion.counts.sum(0)
    return [
        [name, int(n), int(p), iou, h / p if p else None, h / n if n else None]
        for name, n, p, iou, h in zip(classes.names, labelled, predicted, confusion.iou(), hit, strict=True)
    ]


CLASS_COLUMNS = ("class", "labelled_pixels", "predicted_pixels", "iou", "precision", "recall")


def write_classes(path: Path, confusion: ConfusionMatrix, classes: ClassMap) -> None:
    """Write the per-class table of the saved model; an absent class has empty cells."""
    write_atomically(path, csv_bytes([list(CLASS_COLUMNS), *class_rows(confusion, classes)]))
