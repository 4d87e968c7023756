"""model_card.md: what is recorded about a model, for people. English, as it is stored."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from core.figures import format_figure, format_gain
from core.safety.markdown import markdown_table
from versioning.provenance.ancestors import Ancestor
from versioning.provenance.measurements import Measurements
from versioning.provenance.record import ModelRecord, timestamp
from versioning.provenance.signing import SIGNATURE
from versioning.provenance.verdict import SliceGain, Verdict


def model_card(record: ModelRecord, products: Mapping[str, str]) -> str:
    """Return the card in Markdown; `products` are file names with their SHA-256."""
    lineage, git = record.lineage, record.git
    changed = " with uncommitted changes" if git.get("git_dirty") == "true" else ""
    origin = [
        ("run", f"`{lineage.run_id}`" + (f", finished {timestamp(record.finished)}" if record.finished else "")),
        ("code", f"Git `{lineage.git_commit}`{changed}" + (f" of {_cell(record.remote)}" if record.remote else "")),
        ("data", f"`{lineage.data_path}`, manifest SHA-256 `{record.data_manifest_sha256}`"),
        ("model", f"`{lineage.model_path}`"),
        *(("started from", _ancestor(ancestor)) for ancestor in record.ancestors),
    ]
    parts = [
        f"# {_cell(record.name)} v{record.version}",
        "A semantic segmentation model. Everything below is taken from the records of its training and promotion.",
        "## Origin",
        _table(("", ""), origin),
        "## Metrics",
        _table(("split", "mIoU", "classes with pixels", "pixel accuracy"), _metrics(record.metrics)),
        "## Calibration",
        _calibration(record.metrics),
        "## Classes",
        _table(("class", *(f"IoU on {_name(split)}" for split in record.metrics.splits)), _classes(record.metrics)),
        "## Promotion",
        describe_promotion(record.gate),
        "## Warnings",
        _warnings(record.metrics.warnings),
        "## Settings",
        _table(("setting", "value"), sorted(record.parameters.items())) if record.parameters else "Not recorded.",
        "## Files",
        _table(("file", "SHA-256"), [(name, f"`{sha256}`") for name, sha256 in products.items()]),
        f"If there is a `{SIGNATURE}`, `model_signing verify key DIR --signature DIR/{SIGNATURE} --public_key KEY` "
        "verifies all files of this directory.",
    ]
    return "\n\n".join(parts) + "\n"


def _ancestor(ancestor: Ancestor) -> str:
    origin = f" of run `{ancestor.run_id}`" if ancestor.run_id else ""
    data = f", trained on `{ancestor.data_path}`" if ancestor.data_path else ""
    reference = ancestor.reference.replace("`", "'")  # a path of a file may have one
    return f"`{reference}`{origin}, SHA-256 `{ancestor.sha256}`{data}"


def _name(split: str) -> str:
    """Return the name of what was measured: 'oof' are the images that the folds of train and val held out."""
    return "held-out folds" if split == "oof" else split


def _metrics(metrics: Measurements) -> Iterator[tuple[str, ...]]:
    for split, figures in metrics.splits.items():
        yield _name(split), _figure(figures.miou), figures.classes, _figure(figures.accuracy)


def _calibration(metrics: Measurements) -> str:
    if metrics.temperature is None:
        return "Not measured: class probabilities may be too confident."
    rows = [(split, _figure(one.ece_uncalibrated), _figure(one.ece)) for split, one in metrics.splits.items()]
    table = _table(("split", "expected calibration error without", "with the temperature"), rows)
    return f"Logits are divided by the temperature {metrics.temperature:.4g}, which was fitted on val.\n\n{table}"


def _classes(metrics: Measurements) -> Iterator[tuple[str, ...]]:
    splits = metrics.splits.values()
    for name in dict.fromkeys(name for figures in splits for name in figures.iou):
        yield name, *(_figure(figures.iou.get(name)) for figures in splits)


def describe_promotion(verdict: Verdict | None) -> str:
    """Return the recorded verdict of the gate in words, as Markdown; None: there is none."""
    lines = [f"Decision: {verdict.decision if verdict else 'unknown'}."]
    if verdict and (found := verdict.comparison):
        lines.append(
            f"Images of {found.split} compared: {found.compared}, gain over version {verdict.against}: {format_gain(found.gain)}."
        )
    if verdict and (forced := verdict.forced):
        lines.append(f"Forced by {forced.by}, {forced.at}: {forced.why}")
    reasons = verdict.reasons if verdict else ()
    text = "\n".join([*map(_cell, lines), *(f"- {_cell(reason)}" for reason in reasons)])
    return f"{text}\n\n{_slices(verdict.slices)}" if verdict and verdict.slices else text


def _slices(slices: Iterable[SliceGain]) -> str:
    header = ("slice", "images", "groups", "version before", "this version", "gain", "interval")
    return _table(header, map(_slice_row, slices))


def _slice_row(one: SliceGain) -> tuple[str, ...]:
    interval = "not judged" if one.interval is None else " … ".join(map(format_gain, one.interval))
    figures = (format_figure(one.champion), format_figure(one.champion + one.gain), format_gain(one.gain))
    return one.label, str(one.images), str(one.groups), *figures, interval


def _warnings(warnings: Iterable[str]) -> str:
    return "\n".join(f"- {_cell(text)}" for text in warnings) or "None."


def _table(header: tuple[str, ...], rows: Any) -> str:
    return markdown_table(header, ([_cell(cell) for cell in row] for row in rows))


def _figure(value: float | None) -> str:
    return "not measured" if value is None else format_figure(value)


def _cell(text: str) -> str:
    """Return text that stays within a table cell and is no markup."""
    return " ".join(re.sub(r"[|\[\]]", r"\\\g<0>", text).replace("<", "&lt;").split())
