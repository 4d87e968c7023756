"""Import an export of an annotation tool into a data directory, for lake.py import-labels."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from core.errors import UsageError
from core.i18n import tr, trn
from core.reporting import notify, result, warn
from core.safety.terminal import escape_line
from dataset.classes import abbreviate
from dataset.directory import OUTPUT_FOLDER, is_empty
from dataset.faults import DataWarning, LeftOut
from dataset.formats.export import ImportOptions
from dataset.formats.record import ImportRecord
from dataset.formats.registry import require_format
from dataset.formats.selection import METADATA_KEYS, add_selection, find_selection
from dataset.formats.source import open_source
from dataset.formats.update import Updated, update_data
from dataset.formats.write import Written, write_export


def import_labels(
    path: Path, target: Path, format_name: str | None, strict: bool, update: bool, selection_path: Path | None
) -> None:
    """Convert the export in a directory into an empty data directory, or `update` one; report what was done.

    `selection_path` is the file or directory of the selection that the images are from; default: that in the export.
    Raises UsageError for directories that cannot be used, DataFaults with all faults of the export.
    """
    _check_apart(path, target)
    empty = is_empty(target)
    if not empty and not update:
        raise UsageError(
            tr("{target}: holds data already: set --to to an empty directory, or add to it by --update", target=target)
        )
    known, source = require_format(open_source(path), format_name)
    notify(escape_line(f"{source.root}: {known.title}"))
    export = known.read(source, ImportOptions(strict))
    selection = find_selection(source, selection_path)
    if selection is not None:
        export = add_selection(export, source, selection)
        notify(tr("selected by run {run}", run=selection.metadata[METADATA_KEYS["run_id"]]))
    record = ImportRecord(known.name, source.sha256(), export.metadata)
    if empty:
        _report(target, write_export(target, source, export, record))
    else:
        _report_update(target, update_data(target, source, export, record))
    notify(tr("next: python train.py --data-dir {target} --check-only", target=target))


def _check_apart(source: Path, target: Path) -> None:
    """Raise UsageError if one directory is inside the other: the export would become part of the data, or the reverse.

    Predictions beside the data are not part of it: infer.py --select writes there by default.
    """
    inner, outer = source.resolve(), target.resolve()
    if inner.is_relative_to(outer / OUTPUT_FOLDER):
        return
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise UsageError(
            tr(
                "{source}: must be outside of {target}, which will hold the imported data: move the export to another "
                "directory first, or set --to",
                source=source,
                target=target,
            )
        )


def _report(target: Path, written: Written | None) -> None:
    """Report the pairs of each split, the classes, what was left out, and the warnings."""
    if written is None:
        notify(tr("{target}: completed the interrupted import", target=target))
        return
    counts = ", ".join(
        f"{split} {count}" if split else tr("{count} without a split", count=count)
        for split, count in written.splits.items()
    )
    learned = [known.name for known in written.classes if not known.ignore]
    ignored = [known.name for known in written.classes if known.ignore]
    result(
        trn(
            "{target}: {count} pair ({counts})",
            "{target}: {count} pairs ({counts})",
            sum(written.splits.values()),
            target=target,
            counts=counts,
        )
    )
    notify(tr("classes: {count} ({names})", count=len(learned), names=abbreviate(learned)))
    if ignored:
        notify(tr("ignored: {names}", names=abbreviate(ignored)))
    _report_findings(written.left_out, written.warnings)


def _report_update(target: Path, updated: Updated) -> None:
    """Report the pairs that were added and whose masks were replaced, what was left out, and the warnings."""
    result(
        tr(
            "{target}: pairs added: {added}, masks replaced: {replaced}, unchanged: {unchanged}",
            target=target,
            added=len(updated.added),
            replaced=len(updated.replaced),
            unchanged=len(updated.unchanged),
        )
    )
    if updated.replaced:
        notify(tr("replaced: {names}", names=abbreviate(updated.replaced)))
    _report_findings(updated.left_out, updated.warnings)


def _report_findings(left_out: Iterable[LeftOut], warnings: Iterable[DataWarning]) -> None:
    """Report the files that were left out, by reason, and the warnings."""
    reasons: dict[str, list[str]] = {}
    for item in left_out:
        reasons.setdefault(item.reason, []).append(item.file)
    for reason, files in reasons.items():
        notify(tr("left out ({reason}): {files}", reason=reason, files=abbreviate(files)))
    for warning in warnings:
        warn(warning.text)
