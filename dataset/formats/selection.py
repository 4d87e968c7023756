"""The file that says which model selected images for annotation; import-labels records it with the corrected result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.errors import UsageError, one_line
from core.files import read_regular
from core.hashing import file_sha256
from core.i18n import tr
from core.reporting import progress
from core.safety.checksummed_json import parse_json, verify_checksum
from dataset.faults import DataWarning
from dataset.formats.export import Export
from dataset.formats.source import Source
from utils.identifiers import RecordedRun

SELECTION_FILE = "selection.json"
# Key of the file -> key of the commit metadata.
METADATA_KEYS = {
    "run_id": "selected_by_run",
    "model_version": "selected_by_version",
    "lakefs_model_path": "selected_by_model",
    "model_sha256": "selected_by_model_sha256",
}


@dataclass(frozen=True)
class Selection:
    """Images that a model selected: the metadata for commits of their labels, and the SHA-256 of the images."""

    path: Path
    metadata: Mapping[str, str]
    images: frozenset[str]


def find_selection(source: Source, named: Path | None) -> Selection | None:
    """Return the selection of an export: the named file or directory, else the file in the export; None without one.

    Raises UsageError for a file that is missing, damaged or changed.
    """
    path = source.files.get(SELECTION_FILE)
    if named is not None:
        path = named / SELECTION_FILE if named.is_dir() else named
    return None if path is None else read_selection(path)


def read_selection(path: Path) -> Selection:
    """Return the content of a selection's file. Raises UsageError for a file that is missing, damaged or changed."""
    try:
        content: Any = parse_json(read_regular(path))
        known = {key: content[name] for name, key in METADATA_KEYS.items()}
        RecordedRun(content["run_id"])
        metadata = {key: str(value) for key, value in known.items() if value is not None}  # no version: unregistered
        images = frozenset(str(image["sha256"]) for image in content["images"])
        intact = verify_checksum(content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = one_line(error)
        raise UsageError(tr("{path}: not the file of a selection ({reason})", path=path, reason=reason)) from None
    if not intact:
        raise UsageError(tr("{path}: was changed since infer.py --select wrote it: restore it", path=path))
    return Selection(path, metadata, images)


def add_selection(export: Export, source: Source, selection: Selection) -> Export:
    """Return an export with the metadata of the selection, and a warning if it has other images too.

    Images are compared by content, because tools rename them. Raises UsageError if no image is of the selection.
    """
    items = progress(export.items, len(export.items), tr("comparing the images"), tr("images"))
    others = [item.image for item in items if not item.merged and _sha256(source, item.image) not in selection.images]
    if len(others) == len(export.items):
        raise UsageError(tr("{path}: none of the images of the export was selected there", path=selection.path))
    warnings = export.warnings
    if others:
        text = tr("images of the export that the model did not select: {count}", count=len(others))
        warnings = (*warnings, DataWarning("other-images", text))
    return replace(export, metadata={**export.metadata, **selection.metadata}, warnings=warnings)


def _sha256(source: Source, name: str) -> str:
    return file_sha256(source.files[name])


def is_selection(folder: Path) -> bool:
    """Return whether infer.py --select wrote this directory."""
    return (folder / SELECTION_FILE).is_file()


def changed_files(folder: Path, listed: Mapping[str, str], found: Iterable[Path]) -> list[str]:
    """Return the files of a directory that are not as listed (relative '/' path -> SHA-256): changed, or new."""
    names = {path.relative_to(folder).as_posix(): path for path in found}
    return sorted(name for name, path in names.items() if listed.get(name) != file_sha256(path))
