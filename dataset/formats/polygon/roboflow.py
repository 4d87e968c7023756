"""Roboflow: {train,valid,test}/ with COCO, YOLO or masks ("Semantic Segmentation Masks")."""

from __future__ import annotations

import csv
import functools
import posixpath
from pathlib import Path

import numpy as np

from core.i18n import tr
from dataset.classes import InvalidFileError, UInt8
from dataset.decoding.files import open_image
from dataset.decoding.options import DEFAULT_READING
from dataset.directory import is_image
from dataset.faults import DataFaults, Fault
from dataset.formats.export import IGNORED_NAMES, Export, ExportClass, ExportItem, ImportOptions
from dataset.formats.polygon import coco, yolo
from dataset.formats.polygon.drawing import Findings
from dataset.formats.polygon.images import item_name, split_of_directories
from dataset.formats.source import Source

CLASS_LIST = "_classes.csv"
_MASK = "_mask.png"
_MARKS = ("readme.roboflow.txt", "readme.dataset.txt")


def detect(source: Source) -> bool:
    """Return whether the export has the files that only Roboflow writes."""
    names = {posixpath.basename(name).lower() for name in source.files}
    own_yolo = yolo.detect(source) and (names & set(_MARKS) or _yaml_names_roboflow(source))
    return CLASS_LIST in names or coco.ROBOFLOW_FILE in names or bool(own_yolo)


def _yaml_names_roboflow(source: Source) -> bool:
    return any("roboflow:" in source.read_text(name) for name in yolo.yaml_files(source))


def read(source: Source, options: ImportOptions) -> Export:
    """Return the export. Raises DataFaults with all faults of its files."""
    names = {posixpath.basename(name).lower() for name in source.files}
    if CLASS_LIST in names:
        return _read_masks(source)
    return coco.read(source, options) if coco.ROBOFLOW_FILE in names else yolo.read(source, options)


# --- masks ----------------------------------------------------------------------------------------------------


def _read_masks(source: Source) -> Export:
    """Return the export of images and `<name>_mask.png`, whose pixels are the numbers of `_classes.csv`."""
    findings = Findings()
    classes = _read_classes(source, findings)
    masks = {name for name in source.files if name.endswith(_MASK)}
    images = [name for name in source.files if is_image(name) and name not in masks]
    items = []
    for image in sorted(images):
        mask = image.rpartition(".")[0] + _MASK
        if mask not in masks:
            findings.add(mask, tr("the mask of {image}", image=image), tr("no such file"))
            continue
        masks.discard(mask)
        read_mask = functools.partial(_read_values, source.files[mask])
        items.append(ExportItem(item_name(image), split_of_directories(image), image, read_mask, mask))
    for mask in sorted(masks):
        findings.add(mask, tr("the image of this mask"), tr("no such file"))
    findings.raise_faults()
    return Export(tuple(classes), tuple(items))


def _read_classes(source: Source, findings: Findings) -> list[ExportClass]:
    """Return the classes, the same in every `_classes.csv`."""
    files = sorted(name for name in source.files if posixpath.basename(name) == CLASS_LIST)
    first: dict[int, str] = {}
    for file in files:
        names: dict[int, str] = {}
        for number, row in enumerate(csv.reader(source.read_text(file).splitlines()), 1):
            cells = [cell.strip() for cell in row]
            if not any(cells) or (number == 1 and not cells[0].isdecimal()):
                continue  # the header "Pixel Value, Class"
            if len(cells) != 2 or not cells[0].isdecimal() or int(cells[0]) > 255 or not cells[1]:
                expected = tr("lines of pixel value (0 to 255) and class")
                findings.add(file, expected, tr("line {number}: {text}", number=number, text=", ".join(row)))
            elif names.setdefault(int(cells[0]), cells[1]) != cells[1]:
                findings.add(file, tr("each pixel value once"), tr("{value} twice", value=cells[0]))
        first = first or names
        if names != first:
            findings.add(file, tr("the classes of {file}", file=files[0]), tr("other classes"))
    if not first and not findings.faults:
        raise DataFaults([Fault(files[0], tr("lines of pixel value (0 to 255) and class"), tr("none"))])
    return [ExportClass(value, name, None, name.lower() in IGNORED_NAMES) for value, name in sorted(first.items())]


def _read_values(path: Path) -> UInt8:
    """Return the pixel values (H,W) uint8 of a mask. Raises InvalidFileError for anything but 8-bit values."""
    with open_image(path.read_bytes(), DEFAULT_READING) as image:
        if image.mode not in ("L", "P"):
            raise InvalidFileError((tr("an 8-bit mask (pixel = class id)"), tr("mode '{mode}'", mode=image.mode)))
        return np.array(image)
