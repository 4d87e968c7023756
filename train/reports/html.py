"""report.html: one file that shows what a run was made of and its results; it loads nothing from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from core.i18n import tr
from core.safety.html import write_page
from segmentation.means import format_mean
from train.base_train import Validation
from train.reports.history import CLASS_COLUMNS, class_rows
from train.tracking.result import RunSummary
from utils.lakefs_utils import LakePath

TEMPLATE = Path(__file__).with_name("report.html")
IMAGES = ("curves.png", "confusion.png", "overlays.png", "worst.png")


def write_report(path: Path, summary: RunSummary, images: Path) -> None:
    """Write the page of a finished run; the directory `images` holds what `figures.draw_all` wrote."""
    write_page(
        path,
        TEMPLATE,
        title=tr("Training report"),
        result=summary.result,
        settings=summary.settings,
        figures=_figures(summary),
        lineage=_lineage(summary),
        data_head=[tr("class"), *summary.pixel_counts],
        data_rows=_data_rows(summary),
        class_head=[*CLASS_COLUMNS, *(["iou (test)"] if summary.result.test is not None else [])],
        warnings=[warning.text for warning in summary.warnings],
        class_rows=_class_rows(summary),
        images={name: _data_url(images / name) for name in IMAGES},
        worst_caption=_describe_worst(summary.worst),
    )


def _figures(summary: RunSummary) -> list[tuple[str, str]]:
    return [
        *(figure for split, measured in _splits(summary) for figure in _split_figures(split, measured)),
        (tr("best epoch"), f"{summary.best.epoch + 1} / {len(summary.history)}"),
        (tr("training time"), f"{sum(epoch.seconds for epoch in summary.history):.0f} s"),
    ]


def _describe_worst(worst: Sequence[tuple[str, float]]) -> str:
    """Return names and mIoU; an image rarely has all classes, and its mean is of those that it has."""
    if not worst:
        return ""
    images = ", ".join(f"{name} ({score:.3f})" for name, score in worst)
    return tr("mIoU of the classes in each image: {images}", images=images)


def _splits(summary: RunSummary) -> list[tuple[str, Validation]]:
    """Return the splits that the saved model was measured on."""
    val, test = summary.result.val, summary.result.test
    return [("val", val)] + ([("test", test)] if test is not None else [])


def _split_figures(split: str, measured: Validation) -> list[tuple[str, str]]:
    mean = format_mean(measured.miou, measured.coverage)
    return [(f"{split} mIoU", mean), (tr("{split} accuracy", split=split), f"{measured.accuracy:.4f}")]


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
        rows.append([name, *(f"{summary.pixel_counts[s][index] / totals[s]:.2%}" for s in totals)])
    return rows


def _class_rows(summary: RunSummary) -> list[list[object]]:
    if summary.confusion is None:
        return []
    rows = class_rows(summary.confusion, summary.classes)
    test = summary.result.test
    if test is not None:
        rows = [[*row, test.iou[str(row[0])]] for row in rows]
    return [[_cell(value) for value in row] for row in rows]


def _cell(value: object) -> object:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else value


def _data_url(path: Path) -> str:
    """Return an image as a data URL; empty if it does not exist."""
    if not path.exists():
        return ""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
