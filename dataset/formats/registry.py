"""The annotation formats that can be imported, and which of them a directory holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from core.errors import UsageError
from core.i18n import tr
from dataset.classes import abbreviate
from dataset.faults import DataFaults, Fault
from dataset.formats.export import Export, ImportOptions
from dataset.formats.raster import cvat, voc
from dataset.formats.source import Source, descend


@dataclass(frozen=True)
class Format:
    """An annotation format. `name` is stored in commits, `title` is what its users call it.

    `detect` looks at paths first, and at the content of few files only where paths do not tell; `read` raises
    DataFaults with all faults that it finds.
    """

    name: str
    title: str
    detect: Callable[[Source], bool]
    read: Callable[[Source, ImportOptions], Export]


# In the order of detection: the first that fits is taken.
FORMATS = (
    Format("cvat", "CVAT 'Segmentation mask 1.1'", cvat.detect, cvat.read),
    Format("voc", "Pascal VOC", voc.detect, voc.read),
)


def detect_format(source: Source) -> Format | None:
    """Return the format of an export, None for an unknown one."""
    return next((known for known in FORMATS if known.detect(source)), None)


def require_format(source: Source, name: str | None) -> Format:
    """Return the format of this name, without one the detected format. Raises UsageError, DataFaults."""
    if name is not None:
        named = next((known for known in FORMATS if known.name == name), None)
        if named is None:
            available = ", ".join(known.name for known in FORMATS)
            raise UsageError(tr("unknown format '{name}' (available: {available})", name=name, available=available))
        return named
    found = detect_format(source)
    if found is None:
        expected = tr("an export in one of the formats {titles}", titles=", ".join(known.title for known in FORMATS))
        raise DataFaults([Fault(f"{source.root.name}/", expected, abbreviate(source.files, 3) or tr("no files"))])
    return found


def describe_export(root: Path, files: Mapping[str, Path]) -> tuple[str, str] | None:
    """Return the title of the format that a data directory is in, and the command that imports it; None if unknown."""
    found = detect_format(descend(Source(root, files)))
    if found is None:
        return None
    return found.title, f"python lake.py import-labels {root} --to data/"
