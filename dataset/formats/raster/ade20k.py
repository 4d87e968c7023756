"""Read ADE20K's scene parsing data: images/training/, annotations/training/ and the names in objectInfo150.txt."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

from core.i18n import tr
from dataset.classes import UInt8
from dataset.faults import DataFaults, Fault
from dataset.formats.export import Export, ExportClass, ImportOptions
from dataset.formats.raster.colors import MAX_CLASSES, read_ids
from dataset.formats.raster.pairs import match_directories
from dataset.formats.source import Source

NAME_FILE = "objectInfo150.txt"
SPLIT_OF_DIRECTORY = {"training": "train", "validation": "val", "testing": "test"}
OTHER = ExportClass(0, "other objects", (0, 0, 0), ignore=True, optional=True)  # in no metric of the benchmark


def detect(source: Source) -> bool:
    """Return whether there is an objectInfo150.txt beside annotations/training/ or annotations/validation/."""
    masks = any(source.below(f"annotations/{directory}/") for directory in SPLIT_OF_DIRECTORY)
    return NAME_FILE in source.files and masks


def read(source: Source, _options: ImportOptions) -> Export:
    """Return the export with its own ids; 0, objects of other classes, is ignored. Raises DataFaults."""
    classes = (OTHER, *_read_names(source))
    possible = [known.id for known in classes]

    def decoder(mask: str) -> Callable[[], UInt8]:
        return functools.partial(read_ids, source.files[mask], possible)

    places = ((split, f"images/{name}/", f"annotations/{name}/") for name, split in SPLIT_OF_DIRECTORY.items())
    items, left_out = match_directories(source, places, decoder)
    return Export(classes, items, left_out)


def _read_names(source: Source) -> list[ExportClass]:
    """Return the classes of the tab-separated list, whose columns Idx and Name count. Raises DataFaults."""
    header, *lines = [
        [cell.strip() for cell in line.split("\t")] for line in source.read_text(NAME_FILE).splitlines() if line.strip()
    ] or [[]]
    if not {"Idx", "Name"} <= set(header):
        found = ", ".join(header) or tr("no header")
        raise DataFaults([Fault(NAME_FILE, tr("the columns {columns}", columns="Idx, Name"), found)])
    classes: dict[int, ExportClass] = {}
    faults = []
    for number, cells in enumerate(lines, 2):
        row = dict(zip(header, cells, strict=False))
        value = int(row["Idx"]) if re.fullmatch(r"[0-9]{1,3}", row.get("Idx", "")) else 0
        if not 1 <= value < MAX_CLASSES or not row.get("Name") or value in classes:
            found = tr("'{row}' (line {number})", row=" ".join(cells), number=number)
            faults.append(Fault(NAME_FILE, tr("each id once, from 1 to 254, with a name"), found))
        else:
            classes[value] = ExportClass(value, row["Name"])
    if faults:
        raise DataFaults(faults)
    return list(classes.values())
