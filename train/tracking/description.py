"""The description of a run on MLflow's page: what was trained on what, with which code and result.

English, as it is stored; everything in it is a record of the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.figures import format_figure
from core.git import NONE
from core.safety.markdown import escape_markdown, markdown_table
from segmentation.means import english_mean
from utils.lineage import INIT, INIT_DATA_PATH, INIT_RUN_ID, INIT_SHA256

if TYPE_CHECKING:
    from train.base_train import Validation
    from train.tracking.result import Result, RunSummary

NOTE = "mlflow.note.content"  # the tag that MLflow shows as the description
_NAMES = {"val": "val", "oof": "held-out folds"}
CLASSES = 40  # rows of the table; MLflow stores 8,000 characters


def describe_run(summary: RunSummary, settings: dict[str, str]) -> str:
    """Return the description in Markdown; `settings` are the values that were used, as text."""
    result, git = summary.result, summary.git
    counts = ", ".join(f"{split} {count}" for split, count in summary.image_counts.items())
    names = ", ".join(escape_markdown(name) for name in summary.classes.names[:CLASSES])
    changed = ", with uncommitted changes (artifact code/changes.patch)" if git.dirty == "true" else ""
    place = ", ".join(escape_markdown(name) for name in (git.branch, git.tag) if name != NONE)
    parts = [
        f"**What:** semantic segmentation with `{settings['model']}`, {_length(summary)}, "
        f"input {escape_markdown(settings['image_size'])}, "
        f"batch size {settings['batch_size']}, seed {settings['seed']}.",
        f"**Data:** `{result.data_path}`; images: {counts}; classes: {names}.",
        *([_started_from(settings)] if INIT_RUN_ID in settings else []),
        f"**Code:** Git `{git.commit}`{f' ({place})' if place else ''}{changed}.",
        f"**Model:** `{result.model_path}`, SHA-256 `{result.model_sha256}`.",
        "**Result** of the saved model:",
        markdown_table(("split", "mIoU", "pixel accuracy"), _splits(result)),
        markdown_table(("class", f"IoU on {_NAMES[result.split]}", "IoU on test"), _classes(result.val, result.test)),
    ]
    if summary.folds:
        parts.append(markdown_table(("fold", "run", "images held out", "mIoU", "pixel accuracy"), _folds(summary)))
    if (calibration := result.calibration) is not None and calibration.splits:
        rows = [
            (split, format_figure(found.before.error), format_figure(found.after.error))
            for split, found in calibration.splits.items()
        ]
        parts.append(f"**Calibration:** temperature {calibration.temperature:.4g}; expected calibration error:")
        parts.append(markdown_table(("split", "without", "with the temperature"), rows))
    if summary.warnings:
        parts += [
            "**Warnings about the data:**",
            "\n".join(f"- {escape_markdown(w.text)}" for w in summary.warnings[:8]),
        ]
    parts.append(
        f"`python train.py --reproduce {result.run_id}` repeats it, `python infer.py --run-id {result.run_id}` uses it, "
        f"`python lake.py trace {result.run_id}` verifies every link."
    )
    return "\n\n".join(parts) + "\n"


def _started_from(settings: dict[str, str]) -> str:
    run_id, data_path = settings.get(INIT_RUN_ID), settings.get(INIT_DATA_PATH)
    origin = f", run `{run_id}`" if run_id else ""
    data = f", trained on `{data_path}`" if data_path else ""
    return f"**Started from:** {escape_markdown(settings[INIT])}{origin}{data}, SHA-256 `{settings[INIT_SHA256]}`."


def _length(summary: RunSummary) -> str:
    """Return how long the model was trained, and which epoch was saved."""
    if summary.best is not None:
        return f"best epoch {summary.best.number} of {len(summary.history)}"
    epochs = sorted({len(fold.history) for fold in summary.folds})
    text = " to ".join(map(str, dict.fromkeys((epochs[0], epochs[-1]))))
    return f"the mean of {len(summary.folds)} models that each hold out a fold of train and val, epochs: {text}"


def _folds(summary: RunSummary) -> list[tuple[str, ...]]:
    return [
        (
            str(fold.number),
            f"`{fold.run_id}`",
            str(fold.images),
            english_mean(fold.held_out.miou, fold.held_out.coverage),
            format_figure(fold.held_out.accuracy),
        )
        for fold in summary.folds
    ]


def _splits(result: Result) -> list[tuple[str, ...]]:
    rows = [(_NAMES[result.split], result.val)] + ([("test", result.test)] if result.test is not None else [])
    return [
        (name, english_mean(measured.miou, measured.coverage), format_figure(measured.accuracy))
        for name, measured in rows
    ]


def _classes(val: Validation, test: Validation | None) -> list[tuple[str, ...]]:
    tested = test.iou if test is not None else {}
    names = list(dict.fromkeys([*val.iou, *tested]))[:CLASSES]
    return [(escape_markdown(name), _figure(val.iou.get(name)), _figure(tested.get(name))) for name in names]


def _figure(value: float | None) -> str:
    return "-" if value is None else format_figure(value)
