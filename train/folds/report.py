"""Figures, tables and samples of a finished run with folds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from core.figures import format_figure
from core.files import write_atomically
from core.i18n import tr
from core.pages.cards import Card, Gallery
from core.reporting import notify
from core.safety.spreadsheet import csv_bytes
from core.safety.urls import without_credentials
from dataset.classes import UInt8
from segmentation.means import format_mean
from segmentation.model_file import load_model
from train.base_train import Validation
from train.folds.out_of_fold import IMAGES_TABLE, OutOfFold
from train.folds.recorded import RecordedFolds
from train.loading.loader import SegmentationDataset
from train.reports import figures
from train.reports.history import CLASSES_TABLE, write_classes
from train.reports.samples import gallery_of, sample_cards
from train.tracking.result import FoldSummary, Result, RunSummary
from train.tracking.used_settings import used_settings

FOLDS_TABLE = "folds.csv"  # artifact: a row for each epoch of each fold


def report_metrics(found: OutOfFold, test: Validation | None) -> None:
    """Report the out-of-fold metrics with their interval, and those of the mean of all models on the test split."""
    measured, interval = found.metrics, found.interval()
    mean = format_mean(measured.miou, measured.coverage)
    if interval is not None:
        mean += tr(" (95 % interval {low} to {high})", low=format_figure(interval[0]), high=format_figure(interval[1]))
    count = len(found.division.pairs)
    notify(
        tr(
            "out-of-fold, all {count} images of train and val: accuracy {accuracy:.4f}, mIoU {miou}",
            count=count,
            accuracy=measured.accuracy,
            miou=mean,
        )
    )
    if test is not None:
        mean = format_mean(test.miou, test.coverage)
        notify(
            tr("mean of all models on test: accuracy {accuracy:.4f}, mIoU {miou}", accuracy=test.accuracy, miou=mean)
        )


def draw_folds(folder: Path, training: RecordedFolds, found: OutOfFold) -> Gallery:
    """Write confusion matrix, overlays, worst predictions (PNG) and tables (CSV); return the samples of the report.

    Each image is shown as the model predicts it that has not been trained on it.
    """
    classes = training.division.data.classes
    figures.save_confusion(folder / "confusion.png", found.confusion, classes, "Held-out folds")
    write_classes(folder / CLASSES_TABLE, found.confusion, classes)
    found.write_images(folder / IMAGES_TABLE)
    _write_epochs(folder / FOLDS_TABLE, training)
    pairs = training.division.pairs
    spread = figures.spread_indices(len(pairs))
    worst = [index for index, _ in figures.worst_indices(found.scores())]
    chosen = sorted({*spread, *worst})
    cards, sheets = list[Card](), dict[int, tuple[SegmentationDataset, int, UInt8]]()
    for images, indices, predicted, own in _predicted(training, chosen):
        cards += own
        sheets |= {
            index: (images, place, one) for place, (index, one) in enumerate(zip(indices, predicted, strict=True))
        }
    for name, indices in (("overlays.png", spread), ("worst.png", worst)):
        figures.save_rows(folder / name, [sheets[index] for index in indices])
    title = tr(
        "Images of train and val, the lowest mIoU first ({shown} of {count})", shown=len(cards), count=len(pairs)
    )
    return gallery_of(cards, title, classes)


def _predicted(
    training: RecordedFolds, chosen: list[int]
) -> Iterator[tuple[SegmentationDataset, list[int], list[UInt8], list[Card]]]:
    """Yield for each fold its images of `chosen`, their indices, predictions (H,W) at working size, and cards."""
    division, size = training.division, training.settings.image_size
    assert size is not None  # decided
    for fold, file in zip(training.finished, training.member_files, strict=True):
        indices = [index for index in chosen if division.fold_of[index] == fold.number]
        if not indices:
            continue
        pairs, data = [division.pairs[index] for index in indices], division.data
        images = SegmentationDataset(pairs, data.classes, size, True, data.reading, data.source)
        model = load_model(file, fold.sha256, training.device)
        places = range(len(indices))
        yield images, indices, figures.predictions(model, images, places), sample_cards(model, images, places)


def _write_epochs(path: Path, training: RecordedFolds) -> None:
    head = ["fold", "run_id", "epoch", "train_loss", "held_out_loss", "held_out_accuracy", "held_out_miou", "seconds"]
    rows: list[list[object]] = [[*head]]
    for fold in training.finished:
        for r in fold.history:
            v = r.validation
            measured = [v.loss, v.accuracy, v.miou] if v else [None] * 3
            rows.append([fold.number, fold.run_id, r.number, r.train_loss, *measured, round(r.seconds, 3)])
    write_atomically(path, csv_bytes(rows))


def summary_of(training: RecordedFolds, found: OutOfFold, result: Result) -> RunSummary:
    """Return what the report shows."""
    tracker, division = training.tracker, training.division
    data, classes = division.data, division.data.classes
    return RunSummary(
        result=result,
        settings=used_settings(tracker.settings, training.resolved, tracker.given),
        git=tracker.facts.git,
        run_page=tracker.page(),
        lakefs_page=without_credentials(tracker.settings.lakefs_endpoint or "").rstrip("/"),
        history=(),
        best=None,
        classes=classes,
        pixel_counts={split: tuple(counts) for split, counts in data.pixel_counts.items()},
        image_counts={split: len(data.split(split)) for split in data.pixel_counts},
        confusion=found.confusion,
        warnings=data.warnings,
        folds=tuple(
            FoldSummary(
                fold.number,
                fold.run_id,
                len(division.held_out(fold.number)),
                fold.metrics(classes.names),
                fold.history,
            )
            for fold in training.finished
        ),
        interval=found.interval(),
    )
