"""check.html in the data directory: the first pairs with their masks drawn over the images, to see what does not fit."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from core.figures import format_share
from core.i18n import tr, trn
from core.pages.cards import Card, Gallery, Panel
from core.reporting import notify, warn
from core.safety import html
from dataset.checks.inspection import Inspection
from dataset.classes import IGNORE_INDEX, ClassMap, InvalidFileError, UInt8, build_classes
from dataset.decoding.files import open_image
from dataset.decoding.image import to_preview
from dataset.decoding.mask import MaskPixels, bilevel_high, decode_mask
from dataset.decoding.mask_colors import format_color
from dataset.decoding.samples import decode_raw
from dataset.directory import CHECK_PAGE, SPLITS, is_check_page
from dataset.faults import Fault
from dataset.overlay import class_legend, css_color, overlay, panel
from dataset.pair_reading import PairContent

TEMPLATE = Path(__file__).with_name("check.html")
PAIRS = 6
SIDE = 480  # pixels, largest side of a drawn image
SHOWN_FAULTS = 20
UNKNOWN = (255, 0, 255)  # of pixels without a class
IGNORED = (96, 176)  # two greys in stripes: a class may have any one colour
STRIPE = 4  # pixels


def write_page(inspection: Inspection) -> None:
    """Write the page into the data directory and report its path; a file that is not ours stays, with a warning."""
    path = inspection.root / CHECK_PAGE
    if os.path.lexists(path) and not is_check_page(path):
        warn(tr("{path}: not written by train.py, so the overlays are not stored there: rename it", path=path))
        return
    contents = _choose(inspection)
    if not contents:
        path.unlink(missing_ok=True)  # that of other data
        return
    try:
        html.write_page(path, TEMPLATE, **_fields(inspection, contents))
    except OSError as error:
        warn(tr("{path}: cannot write ({reason})", path=path, reason=error.strerror))
        return
    notify(
        trn(
            "overlay of the first pair: {path}", "overlays of the first {count} pairs: {path}", len(contents), path=path
        )
    )


def _choose(inspection: Inspection) -> list[PairContent]:
    """Return the first readable pairs, those with a fault before the others."""
    faulty = {fault.file for fault in inspection.faults}
    readable = [content for content in inspection.contents if content.image_size is not None]
    with_fault = [c for c in readable if c.candidate.mask in faulty or c.candidate.image in faulty]
    return [*with_fault, *(c for c in readable if c not in with_fault)][:PAIRS]


def _fields(inspection: Inspection, contents: list[PairContent]) -> dict[str, Any]:
    """Return what the template shows."""
    classes = inspection.classes or _classes_of_values(contents)
    legend = [
        (format_color(color), f"{value}: {name}")
        for value, name, color in zip(classes.ids, classes.names, classes.colors, strict=True)
    ]
    if classes.ignore_ids:
        legend.append(("", tr("ignored")))  # striped
    legend.append((format_color(UNKNOWN), tr("unknown value")))
    faults = sorted(set(inspection.faults))
    gallery = Gallery(
        "pairs",
        tr("Images and masks ({shown} of {count})", shown=len(contents), count=len(inspection.contents)),
        [_card(inspection, content, classes, place) for place, content in enumerate(contents)],
        classes.names,
        legend,
        ("image", "overlay"),
        [("first", tr("faults first") if faults else tr("order of the data")), ("name", tr("name"))],
    )
    count_head, count_rows = _class_table(inspection)
    return {
        "title": tr("Data check"),
        "figures": _figures(inspection, classes),
        "count_head": count_head,
        "count_rows": count_rows,
        "colors": dict(zip(classes.names, map(css_color, classes.colors), strict=True)),
        "directory": str(inspection.root),
        "gallery": gallery,
        "faults": [(fault.file, fault.expected, fault.found) for fault in faults[:SHOWN_FAULTS]],
        "fault_title": tr("Faults ({shown} of {count})", shown=min(len(faults), SHOWN_FAULTS), count=len(faults)),
        "warnings": [warning.text for warning in inspection.warnings],
    }


def _figures(inspection: Inspection, classes: ClassMap) -> list[tuple[str, str]]:
    """Return the pairs of each split that is assigned, and the number of classes."""
    counts = Counter(content.candidate.split for content in inspection.contents)
    pairs = [(tr("pairs in {split}", split=split), f"{counts[split]:,}") for split in SPLITS if counts[split]]
    return [*pairs, (tr("classes"), str(classes.num_classes))]


def _class_table(inspection: Inspection) -> tuple[list[str], list[list[str]]]:
    """Return head and rows: the fraction of each class among the labelled pixels of each split; none without classes."""
    if inspection.classes is None:
        return [], []
    counts, classes = inspection.class_counts(), inspection.classes
    totals = {split: max(1, sum(counted[value] for value in classes.ids)) for split, counted in counts.items()}
    rows = [
        [name, *(format_share(counts[split][value] / total) for split, total in totals.items())]
        for value, name in zip(classes.ids, classes.names, strict=True)
    ]
    return [tr("class"), *totals], rows if totals else []


def _classes_of_values(contents: list[PairContent]) -> ClassMap:
    """Return a class for each value of these masks, where the classes are not known."""
    values = sorted(set(Counter(value for content in contents for value in content.values or ())))
    return build_classes((value, f"class_{value}", None, False) for value in values[:255])


def _card(inspection: Inspection, content: PairContent, classes: ClassMap, place: int) -> Card:
    """Return the image, its mask and both together; the mask as a viewer shows it where its values cannot be read."""
    candidate = content.candidate
    notes = [_describe(fault) for fault in inspection.faults if fault.file in (candidate.image, candidate.mask)]
    data = inspection.files[candidate.image].read_bytes()
    full = to_preview(decode_raw(data, inspection.reading, page=candidate.page))
    scale = min(1.0, SIDE / max(full.shape[:2]))
    image = _scaled(full, scale, Image.Resampling.BOX)
    panels, present = [panel("image", tr("image"), image)], list[int]()
    mask_data = inspection.files[candidate.mask].read_bytes()
    try:
        mask = decode_mask(mask_data, inspection.classes, inspection.reading, candidate.page)
    except InvalidFileError:
        panels += _plain_panels(mask_data, inspection, scale)
    else:
        indices, unknown = _class_indices(mask, classes)
        present = [int(index) for index in np.unique(indices) if index < classes.num_classes]
        indices, unknown = (_scaled(pixels, scale, Image.Resampling.NEAREST) for pixels in (indices, unknown))
        panels.append(panel("mask", tr("mask"), _draw(indices, unknown, classes), "PNG"))
        panels.append(panel("overlay", tr("overlay"), _draw_over(image, indices, unknown, classes)))
    return Card(
        candidate.name,
        panels,
        value=place,
        class_values={str(index): place for index in present},
        note=candidate.split,
        faults=notes,
        legend=class_legend(classes, present),
    )


def _describe(fault: Fault) -> str:
    return tr("expected {e}, found {f}", e=fault.expected, f=fault.found)


def _class_indices(mask: MaskPixels, classes: ClassMap) -> tuple[UInt8, UInt8]:
    """Return class indices (H,W) uint8, and 255 (H,W) uint8 where the value is unknown."""
    values = mask.values * np.uint8(bilevel_high(classes.known)) if mask.bilevel else mask.values
    known = np.zeros(256, np.bool_)
    known[list(classes.known)] = True
    index = np.full(256, IGNORE_INDEX, np.uint8)
    index[list(classes.ids)] = np.arange(classes.num_classes, dtype=np.uint8)
    return index[values], np.where(known, 0, 255).astype(np.uint8)[values]


def _draw(indices: UInt8, unknown: UInt8, classes: ClassMap) -> UInt8:
    """Return the mask in the colours of its classes, (H,W,3) uint8."""
    colors = np.zeros((256, 3), np.uint8)
    colors[: classes.num_classes] = classes.colors
    drawn: UInt8 = colors[indices]
    rows, columns = np.ogrid[: indices.shape[0], : indices.shape[1]]
    stripes = np.array(IGNORED, np.uint8)[(rows + columns) // STRIPE % 2]
    ignored = indices == IGNORE_INDEX
    drawn[ignored] = stripes[ignored, None]
    drawn[unknown > 0] = UNKNOWN
    return drawn


def _draw_over(image: UInt8, indices: UInt8, unknown: UInt8, classes: ClassMap) -> UInt8:
    """Return the overlay at the image's size; a mask of another size lies at the top left, as it would if it were read."""
    height, width = (min(a, b) for a, b in zip(image.shape[:2], indices.shape, strict=True))
    placed = np.full(image.shape[:2], IGNORE_INDEX, np.uint8)
    placed[:height, :width] = indices[:height, :width]
    drawn = overlay(image, placed, classes).copy()
    drawn[:height, :width][unknown[:height, :width] > 0] = UNKNOWN
    return drawn


def _scaled(pixels: UInt8, scale: float, method: Image.Resampling) -> UInt8:
    """Return pixels (H,W[,3]) at a scale of at most 1, the same for image and mask."""
    if scale == 1:
        return pixels
    size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, method))


def _plain_panels(data: bytes, inspection: Inspection, scale: float) -> list[Panel]:
    """Return the mask file as a viewer shows it, where its values cannot be read; nothing if it is not even an image."""
    try:
        with open_image(data, inspection.reading) as image:
            pixels = _scaled(np.asarray(image.convert("RGB")), scale, Image.Resampling.NEAREST)
    except (InvalidFileError, ValueError):  # Pillow has modes that it does not convert
        return []
    return [panel("mask", tr("mask"), pixels, "PNG")]
