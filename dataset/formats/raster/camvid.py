"""Read Kaggle's CamVid: train/ + train_labels/, val/, test/, and colours in class_dict.csv."""

from __future__ import annotations

import csv
import functools
import io
import re
from collections.abc import Callable, Collection

from core.i18n import tr
from dataset.classes import UInt8
from dataset.directory import is_image
from dataset.faults import DataFaults, Fault
from dataset.formats.export import Export, ExportClass, ImportOptions
from dataset.formats.raster.colors import Rgb, check_color_list, classes_by_order, read_coded_mask
from dataset.formats.raster.pairs import leave_out, match_directories
from dataset.formats.source import Source

CLASS_FILE = "class_dict.csv"
COLUMNS = ("name", "r", "g", "b")
DIRECTORIES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
MASK_SUFFIXES = ("_L", "_label", "_mask")  # of the mask's name, behind the image's name


def detect(source: Source) -> bool:
    """Return whether there is a class_dict.csv beside directories such as train_labels/."""
    labels = any(source.below(f"{directory}_labels/") for directory in DIRECTORIES)
    return CLASS_FILE in source.files and labels


def read(source: Source, _options: ImportOptions) -> Export:
    """Return the export; ids are the positions in class_dict.csv. Raises DataFaults."""
    classes = _read_class_file(source)
    ids = {known.color: known.id for known in classes if known.color is not None}

    def decoder(mask: str) -> Callable[[], UInt8]:
        return functools.partial(read_coded_mask, source.files[mask], ids)

    places = ((split, f"{name}/", f"{name}_labels/") for name, split in DIRECTORIES.items())
    items, left_out = match_directories(source, places, decoder, _image_name)
    known = tuple(f"{name}{part}/" for name in DIRECTORIES for part in ("", "_labels"))
    others = [name for name in source.files if is_image(name) and not name.startswith(known)]
    return Export(classes, items, (*left_out, *leave_out(others, tr("not in a directory such as train/"))))


def _image_name(mask: str, images: Collection[str]) -> str:
    """Return the name of a mask's image, which lacks the mask's suffix."""
    names = (mask, *(mask.removesuffix(suffix) for suffix in MASK_SUFFIXES))
    return next((name for name in names if name in images), mask)


def _read_class_file(source: Source) -> tuple[ExportClass, ...]:
    """Return the classes of class_dict.csv. Raises DataFaults."""
    lines = csv.reader(io.StringIO(source.read_text(CLASS_FILE), newline=""), skipinitialspace=True)
    try:
        table = [(lines.line_num, [cell.strip() for cell in cells]) for cells in lines if any(cells)]
    except csv.Error as error:
        raise DataFaults([Fault(CLASS_FILE, tr("a readable CSV file"), str(error))]) from None
    header = [cell.lower() for cell in table[0][1]] if table else []
    if sorted(header) != sorted(COLUMNS):
        found = ", ".join(header) or tr("no header")
        raise DataFaults([Fault(CLASS_FILE, tr("the columns {columns}", columns=", ".join(COLUMNS)), found)])
    rows: list[tuple[str, Rgb]] = []
    faults = []
    for number, cells in table[1:]:
        entry = dict(zip(header, cells, strict=False))
        color = tuple(_channel(entry.get(key, "")) for key in "rgb")
        if len(cells) != len(header) or not entry["name"] or max(color) > 255:
            found = tr("'{row}' (line {number})", row=",".join(cells), number=number)
            faults.append(Fault(CLASS_FILE, "name,r,g,b", found))
        else:
            rows.append((entry["name"], (color[0], color[1], color[2])))
    faults += [] if faults else check_color_list(CLASS_FILE, rows)
    if faults:
        raise DataFaults(faults)
    return classes_by_order(rows)


def _channel(text: str) -> int:
    """Return a number from 0 to 999; 256 for anything else, which is too large for a colour."""
    return int(text) if re.fullmatch(r"[0-9]{1,3}", text) else 256
