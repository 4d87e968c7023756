"""report.html: one file that shows what a run was made of and its results; it loads nothing from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from core.figures import format_figure, format_share
from core.i18n import tr
from core.pages.cards import Gallery
from core.pages.charts import Chart, line_chart, reliability_chart
from core.safety.html import write_page
from dataset.overlay import css_color
from segmentation.means import format_mean
from segmentation.metrics import ConfusionMatrix
from segmentation.reliability.calibration import Calibrated
from train.base_train import Validation
from train.reports.history import class_rows
from train.tracking.result import OOF, FoldSummary, RunSummary
from utils.lakefs_utils import LakePath

TEMPLATE = Path(__file__).with_name("report.html")
SHOWN_FRACTION = 0.005  # of a label's pixels; smaller cells of the confusion matrix are empty


def write_report(path: Path, summary: RunSummary, samples: Gallery) -> None:
    """Write the page of a finished run; `samples` are images of the validation split."""
    write_page(
        path,
        TEMPLATE,
        title=tr("Training report"),
        result=summary.result,
        model=next(setting.value for setting in summary.settings if setting.name == "model"),
        given_settings=[(setting.name, setting.value) for setting in summary.settings if setting.given],
        other_settings=[(setting.name, setting.value) for setting in summary.settings if not setting.given],
        figures=_figures(summary),
        lineage=_lineage(summary),
        contents=_contents(summary),
        data_head=[tr("class"), *summary.pixel_counts],
        data_rows=_data_rows(summary),
        class_title=_class_title(summary),
        class_head=_class_head(summary),
        warnings=[warning.text for warning in summary.warnings],
        class_rows=_class_rows(summary),
        names=summary.classes.names,
        colors=dict(zip(summary.classes.names, map(css_color, summary.classes.colors), strict=True)),
        confusion=_confusion_rows(summary.confusion, summary.classes.names),
        charts=_charts(summary),
        reliability=[
            reliability_chart(tr("Reliability on {split}", split=split), tr("confidence"), _curves(found))
            for split, found in _calibrated(summary).items()
        ],
        reliability_text=_describe_calibration(summary),
        samples=samples,
    )


def _contents(summary: RunSummary) -> list[tuple[str, str]]:
    """Return (id, text) of the sections."""
    measured = summary.confusion is not None
    return [
        *([("warnings", tr("Warnings of the data"))] if summary.warnings else []),
        ("samples", tr("Images")),
        *([("classes", tr("Classes")), ("confusion", tr("Confusion matrix"))] if measured else []),
        ("curves", tr("Curves")),
        *([("reliability", tr("Reliability"))] if _calibrated(summary) else []),
        ("data", tr("Data")),
        ("lineage", tr("Lineage")),
        ("settings", tr("Settings")),
    ]


UNMEASURED = Validation(math.nan, math.nan, math.nan, {})  # charts leave out what is not finite


def _charts(summary: RunSummary) -> list[Chart]:
    """Return losses and validation metrics of the epochs, with the saved one marked."""
    if summary.folds:
        return _fold_charts(summary.folds)
    assert summary.best is not None  # of a training without folds
    history = summary.history
    best, saved = summary.best.epoch + 1, tr("saved epoch: {epoch}", epoch=summary.best.epoch + 1)
    validations = [result.validation or UNMEASURED for result in history]
    losses = [
        (tr("training loss"), [result.train_loss for result in history]),
        (tr("validation loss"), [found.loss for found in validations]),
    ]
    metrics = [
        (tr("accuracy"), [found.accuracy for found in validations]),
        ("mIoU", [found.miou for found in validations]),
    ]
    return [
        line_chart(tr("Loss, weighted by class"), tr("epoch"), losses, mark=best, mark_label=saved),
        line_chart(tr("Validation split, native size"), tr("epoch"), metrics, top=1.0, mark=best, mark_label=saved),
    ]


def _fold_charts(folds: Sequence[FoldSummary]) -> list[Chart]:
    """Return the training loss and the mIoU on the held-out images of each fold's epochs."""
    names = [tr("fold {number}", number=fold.number) for fold in folds]
    losses = [[epoch.train_loss for epoch in fold.history] for fold in folds]
    means = [[(epoch.validation or UNMEASURED).miou for epoch in fold.history] for fold in folds]
    return [
        line_chart(tr("Training loss, weighted by class"), tr("epoch"), list(zip(names, losses, strict=True))),
        line_chart(tr("mIoU on the held-out images"), tr("epoch"), list(zip(names, means, strict=True)), top=1.0),
    ]


def _calibrated(summary: RunSummary) -> dict[str, Calibrated]:
    """Return the splits on which the reliability of the saved model was measured."""
    return summary.result.calibration.splits if summary.result.calibration is not None else {}


def _curves(found: Calibrated) -> list[tuple[str, Sequence[tuple[float, float]]]]:
    return [
        (tr("calibrated"), found.after.curve()),
        (tr("without temperature"), found.before.curve()),
    ]


def _describe_calibration(summary: RunSummary) -> str:
    """Return the sentence above the diagrams: the temperature, and the errors without and with it."""
    errors = ", ".join(
        f"{split} {format_figure(found.before.error)} → {format_figure(found.after.error)}"
        for split, found in _calibrated(summary).items()
    )
    temperature = summary.result.calibration.temperature if summary.result.calibration else 1.0
    return tr(
        "Probabilities are those of the logits divided by {temperature:.4g}, fitted on val. "
        "Expected calibration error: {errors}",
        temperature=temperature,
        errors=errors,
    )


