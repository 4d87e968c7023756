"""Import an export of an annotation tool into a data directory, for lake.py import-labels."""

from __future__ import annotations

from pathlib import Path

from core.errors import UsageError
from core.i18n import tr
from core.reporting import notify, warn
from dataset.classes import abbreviate
from dataset.directory import is_empty
from dataset.formats.export import ImportOptions
from dataset.formats.record import ImportRecord
from dataset.formats.registry import require_format
from dataset.formats.source import open_source
from dataset.formats.write import Written, write_export


def import_labels(path: Path, target: Path, format_name: str | None, strict: bool) -> None:
    """Convert the export in a directory into an empty data directory, and report what was written and left out.

    Raises UsageError for directories that cannot be used, DataFaults with all faults of the export.
    """
    _check_apart(path, target)
    if not is_empty(target):
        raise UsageError(tr("{target}: holds data already: set --to to an empty directory", target=target))
    known, source = require_format(open_source(path), format_name)
    notify(f"{source.root}: {known.title}")
    export = known.read(source, ImportOptions(strict))
    record = ImportRecord(known.name, source.sha256(), export.metadata)
    written = write_export(target, source, export, record)
    if written is None:
        notify(tr("{target}: completed the interrupted import", target=target))
    else:
        _report(target, written)
    notify(tr("next: python train.py --data-dir {target} --check-only", target=target))


def _check_apart(source: Path, target: Path) -> None:
    """Raise UsageError if one directory is inside the other: the export would become part of the data, or the reverse."""
    inner, outer = source.resolve(), target.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise UsageError(
            tr(
                "{source}: must be outside of {target}, which will hold the imported data: move the export to another "
                "directory first, or set --to",
                source=source,
                target=target,
            )
        )


def _report(target: Path, written: Written) -> None:
    """Report the pairs of each split, the classes, what was left out, and the warnings."""
    names = {"": tr("without a split")}
    counts = ", ".join(f"{names.get(split, split)} {count}" for split, count in written.splits.items())
    learned = [known.name for known in written.classes if not known.ignore]
    ignored = [known.name for known in written.classes if known.ignore]
    notify(tr("{target}: {counts} pairs", target=target, counts=counts))
    notify(tr("classes: {count} ({names})", count=len(learned), names=abbreviate(learned)))
    if ignored:
        notify(tr("ignored: {names}", names=abbreviate(ignored)))
    reasons: dict[str, list[str]] = {}
    for item in written.left_out:
        reasons.setdefault(item.reason, []).append(item.file)
    for reason, files in reasons.items():
        notify(tr("left out ({reason}): {files}", reason=reason, files=abbreviate(files)))
    for warning in written.warnings:
        warn(warning.text)
