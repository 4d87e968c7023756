"""Report the verdict of the promotion gate: figures, reasons, and the command by which a person may promote all the same."""

from __future__ import annotations

from collections.abc import Sequence

from core.i18n import tr, trn
from core.reporting import notify, warn
from registry.slice_table import slice_table
from segmentation.means import Coverage, format_mean
from versioning.provenance.verdict import CHALLENGER, DEFAULT_CONFIDENCE, Comparison, Verdict


def report_verdict(verdict: Verdict, run_id: str, options: Sequence[str] = ()) -> None:
    """Report the recorded verdict on the model of a run; `options` are those of this call of register_model.py."""
    if found := verdict.comparison:
        notify(_describe_comparison(found))
        if verdict.slices:
            notify(slice_table(verdict.slices, tr("champion"), tr("candidate"), found.confidence or DEFAULT_CONFIDENCE))
    for text in verdict.accepted:
        warn(tr("accepted by --accept-warnings: {text}", text=text))
    if forced := verdict.forced:
        notify(tr("forced by {by}, {at}: {why}", by=forced.by, at=forced.at, why=forced.why))
    if verdict.reasons:
        notify("\n".join([tr("Not promoted because:"), *(f"  - {reason}" for reason in verdict.reasons)]))
    if verdict.decision == CHALLENGER and verdict.promote_by:
        waiving = {_name_of(option) for option in verdict.promote_by}
        repeated = [option for option in options if _name_of(option) not in waiving]
        command = " ".join(["python register_model.py --run-id", run_id, *repeated, *verdict.promote_by])
        notify(tr("To promote it all the same: {command}", command=command))


def _name_of(option: str) -> str:
    return option.partition(" ")[0]


def _describe_comparison(found: Comparison) -> str:
    coverage, shown = Coverage.parse(found.classes), ""
    if found.interval is not None and found.confidence is not None:
        low, high = found.interval
        shown = tr(
            ", {confidence:.0%} interval [{low:+.4f}, {high:+.4f}]", confidence=found.confidence, low=low, high=high
        )
    return trn(
        "on the same image of {split}: {figure} {new}, champion {champion}, gain {gain:+.4f}{interval}",
        "on the same {count} images of {split} (groups: {groups}): {figure} {new}, champion {champion}, gain "
        "{gain:+.4f}{interval}",
        found.compared,
        groups=found.groups,
        split=found.split,
        figure=found.figure,
        new=format_mean(found.champion + found.gain, coverage),
        champion=format_mean(found.champion, coverage),
        gain=found.gain,
        interval=shown,
    )