def _confusion_rows(
    confusion: ConfusionMatrix | None, names: tuple[str, ...]
) -> list[tuple[str, list[tuple[str, int, str]]]]:
    """Return name and cells (per cent, shade from 0 to 10, description) of each label; an absent one has empty cells."""
    if confusion is None:
        return []
    rows = []
    for label, counts in zip(names, confusion.counts, strict=True):
        total = int(counts.sum())
        cells = [(predicted, count / total if total else 0.0) for predicted, count in zip(names, counts, strict=True)]
        rows.append((label, [_confusion_cell(label, predicted, fraction) for predicted, fraction in cells]))
    return rows


def _confusion_cell(label: str, predicted: str, fraction: float) -> tuple[str, int, str]:
    text = f"{fraction * 100:.0f}" if fraction >= SHOWN_FRACTION else ""
    return text, round(fraction * 10), f"{label} → {predicted}: {format_share(fraction)}"


def _figures(summary: RunSummary) -> list[tuple[str, str]]:
    figures = [figure for split, measured in _splits(summary) for figure in _split_figures(split, measured)]
    if summary.interval is not None:
        low, high = map(format_figure, summary.interval)
        figures.insert(1, (tr("95 % interval"), tr("{low} to {high}", low=low, high=high)))
    if summary.best is not None:
        figures.append((tr("best epoch"), f"{summary.best.number} / {len(summary.history)}"))
    figures += [(tr("fold {number} mIoU", number=fold.number), _mean(fold.held_out)) for fold in summary.folds]
    epochs = [*summary.history, *(epoch for fold in summary.folds for epoch in fold.history)]
    seconds = sum(epoch.seconds for epoch in epochs)
    figures += [
        (tr("{split} calibration error", split=split), format_figure(found.after.error))
        for split, found in _calibrated(summary).items()
    ]
    return [*figures, (tr("training time"), tr("{seconds:,.0f} s", seconds=seconds))]


def _splits(summary: RunSummary) -> list[tuple[str, Validation]]:
    """Return what the saved model was measured on."""
    result = summary.result
    judge = tr("out-of-fold") if result.split == OOF else result.split
    return [(judge, result.val)] + ([("test", result.test)] if result.test is not None else [])


def _split_figures(split: str, measured: Validation) -> list[tuple[str, str]]:
    accuracy = format_figure(measured.accuracy)
    return [(f"{split} mIoU", _mean(measured)), (tr("{split} accuracy", split=split), accuracy)]


def _mean(measured: Validation) -> str:
    return format_mean(measured.miou, measured.coverage)


def _class_title(summary: RunSummary) -> str:
    return tr("Classes (held-out folds)") if summary.folds else tr("Classes (validation split)")


def _lineage(summary: RunSummary) -> list[tuple[str, str, str]]:
    """Return (name, URL or "", text) of run, data, model and code, with links to servers that have web pages."""
    result, git = summary.result, summary.git
    remote = git.remote.removesuffix(".git")
    commit_url = f"{remote}/commit/{git.commit}" if remote.startswith(("https:", "http:")) else ""
    code = tr("{commit} + changes", commit=git.commit) if git.dirty == "true" else git.commit
    return [
        (tr("MLflow run"), summary.run_page or "", result.run_id),
        (tr("data"), _commit_page(summary, result.data_path), str(result.data_path)),
        (tr("model"), _commit_page(summary, result.model_path), str(result.model_path)),
        (tr("model SHA-256"), "", result.model_sha256),
        (tr("code (Git)"), commit_url, code),
        (tr("to reproduce"), "", f"python train.py --reproduce {result.run_id}"),
    ]


def _commit_page(summary: RunSummary, path: LakePath) -> str:
    if not summary.lakefs_page.startswith(("https:", "http:")):
        return ""
    return f"{summary.lakefs_page}/repositories/{quote(path.repo)}/commits/{quote(path.ref)}"


def _data_rows(summary: RunSummary) -> list[list[object]]:
    """Return the images of each split, and the fraction of each class among its labelled pixels."""
    totals = {split: max(1, sum(counts)) for split, counts in summary.pixel_counts.items()}
    rows: list[list[object]] = [[tr("(images)"), *summary.image_counts.values()]]
    for index, name in enumerate(summary.classes.names):
        rows.append([name, *(format_share(summary.pixel_counts[s][index] / totals[s]) for s in totals)])
    return rows


def _class_head(summary: RunSummary) -> list[str]:
    """Return the columns: the measured figures first, because a narrow screen shows only some of them."""
    measured = ["IoU", *([tr("IoU (test)")] if summary.result.test is not None else []), tr("precision"), tr("recall")]
    return [tr("class"), *measured, tr("labelled pixels"), tr("predicted pixels")]


def _class_rows(summary: RunSummary) -> list[list[object]]:
    if summary.confusion is None:
        return []
    test, rows = summary.result.test, []
    for name, labelled, predicted, iou, precision, recall in class_rows(summary.confusion, summary.classes):
        tested = [test.iou[str(name)]] if test is not None else []
        rows.append([_cell(value) for value in (name, iou, *tested, precision, recall, labelled, predicted)])
    return rows


def _cell(value: object) -> object:
    if value is None:
        return "-"
    return format_figure(value) if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
