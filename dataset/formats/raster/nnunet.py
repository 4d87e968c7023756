"""Read nnU-Net's raw data of 2-D images: dataset.json, imagesTr/CASE_0000.png, labelsTr/CASE.png."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from core.i18n import tr
from dataset.classes import InvalidFileError, UInt8, abbreviate
from dataset.decoding.files import DECODE_ERRORS, FORMATS
from dataset.decoding.options import DEFAULT_READING
from dataset.decoding.samples import decode_raw
from dataset.directory import IMAGE_SUFFIXES, images_below
from dataset.faults import DataFaults, Fault, LeftOut
from dataset.formats.export import IGNORED_NAMES, Export, ExportClass, ExportItem, ImportOptions
from dataset.formats.raster.colors import read_ids
from dataset.formats.raster.pairs import leave_out, match_pairs
from dataset.formats.source import Source

DATASET_FILE = "dataset.json"
PARTS = (("imagesTr/", "labelsTr/", "train"), ("imagesTs/", "labelsTs/", "test"))
_CHANNEL = re.compile(r"(.+)_(\d{4})")  # case and channel
RGB_FILES = 3  # channels of 8 bits in files of their own that become one RGB image


def detect(source: Source) -> bool:
    """Return whether there is a dataset.json beside imagesTr/ or labelsTr/."""
    return DATASET_FILE in source.files and any(source.below(folder) for folder in PARTS[0][:2])


def read(source: Source, _options: ImportOptions) -> Export:
    """Return the export; its test images count only where they have masks. Raises DataFaults."""
    content = source.read_json(DATASET_FILE)
    if not isinstance(content, dict):
        raise DataFaults([Fault(DATASET_FILE, tr("an object with channel_names and labels"), type(content).__name__)])
    _require_2d(source, content)
    classes, faults = _read_labels(content.get("labels"))
    channels = content.get("channel_names", content.get("modality"))
    if not isinstance(channels, dict) or not channels:
        faults.append(Fault(DATASET_FILE, '"channel_names": {"0": "..."}', repr(channels)))
        channels = {"0": ""}
    if faults:
        raise DataFaults(faults)
    items: list[ExportItem] = []
    left_out: list[LeftOut] = []
    tested = bool(images_below(source.files, "labelsTs/"))
    for image_folder, mask_folder, split in PARTS:
        masks = images_below(source.files, mask_folder)
        cases, found = _read_cases(source, image_folder, len(channels))
        faults += found
        if split == "test" and not masks:
            left_out += leave_out([path for paths in cases.values() for path in paths], tr("no mask"))
            continue
        first = {case: paths[:1] for case, paths in cases.items()}
        pairs, found = match_pairs(first, masks, split if tested else None, _decoder(source, classes))
        items += [_with_channels(source, item, cases[item.name]) for item in pairs]
        faults += found
    count = content.get("numTraining")
    training = sum(item.split != "test" for item in items)
    if not faults and isinstance(count, int) and count != training:
        faults.append(Fault(DATASET_FILE, tr("as many cases as numTraining: {count}", count=count), str(training)))
    if faults:
        raise DataFaults(faults)
    return Export(classes, tuple(items), tuple(left_out))


def _decoder(source: Source, classes: Sequence[ExportClass]) -> Callable[[str], Callable[[], UInt8]]:
    known = [known.id for known in classes]
    return lambda mask: functools.partial(read_ids, source.files[mask], known)


def _require_2d(source: Source, content: Mapping[str, Any]) -> None:
    """Raise DataFaults for volumes: this project trains on 2-D images."""
    ending = content.get("file_ending", "")
    volumes = [name for name in source.below("imagesTr/") if not name.lower().endswith(IMAGE_SUFFIXES)]
    if volumes or (ending and str(ending).lower() not in IMAGE_SUFFIXES):
        expected = tr("2-D images ({suffixes}): convert volumes to slices first", suffixes=" ".join(IMAGE_SUFFIXES))
        raise DataFaults([Fault("imagesTr/", expected, abbreviate(volumes, 3) or str(ending))])


def _read_labels(labels: object) -> tuple[tuple[ExportClass, ...], list[Fault]]:
    """Return the classes of {name: id}, or of {id: name} as version 1 wrote it, and the faults."""
    if not isinstance(labels, dict) or not labels:
        return (), [Fault(DATASET_FILE, '"labels": {"background": 0, ...}', repr(labels))]
    classes: list[ExportClass] = []
    faults = []
    seen: dict[int, str] = {}
    for key, value in labels.items():
        by_id = isinstance(value, str) and re.fullmatch(r"[0-9]{1,3}", key)
        name, number = (value, int(key)) if by_id else (key, value)
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= 255:
            expected = tr("one id from 0 to 255 for each label (regions of several ids cannot be imported)")
            faults.append(Fault(DATASET_FILE, expected, f"{key!r}: {value!r}"))
        elif number in seen:
            faults.append(Fault(DATASET_FILE, tr("each id once"), f"{number}: '{seen[number]}', '{name}'"))
        else:
            seen[number] = str(name)
            classes.append(ExportClass(number, str(name), ignore=str(name).lower() in IGNORED_NAMES))
    return tuple(sorted(classes, key=lambda known: known.id)), faults


def _read_cases(source: Source, folder: str, channels: int) -> tuple[dict[str, list[str]], list[Fault]]:
    """Return case -> its files by channel, and the faults. A case is one file, or as many files as there are channels."""
    cases: dict[str, dict[int, list[str]]] = {}
    faults = []
    for name, paths in images_below(source.files, folder).items():
        match = _CHANNEL.fullmatch(name)
        if match is None:
            faults += [Fault(path, tr("a name such as CASE_0000"), name) for path in paths]
        else:
            cases.setdefault(match[1], {}).setdefault(int(match[2]), []).extend(paths)
    found: dict[str, list[str]] = {}
    for case, files in sorted(cases.items()):
        listed = [path for channel in sorted(files) for path in files[channel]]
        if sorted(files) != list(range(len(listed))) or len(listed) not in (1, channels):
            expected = tr("one file, or the channels 0000 to {last:04d}", last=channels - 1)
            faults.append(Fault(f"{folder}{case}_*", expected, abbreviate(listed, 4)))
        found[case] = listed  # also with a fault: its mask has a partner
    return found, faults


def _with_channels(source: Source, item: ExportItem, files: Sequence[str]) -> ExportItem:
    """Return the item; channels in files of their own are merged, three of 8 bits into RGB."""
    if len(files) == 1:
        return item
    merge = functools.partial(_merge_channels, source, files)
    return replace(item, merged=merge, merged_suffix=".png" if _is_rgb(source, files) else ".tif")


def _is_rgb(source: Source, files: Sequence[str]) -> bool:
    return len(files) == RGB_FILES and all(_mode(source.files[path]) == "L" for path in files)


def _mode(path: Path) -> str:
    """Return Pillow's mode of an image; empty for one that it does not know."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.mode
    except DECODE_ERRORS:
        return ""


def _merge_channels(source: Source, files: Sequence[str]) -> bytes:
    """Return an image of several one-band images: PNG of RGB, else TIFF. Raises InvalidFileError for other images."""
    planes = []
    for path in files:
        image = decode_raw(source.files[path].read_bytes(), DEFAULT_READING)
        if image.bands != 1:
            raise InvalidFileError((tr("one band in each file"), f"{path}: {image.bands}"))
        planes.append(image.pixels[..., 0])
    if len({(plane.shape, plane.dtype) for plane in planes}) > 1:
        found = ", ".join(f"{plane.shape[1]}x{plane.shape[0]} {plane.dtype}" for plane in planes)
        raise InvalidFileError((tr("channels of one size and type"), found))
    pixels, buffer = np.stack(planes, axis=2), io.BytesIO()
    if _is_rgb(source, files):
        Image.fromarray(pixels).save(buffer, "PNG")
    else:
        import tifffile

        tifffile.imwrite(buffer, pixels, photometric="minisblack", planarconfig="contig")
    return buffer.getvalue()
