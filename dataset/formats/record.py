"""The record of an import beside the data: format, hash of the export, and what the import warned about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import UsageError, one_line
from core.files import read_regular, write_atomically
from core.i18n import tr
from core.safety.checksummed_json import parse_json
from dataset.faults import DataWarning

RECORD_FILE = "label_source.json"  # versioned with the data, so that every later commit names the source too


@dataclass(frozen=True)
class ImportRecord:
    """Where the labels of a data directory come from; `sha256` is `Source.sha256` of the export."""

    format: str
    sha256: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[DataWarning, ...] = ()

    def write(self, root: Path) -> None:
        """Write the record into a data directory."""
        content = {
            "format": self.format,
            "sha256": self.sha256,
            "metadata": dict(self.metadata),
            "warnings": [{"kind": warning.kind, "text": warning.text} for warning in self.warnings],
        }
        write_atomically(root / RECORD_FILE, (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode())


def read_record(root: Path) -> ImportRecord | None:
    """Return the record of a data directory; None if its labels were not imported. Raises UsageError if it is damaged."""
    path = root / RECORD_FILE
    try:
        content = parse_json(read_regular(path))
        return _parse(content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = one_line(error)
        raise UsageError(
            tr(
                "{path}: not the record of an import ({reason}): restore it, or delete it to forget the source of the labels",
                path=path,
                reason=reason,
            )
        ) from None


def _parse(content: Any) -> ImportRecord:
    warnings = (DataWarning(str(entry["kind"]), str(entry["text"])) for entry in content["warnings"])
    metadata = {str(key): str(value) for key, value in content["metadata"].items()}
    return ImportRecord(str(content["format"]), str(content["sha256"]), metadata, tuple(warnings))


def source_metadata(root: Path) -> dict[str, str]:
    """Return the metadata for commits of a data directory: format and hash of the export that its labels come from.

    Empty for labels that were not imported. Raises UsageError for a damaged record.
    """
    record = read_record(root)
    if record is None:
        return {}
    return {**record.metadata, "label_format": record.format, "label_source_sha256": record.sha256}


def import_warnings(root: Path) -> tuple[DataWarning, ...]:
    """Return what the import of this data was uncertain about. Raises UsageError for a damaged record."""
    record = read_record(root)
    return record.warnings if record is not None else ()
