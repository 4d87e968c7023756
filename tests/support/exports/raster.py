"""Write exports of annotation tools, from pairs in memory or of a data directory: for tests and for round trips."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dataset.classes import UInt8
from dataset.data import SegmentationData
from dataset.decoding.mask import read_mask
from dataset.formats.raster.voc import BORDER_COLOR
from tests.support.data_directories import put_image

SIZE = (6, 8)  # height, width
COLORS = ((0, 0, 0), (250, 50, 83), (51, 221, 255))
NAMES = ("background", "road", "car")


@dataclass(frozen=True)
class Labelled:
    """An image file with its class ids (H,W) uint8; 255 is ignored."""

    name: str
    split: str | None
    image: Path
    ids: UInt8


def draw_labelled(folder: Path, splits: Sequence[str | None], border: bool = False) -> list[Labelled]:
    """Write one noise image for each entry of `splits` into `folder`, and return them with random ids 0 to 2."""
    rng = np.random.default_rng(0)
    made = []
    for number, split in enumerate(splits):
        ids = rng.integers(0, 3, SIZE, np.uint8)
        if border:
            ids[0] = 255
        made.append(Labelled(f"p{number:02d}", split, put_image(folder / f"p{number:02d}.png", number, SIZE), ids))
    return made


def labelled_pairs(data: SegmentationData) -> list[Labelled]:
    """Return the pairs of a checked data directory with the ids of their masks; ignored pixels are the first ignored id."""
    return [
        Labelled(
            pair.name, pair.split, pair.image, data.classes.decode(read_mask(pair.mask, data.classes, data.reading))
        )
        for pair in data.pairs
    ]


def copy_image(labelled: Labelled, target: Path) -> None:
    """Copy the image to `target`, which gets the suffix of the image."""
    path = target.with_name(target.name + labelled.image.suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(labelled.image, path)


def save_png(path: Path, pixels: UInt8, palette: bytes | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette is not None:
        image.putpalette(palette)
    image.save(path)


def paint(ids: UInt8, palette: bytes) -> UInt8:
    """Return the colours (H,W,3) uint8 of class ids (H,W)."""
    return np.frombuffer(palette, np.uint8).reshape(256, 3)[ids]


def palette_of(colors: Sequence[tuple[int, int, int]], border: tuple[int, int, int] = BORDER_COLOR) -> bytes:
    """Return a palette with these colours from 0 on, and the border's at 255."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colors)] = colors
    table[255] = border
    return table.tobytes()


def write_lists(root: Path, items: Sequence[Labelled]) -> None:
    """Write ImageSets/Segmentation/*.txt; names without a split are in default.txt."""
    folder = root / "ImageSets/Segmentation"
    folder.mkdir(parents=True, exist_ok=True)
    for split in {item.split for item in items}:
        names = [f"{item.name}\n" for item in items if item.split == split]
        (folder / f"{split or 'default'}.txt").write_text("".join(names))


def write_cvat(
    root: Path,
    items: Sequence[Labelled],
    names: Sequence[str] = NAMES,
    colors: Sequence[tuple[int, int, int]] = COLORS,
) -> Path:
    """Write CVAT's "Segmentation mask 1.1": masks in RGB colours, labelmap.txt with the classes in the order of ids."""
    palette = palette_of(colors)
    for item in items:
        copy_image(item, root / "JPEGImages" / item.name)
        save_png(root / "SegmentationClass" / f"{item.name}.png", paint(item.ids, palette))
    write_lists(root, items)
    write_labelmap(root, names, colors)
    return root


def write_labelmap(root: Path, names: Sequence[str], colors: Sequence[tuple[int, int, int]]) -> None:
    rows = [f"{name}:{red},{green},{blue}::\n" for name, (red, green, blue) in zip(names, colors, strict=True)]
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + "".join(rows))


def write_voc(root: Path, items: Sequence[Labelled], palette: bytes, names: Sequence[str] | None = None) -> Path:
    """Write the VOC layout: palette PNG with 255 for the border; with `names` class_names.txt as labelme2voc does."""
    for item in items:
        copy_image(item, root / "JPEGImages" / item.name)
        save_png(root / "SegmentationClass" / f"{item.name}.png", item.ids, palette)
    write_lists(root, items)
    if names is not None:
        (root / "class_names.txt").write_text("".join(f"{name}\n" for name in names))
    return root


