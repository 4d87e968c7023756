"""model_card.md: what is recorded about a model, for people. English, as it is stored."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from core.safety.markdown import markdown_table
from versioning.provenance.record import ModelRecord, timestamp
from versioning.provenance.signing import SIGNATURE

SPLITS = ("val", "test")


def model_card(record: ModelRecord, products: Mapping[str, str]) -> str:
    """Return the card in Markdown; `products` are file names with their SHA-256."""
    lineage, git = record.lineage, record.git
    changed = " with uncommitted changes" if git.get("git_dirty") == "true" else ""
    origin = [
        ("run", f"`{lineage.run_id}`" + (f", finished {timestamp(record.finished)}" if record.finished else "")),
        ("code", f"Git `{lineage.git_commit}`{changed}" + (f" of {_cell(record.remote)}" if record.remote else "")),
        ("data", f"`{lineage.data_path}`, manifest SHA-256 `{record.data_manifest_sha256}`"),
        ("model", f"`{lineage.model_path}`"),
    ]
    parts = [
        f"# {_cell(record.name)} v{record.version}",
        "A semantic segmentation model. Everything below is taken from the records of its training and promotion.",
        "## Origin",
        _table(("", ""), origin),
        "## Metrics",
        _table(("split", "mIoU", "classes with pixels", "pixel accuracy"), _metrics(record.metrics)),
        "## Classes",
        _table(("class", *(f"IoU on {split}" for split in _measured(record.metrics))), _classes(record.metrics)),
        "## Promotion",
        describe_promotion(record.gate),
        "## Warnings",
        _warnings(record.metrics),
        "## Settings",
        _table(("setting", "value"), sorted(record.parameters.items())) if record.parameters else "Not recorded.",
        "## Files",
        _table(("file", "SHA-256"), [(name, f"`{sha256}`") for name, sha256 in products.items()]),
        f"If there is a `{SIGNATURE}`, `model_signing verify key DIR --signature DIR/{SIGNATURE} --public_key KEY` "
        "verifies all files of this directory.",
    ]
    return "\n\n".join(parts) + "\n"


def _measured(metrics: Mapping[str, Any]) -> list[str]:
    return [split for split in SPLITS if isinstance(metrics.get(f"{split}_iou"), dict)]


def _metrics(metrics: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for split in _measured(metrics):
        prefix = "best_val" if split == "val" else split
        figures = (_figure(metrics.get(f"{prefix}_miou")), _figure(metrics.get(f"{prefix}_accuracy")))
        yield split, figures[0], str(metrics.get(f"{split}_classes", "unknown")), figures[1]


def _classes(metrics: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    splits = _measured(metrics)
    names = dict.fromkeys(name for split in splits for name in metrics[f"{split}_iou"])
    for name in names:
        yield str(name), *(_figure(metrics[f"{split}_iou"].get(name)) for split in splits)


def describe_promotion(gate: Mapping[str, Any]) -> str:
    """Return the recorded verdict of the gate in words, as Markdown."""
    lines = [f"Decision: {gate.get('decision', 'unknown')}."]
    if gate.get("compared"):
        lines.append(
            f"On {gate['compared']} images of {gate['split']}: gain {gate['gain']:+.4f} over version {gate['against']}."
        )
    if gate.get("forced"):
        forced = gate["forced"]
        lines.append(f"Forced by {forced['by']}, {forced['at']}: {forced['why']}")
    lines = [_cell(line) for line in lines] + [f"- {_cell(str(reason))}" for reason in gate.get("reasons", ())]
    return "\n".join(lines)


def _warnings(metrics: Mapping[str, Any]) -> str:
    found = [f"- {_cell(str(warning.get('text', warning)))}" for warning in metrics.get("warnings", ())]
    return "\n".join(found) or "None."


def _table(header: tuple[str, ...], rows: Any) -> str:
    return markdown_table(header, ([_cell(cell) for cell in row] for row in rows))


def _figure(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "not measured"


def _cell(text: str) -> str:
    """Return text that stays within a table cell and is no markup."""
    return " ".join(re.sub(r"[|\[\]]", r"\\\g<0>", text).replace("<", "&lt;").split())
