"""Match images with masks by name, for formats that keep both in directories."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from core.i18n import tr
from dataset.classes import UInt8, abbreviate
from dataset.directory import images_below
from dataset.faults import DataFaults, Fault, LeftOut
from dataset.formats.export import ExportItem
from dataset.formats.source import Source

Decoder = Callable[[str], Callable[[], UInt8]]  # relative path of a mask -> the call that decodes it


def match_pairs(
    images: Mapping[str, Sequence[str]], masks: Mapping[str, Sequence[str]], split: str | None, decoder: Decoder
) -> tuple[list[ExportItem], list[Fault]]:
    """Return an item for each name with exactly one image and one mask, and a fault for each of the others."""
    items: list[ExportItem] = []
    faults: list[Fault] = []
    for name in sorted({*images, *masks}):
        pair = images.get(name, []), masks.get(name, [])
        found = check_pair(*pair)
        faults += found
        if not found:
            image, mask = pair[0][0], pair[1][0]
            items.append(ExportItem(name, split, image, decoder(mask), mask))
    return items, faults


def match_directories(
    source: Source,
    places: Iterable[tuple[str, str, str]],
    decoder: Decoder,
    image_name: Callable[[str, Collection[str]], str] = lambda mask, _images: mask,
) -> tuple[tuple[ExportItem, ...], tuple[LeftOut, ...]]:
    """Return the items of (split, directory of the images, directory of the masks), and the files left out.

    `image_name` returns the name of a mask's image, of those that there are. The images of a split without any mask are
    left out: those of a challenge's test split are not public. Raises DataFaults.
    """
    items: list[ExportItem] = []
    faults: list[Fault] = []
    left_out: list[LeftOut] = []
    for split, image_directory, mask_directory in places:
        images, masks = (images_below(source.files, directory) for directory in (image_directory, mask_directory))
        if not masks:
            left_out += leave_out([path for paths in images.values() for path in paths], tr("no mask"))
            continue
        by_image: dict[str, list[str]] = {}
        for name, paths in masks.items():
            by_image.setdefault(image_name(name, images), []).extend(paths)
        found = match_pairs(images, by_image, split, decoder)
        items += found[0]
        faults += found[1]
    if faults:
        raise DataFaults(faults)
    return tuple(items), tuple(left_out)


def check_pair(images: Sequence[str], masks: Sequence[str]) -> list[Fault]:
    """Return faults unless a name, of which there is a file, has exactly one image and one mask."""
    faults = []
    if not masks:
        faults += [Fault(path, tr("a mask of this name"), tr("none")) for path in images]
    if not images:
        faults += [Fault(path, tr("an image of this name"), tr("none")) for path in masks]
    for paths in (images, masks):
        if len(paths) > 1:
            found = tr("{count}: {paths}", count=len(paths), paths=abbreviate(paths, 4))
            faults += [Fault(path, tr("one file of this name"), found) for path in paths]
    return faults


def leave_out(paths: Sequence[str], reason: str) -> list[LeftOut]:
    """Return an entry for each path."""
    return [LeftOut(path, reason) for path in paths]