def write_kaggle_camvid(
    root: Path,
    items: Sequence[Labelled],
    names: Sequence[str] = NAMES,
    colors: Sequence[tuple[int, int, int]] = COLORS,
) -> Path:
    """Write Kaggle's CamVid: SPLIT/NAME.png, SPLIT_labels/NAME_L.png in colours, class_dict.csv."""
    palette = palette_of(colors)
    for item in items:
        copy_image(item, root / f"{item.split}" / item.name)
        save_png(root / f"{item.split}_labels" / f"{item.name}_L.png", paint(item.ids, palette))
    rows = [f"{name},{red},{green},{blue}\n" for name, (red, green, blue) in zip(names, colors, strict=True)]
    (root / "class_dict.csv").write_text("name,r,g,b\n" + "".join(rows))
    return root


def write_cityscapes(root: Path, items: Sequence[Labelled], kind: str = "labelIds") -> Path:
    """Write leftImg8bit/ and gtFine/ of one city per split; `ids` are those of the kind of mask (not `color`)."""
    for item in items:
        frame = f"{item.split}/city{item.split}/{item.name}"
        copy_image(item, root / "leftImg8bit" / f"{frame}_leftImg8bit")
        save_png(root / "gtFine" / f"{frame}_gtFine_{kind}.png", item.ids)
        (root / "gtFine" / f"{frame}_gtFine_polygons.json").write_text("{}")
    return root


def write_nnunet(root: Path, items: Sequence[Labelled], labels: dict[str, object], channels: int = 1) -> Path:
    """Write nnU-Net's raw data: dataset.json, imagesTr/NAME_0000.png, labelsTr/NAME.png; split "test" into ...Ts/."""
    for item in items:
        part = "Ts" if item.split == "test" else "Tr"
        copy_image(item, root / f"images{part}" / f"{item.name}_0000")
        save_png(root / f"labels{part}" / f"{item.name}.png", item.ids)
    content = {
        "channel_names": {str(channel): f"channel {channel}" for channel in range(channels)},
        "labels": labels,
        "numTraining": sum(item.split != "test" for item in items),
        "file_ending": ".png",
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def write_coco_rle(
    root: Path,
    items: Sequence[Labelled],
    names: Sequence[str] = NAMES,
    colors: Sequence[tuple[int, int, int]] = COLORS,
) -> Path:
    """Write COCO with one compressed run-length annotation for each class of an image, by pycocotools."""
    from pycocotools import mask as coco

    categories = [
        {"id": value, "name": name, "color": list(color)}
        for value, (name, color) in enumerate(zip(names, colors, strict=True))
    ]
    for split in {item.split for item in items}:
        images: list[dict[str, object]] = []
        annotations: list[dict[str, object]] = []
        for number, item in enumerate((item for item in items if item.split == split), 1):
            place = f"{split or 'default'}/{item.name}"
            copy_image(item, root / "images" / place)
            height, width = item.ids.shape
            file = f"{place}{item.image.suffix}"
            images.append({"id": number, "file_name": file, "width": width, "height": height})
            for value in np.unique(item.ids).tolist():
                runs = coco.encode(np.asfortranarray(item.ids == value, np.uint8))
                segmentation = {"size": [height, width], "counts": runs["counts"].decode("ascii")}
                entry = {"id": len(annotations) + 1, "image_id": number, "category_id": value}
                annotations.append({**entry, "iscrowd": 1, "segmentation": segmentation})
        content = {"images": images, "annotations": annotations, "categories": categories}
        path = root / "annotations" / f"instances_{split or 'default'}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return root


def write_ade20k(root: Path, items: Sequence[Labelled], names: Sequence[str]) -> Path:
    """Write images/ and annotations/ with training/ and validation/, and objectInfo150.txt with names from id 1 on."""
    directories = {"train": "training", "val": "validation", "test": "testing"}
    for item in items:
        place = f"{directories[item.split or 'train']}/{item.name}"
        copy_image(item, root / "images" / place)
        save_png(root / "annotations" / f"{place}.png", item.ids)
    rows = [f"{value}\t0.1\t1\t1\t1\t{name}\n" for value, name in enumerate(names, 1)]
    (root / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tStuff\tName\n" + "".join(rows))
    return root
