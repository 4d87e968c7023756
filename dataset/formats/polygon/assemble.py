"""Put together what a reader found: classes with mask values, and images with masks that are drawn when needed."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from core.i18n import tr
from dataset.formats.export import Export, ExportItem, ImportOptions
from dataset.formats.polygon.drawing import Drawing, Findings
from dataset.formats.polygon.numbering import Category, number_classes


def assemble(
    drawings: Sequence[Drawing],
    categories: Sequence[Category],
    findings: Findings,
    options: ImportOptions,
    file: str,
) -> Export:
    """Return the export; `file` is where the classes come from. Raises DataFaults with everything found so far."""
    if not findings.faults and not any(drawing.shapes for drawing in drawings):
        findings.add(
            file or next((drawing.file for drawing in drawings), ""),
            tr("at least one object with an outline"),
            tr("none"),
        )
    findings.raise_faults()
    numbering = number_classes(categories, drawings, file)
    items = tuple(
        ExportItem(
            name=drawing.name,
            split=drawing.split,
            image=drawing.image,
            mask=functools.partial(drawing.mask, numbering.ids, numbering.background, options.strict),
            mask_file=drawing.file,
            merged=drawing.content,
            merged_suffix=drawing.suffix,
        )
        for drawing in drawings
    )
    warnings = (*findings.all_warnings(), *numbering.warnings)
    return Export(numbering.classes, items, tuple(findings.left_out), warnings)
