"""Reuse the predictions of an interrupted job: of the same model and settings, from inputs and files that are unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import UsageError
from core.hashing import file_sha256
from core.i18n import tr
from inference.earlier.listing import is_complete
from inference.origin import SELECTED_BY

if TYPE_CHECKING:
    from inference.outputs import OutputDirectory


def read_matching(outputs: OutputDirectory, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the records of an earlier job by the name of their mask. Raises UsageError if it had other settings."""
    earlier, records = outputs.read_finished()
    # The same model by another name is the same job.
    compared = [key for key in settings if key != SELECTED_BY] if records else []
    differs = next((key for key in compared if earlier.get(key) != settings[key]), None)
    if differs is not None:
        raise UsageError(
            tr(
                "{folder}: contains another job ({key}: {old}, now {new}): run without "
                "--resume or choose another --output",
                folder=outputs.folder,
                key=differs,
                old=earlier.get(differs),
                new=settings[differs],
            )
        )
    return {record["mask"]: record for record in records}


def is_unchanged(record: Mapping[str, Any], image: Path, files: Mapping[str, Path]) -> bool:
    """Return whether a complete record still has the SHA-256 of its input and of its files, by their keys."""
    if not is_complete(record):
        return False
    try:
        return file_sha256(image) == record["input_sha256"] and all(
            file_sha256(path) == record[f"{key}_sha256"] for key, path in files.items()
        )
    except (FileNotFoundError, KeyError):
        return False
