"""The directories of Pascal VOC, which CVAT uses too: JPEGImages, SegmentationClass and ImageSets/Segmentation."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import PurePosixPath

from core.i18n import tr
from dataset.directory import composed, images_below, is_image
from dataset.faults import DataFaults, Fault, LeftOut
from dataset.formats.export import ExportItem
from dataset.formats.raster.colors import Rgb, read_coded_mask
from dataset.formats.raster.pairs import check_pair, leave_out
from dataset.formats.source import Source

MASK_DIRECTORIES = ("SegmentationClass/", "SegmentationClassPNG/")
IMAGE_DIRECTORIES = ("JPEGImages/", "images/")
LISTS = "ImageSets/Segmentation/"
SPLIT_OF_LIST = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def mask_directory(source: Source) -> str | None:
    """Return the directory of the class masks; None in other formats."""
    return next((name for name in MASK_DIRECTORIES if any(map(is_image, source.below(name)))), None)


def read_items(source: Source, ids: Mapping[Rgb, int]) -> tuple[tuple[ExportItem, ...], tuple[LeftOut, ...]]:
    """Return the items whose masks have the colours of `ids`, and the files that are left out.

    Raises DataFaults for contradictory lists, listed names without files, and masks without an image.
    """
    folder = mask_directory(source)
    assert folder is not None  # otherwise the format would not have been detected
    masks, images = images_below(source.files, folder), _find_images(source)
    splits, faults = _read_lists(source)
    listed = splits or dict.fromkeys(masks)
    unlabelled = _splits_without_masks(splits, masks)
    items: list[ExportItem] = []
    left_out: list[LeftOut] = []
    for name, split in sorted(listed.items()):
        if split in unlabelled:
            left_out += leave_out(images.get(name, []), tr("no mask"))
            continue
        pair = images.get(name, []), masks.get(name, [])
        found = check_pair(*pair)
        if not any(pair):
            found = [Fault(LISTS, tr("names of images and masks"), tr("'{name}': no such files", name=name))]
        faults += found
        if not found:
            image, mask = pair[0][0], pair[1][0]
            decode = functools.partial(read_coded_mask, source.files[mask], ids)
            items.append(ExportItem(name, split, image, decode, mask))
    for name in sorted(masks.keys() - listed.keys()):
        if name in images:
            left_out += leave_out(masks[name], tr("in no list of {lists}", lists=LISTS))
        else:
            faults += check_pair([], masks[name])
    for name in sorted(images.keys() - listed.keys() - masks.keys()):
        left_out += leave_out(images[name], tr("no mask"))
    if not images:
        expected = tr("the images (in CVAT: export with 'Save images', or copy them here)")
        faults = [Fault("JPEGImages/", expected, tr("none"))]
    if faults:
        raise DataFaults(faults)
    return tuple(items), tuple(left_out)


def _find_images(source: Source) -> dict[str, list[str]]:
    """Return name -> images: of JPEGImages/ or images/, else of all other directories."""
    for folder in IMAGE_DIRECTORIES:
        found = images_below(source.files, folder)
        if found:
            return found
    tops = {name.partition("/")[0] + "/" for name in source.files if "/" in name}
    images: dict[str, list[str]] = {}
    for folder in sorted(top for top in tops if not top.startswith("Segmentation")):
        for name, paths in images_below(source.files, folder).items():
            images.setdefault(name, []).extend(paths)
    for path in source.files:
        if "/" not in path and is_image(path):
            images.setdefault(composed(PurePosixPath(path).stem), []).append(path)
    return images


def _read_lists(source: Source) -> tuple[dict[str, str | None], list[Fault]]:
    """Return listed name -> split, and a fault for each name in two splits.

    A name that only other lists contain (default.txt, trainval.txt) has no split.
    """
    splits: dict[str, str | None] = {}
    faults = []
    for path in source.below(LISTS):
        split = SPLIT_OF_LIST.get(PurePosixPath(path).stem.lower())
        if not path.endswith(".txt"):
            continue
        for number, row in enumerate(source.read_text(path).splitlines(), 1):
            name = composed(row.strip().replace("\\", "/"))
            if not name:
                continue
            other = splits.setdefault(name, split)
            if other is None:
                splits[name] = split
            elif split is not None and other != split:
                found = tr("'{name}' (line {number}): also in {other}", name=name, number=number, other=other)
                faults.append(Fault(path, tr("each image in one split"), found))
    return splits, faults


def _splits_without_masks(splits: Mapping[str, str | None], masks: Mapping[str, object]) -> set[str]:
    """Return "test" if none of its images has a mask: those of a challenge are not public."""
    test = [name for name, split in splits.items() if split == "test"]
    return {"test"} if test and not any(name in masks for name in test) else set()
