"""Read CVAT's "Segmentation mask 1.1", and VOC data with a labelmap.txt: names and colours are in that file."""

from __future__ import annotations

import re

from core.i18n import tr
from dataset.faults import DataFaults, Fault
from dataset.formats.export import Export, ExportClass, ImportOptions
from dataset.formats.raster.colors import Rgb, check_color_list, classes_by_order
from dataset.formats.raster.voc import BORDER, BORDER_COLOR
from dataset.formats.raster.voc_layout import mask_directory, read_items
from dataset.formats.source import Source

LABELMAP = "labelmap.txt"
_ROW = re.compile(
    r"(.+?):\s*([0-9]{1,3})\s*,\s*([0-9]{1,3})\s*,\s*([0-9]{1,3})\s*:[^:]*:[^:]*"
)  # label:color_rgb:parts:actions


def detect(source: Source) -> bool:
    """Return whether there is a labelmap.txt beside class masks."""
    return LABELMAP in source.files and mask_directory(source) is not None


def read(source: Source, _options: ImportOptions) -> Export:
    """Return the export; ids are the positions in labelmap.txt, and VOC's border is ignored. Raises DataFaults."""
    classes = _read_labelmap(source)
    ids = {known.color: known.id for known in classes if known.color is not None}
    if BORDER_COLOR not in ids:
        ids[BORDER_COLOR] = BORDER.id
        classes = (*classes, BORDER)
    items, left_out = read_items(source, ids)
    return Export(classes, items, left_out)


def _read_labelmap(source: Source) -> tuple[ExportClass, ...]:
    """Return the classes of labelmap.txt. Raises DataFaults."""
    rows: list[tuple[str, Rgb]] = []
    faults = []
    for number, line in enumerate(source.read_text(LABELMAP).splitlines(), 1):
        row = line.strip()
        if not row or row.startswith("#"):
            continue
        match = _ROW.fullmatch(row)
        color = (int(match[2]), int(match[3]), int(match[4])) if match else None
        if match is None or color is None or max(color) > 255:
            found = tr("'{row}' (line {number})", row=row, number=number)
            faults.append(Fault(LABELMAP, "label:red,green,blue:parts:actions", found))
        else:
            rows.append((match[1].strip(), color))
    faults += [] if faults else check_color_list(LABELMAP, rows)
    if faults:
        raise DataFaults(faults)
    return classes_by_order(rows)
