"""Read Cityscapes: leftImg8bit/ and gtFine/ (else gtCoarse/), with its official ids, names and colours."""

from __future__ import annotations

import functools
from collections.abc import Callable

from core.i18n import tr
from dataset.classes import UInt8
from dataset.directory import composed, is_image
from dataset.faults import DataFaults, DataWarning, Fault, LeftOut
from dataset.formats.export import Export, ExportClass, ExportItem, ImportOptions
from dataset.formats.raster.colors import Rgb, read_coded_mask, read_ids
from dataset.formats.raster.pairs import leave_out, match_pairs
from dataset.formats.source import Source

IMAGES, IMAGE_END = "leftImg8bit/", "_leftImg8bit.png"
GROUND_TRUTHS = ("gtFine", "gtCoarse")
SPLIT_OF_DIRECTORY = {"train": "train", "train_extra": "train", "val": "val", "test": "test"}

# Of the official list: name, id, whether it counts, colour. The position among those that count is the train id.
LABELS: tuple[tuple[str, int, bool, Rgb], ...] = (
    ("unlabeled", 0, False, (0, 0, 0)),
    ("ego vehicle", 1, False, (0, 0, 0)),
    ("rectification border", 2, False, (0, 0, 0)),
    ("out of roi", 3, False, (0, 0, 0)),
    ("static", 4, False, (0, 0, 0)),
    ("dynamic", 5, False, (111, 74, 0)),
    ("ground", 6, False, (81, 0, 81)),
    ("road", 7, True, (128, 64, 128)),
    ("sidewalk", 8, True, (244, 35, 232)),
    ("parking", 9, False, (250, 170, 160)),
    ("rail track", 10, False, (230, 150, 140)),
    ("building", 11, True, (70, 70, 70)),
    ("wall", 12, True, (102, 102, 156)),
    ("fence", 13, True, (190, 153, 153)),
    ("guard rail", 14, False, (180, 165, 180)),
    ("bridge", 15, False, (150, 100, 100)),
    ("tunnel", 16, False, (150, 120, 90)),
    ("pole", 17, True, (153, 153, 153)),
    ("polegroup", 18, False, (153, 153, 153)),
    ("traffic light", 19, True, (250, 170, 30)),
    ("traffic sign", 20, True, (220, 220, 0)),
    ("vegetation", 21, True, (107, 142, 35)),
    ("terrain", 22, True, (152, 251, 152)),
    ("sky", 23, True, (70, 130, 180)),
    ("person", 24, True, (220, 20, 60)),
    ("rider", 25, True, (255, 0, 0)),
    ("car", 26, True, (0, 0, 142)),
    ("truck", 27, True, (0, 0, 70)),
    ("bus", 28, True, (0, 60, 100)),
    ("caravan", 29, False, (0, 0, 90)),
    ("trailer", 30, False, (0, 0, 110)),
    ("train", 31, True, (0, 80, 100)),
    ("motorcycle", 32, True, (0, 0, 230)),
    ("bicycle", 33, True, (119, 11, 32)),
)
ALL_IDS = (
    *(ExportClass(value, name, color, not counts, optional=not counts) for name, value, counts, color in LABELS),
    ExportClass(255, "license plate", None, ignore=True, optional=True),  # officially -1
)
TRAIN_IDS = (
    *(ExportClass(index, name, color) for index, (name, _, _, color) in enumerate(row for row in LABELS if row[2])),
    ExportClass(255, "ignored", None, ignore=True, optional=True),
)
CLASSES = {"labelIds": ALL_IDS, "labelTrainIds": TRAIN_IDS, "color": ALL_IDS}  # in the order of preference


def detect(source: Source) -> bool:
    """Return whether there are images of leftImg8bit/, or masks of gtFine/ or gtCoarse/."""
    ends = tuple(f"_{truth}_{kind}.png" for truth in GROUND_TRUTHS for kind in CLASSES)
    masks = tuple(f"{truth}/" for truth in GROUND_TRUTHS)
    return any(
        (name.startswith(IMAGES) and name.endswith(IMAGE_END)) or (name.startswith(masks) and name.endswith(ends))
        for name in source.files
    )


def read(source: Source, _options: ImportOptions) -> Export:
    """Return the export with the best kind of masks that it has. Raises DataFaults for missing partners."""
    truth, kind = _choose_masks(source)
    images = _by_split(source, IMAGES, IMAGE_END)
    masks = _by_split(source, f"{truth}/", f"_{truth}_{kind}.png")
    items: list[ExportItem] = []
    faults: list[Fault] = []
    left_out: list[LeftOut] = []
    for directory in sorted({*images, *masks}):
        split = SPLIT_OF_DIRECTORY.get(directory)
        if split is None:
            expected = tr("one of the directories {names}", names=", ".join(SPLIT_OF_DIRECTORY))
            faults.append(Fault(f"{IMAGES}{directory}/", expected, directory))
        elif directory not in masks:
            unlabelled = [path for paths in images[directory].values() for path in paths]
            left_out += leave_out(unlabelled, tr("no mask"))
        else:
            found = match_pairs(images.get(directory, {}), masks[directory], split, _decoder(source, kind))
            items += found[0]
            faults += found[1]
    others = [name for name in source.below(IMAGES) if is_image(name) and not name.endswith(IMAGE_END)]
    left_out += leave_out(others, tr("not called NAME{end}", end=IMAGE_END))
    if faults:
        raise DataFaults(faults)
    return Export(CLASSES[kind], tuple(items), tuple(left_out), tuple(_warn_of_colors(kind)))


def _choose_masks(source: Source) -> tuple[str, str]:
    """Return the directory and kind of the masks. Raises DataFaults if there are none."""
    for truth in GROUND_TRUTHS:
        for kind in CLASSES:
            if any(name.endswith(f"_{truth}_{kind}.png") for name in source.below(f"{truth}/")):
                return truth, kind
    expected = tr("masks NAME_gtFine_labelIds.png (unpack gtFine_trainvaltest.zip here too)")
    raise DataFaults([Fault("gtFine/", expected, tr("none"))])


def _by_split(source: Source, prefix: str, end: str) -> dict[str, dict[str, list[str]]]:
    """Return directory (train, val, ...) -> name such as aachen_000000_000019 -> files."""
    found: dict[str, dict[str, list[str]]] = {}
    for path in source.below(prefix):
        if path.endswith(end):
            directory, _, rest = path.removeprefix(prefix).partition("/")
            name = composed(rest.rpartition("/")[2].removesuffix(end))
            found.setdefault(directory, {}).setdefault(name, []).append(path)
    return found


def _decoder(source: Source, kind: str) -> Callable[[str], Callable[[], UInt8]]:
    """Return what decodes masks of this kind."""
    if kind != "color":
        possible = [known.id for known in CLASSES[kind]]
        return lambda mask: functools.partial(read_ids, source.files[mask], possible)
    ids: dict[Rgb, int] = {}
    for known in sorted(ALL_IDS, key=lambda known: (known.ignore, known.id)):
        if known.color is not None:
            ids.setdefault(known.color, known.id)
    return lambda mask: functools.partial(read_coded_mask, source.files[mask], ids)


def _warn_of_colors(kind: str) -> list[DataWarning]:
    """Return a warning for colour masks, in which several ignored classes have one colour."""
    if kind != "color":
        return []
    text = tr("colour masks of Cityscapes: black is read as 'unlabeled', (153, 153, 153) as 'pole'")
    return [DataWarning("ambiguous-colors", text)]
