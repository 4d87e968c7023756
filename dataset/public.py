"""train.py --dataset NAME: data sets that people start with, through torchvision, in the layout of this project."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from core.errors import AppError, UsageError, describe_error
from core.hashing import file_sha256
from core.i18n import tr
from core.reporting import notify, progress
from dataset.classes import CLASSES_FILE
from dataset.layout import is_empty
from dataset.splits import new_split, write_splits
from dataset.synthetic import fill_folder

MARK = ".dataset"  # which one lies in a data folder; hidden, as is the next: no part of the data
ARCHIVES = ".download"  # what torchvision fetched and unpacked, until all of it is in place
PET_CLASSES = ((1, "pet"), (2, "background"), (3, "border"))
VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
Triple = tuple[str, Path, Path]  # split, picture, mask


def fetch(name: str, root: Path, seed: int) -> None:
    """Bring a data set into an empty folder; one that holds it already is left alone.

    Raises UsageError where the folder holds other data, AppError where the download fails.
    """
    mark = root / MARK
    if mark.exists() and mark.read_text(encoding="utf-8") == name and not is_empty(root):
        return
    if not is_empty(root):
        raise UsageError(
            tr("{root}: holds other data: give an empty folder by --data-dir, or leave out --dataset", root=root)
        )
    archives = root / ARCHIVES
    archives.mkdir(parents=True, exist_ok=True)
    notify(tr("downloading the data set {name}", name=name))
    try:
        triples = without_twins(DATASETS[name](archives, seed))
    except (OSError, RuntimeError) as error:  # no network, a broken archive, a full disk
        reason = describe_error(error)
        raise AppError(
            tr(
                "cannot download the data set {name} ({reason}): go online and run again, or first remove {archives}",
                name=name,
                reason=reason,
                archives=archives,
            )
        ) from error
    mark.write_text(name, encoding="utf-8")
    fill_folder(root, lambda staging: _arrange(staging, name, triples, seed))
    shutil.rmtree(archives)


def without_twins(triples: Iterable[Triple]) -> list[Triple]:
    """Each picture once: one that is in two splits would let the network see what it is measured on."""
    first: dict[str, Triple] = {}
    count = 0
    for triple in triples:
        first.setdefault(file_sha256(triple[1]), triple)
        count += 1
    if len(first) < count:
        twins = count - len(first)
        notify(tr("left out {twins} pictures that are there twice", twins=twins))
    return list(first.values())


def _arrange(staging: Path, name: str, triples: list[Triple], seed: int) -> None:
    """Pictures, masks, classes.json and splits, as files of their own: the archives are removed."""
    for part in ("images", "masks"):
        (staging / part).mkdir(parents=True)
    for _, image, mask in progress(triples, len(triples), tr("arranging the data"), tr("pairs")):
        shutil.copyfile(image, staging / "images" / image.name)
        shutil.copyfile(mask, staging / "masks" / mask.name)
    (staging / CLASSES_FILE).write_text(json.dumps(CLASSES[name], indent=1), encoding="utf-8")
    write_splits(staging, {image.stem: split for split, image, _ in triples}, seed)


def _torchvision(make: Callable[..., Any], **arguments: Any) -> Any:
    """The data set from what is there already, else downloaded."""
    try:
        return make(**arguments, download=False)
    except RuntimeError:
        return make(**arguments, download=True)


def _pet(archives: Path, seed: int) -> Iterator[Triple]:
    """Oxford-IIIT Pet (Parkhi et al., 2012): its trainval split is parted into train and val, 9 to 1."""
    from torchvision.datasets import OxfordIIITPet

    for split in ("trainval", "test"):
        pets = _torchvision(OxfordIIITPet, root=archives, split=split, target_types="segmentation")
        pairs = list(zip(pets._images, pets._segs, strict=True))
        own = new_split([image.stem for image, _ in pairs], seed)
        for image, mask in pairs:
            held_out = own[image.stem] == "val"
            yield ("test" if split == "test" else "val" if held_out else "train"), Path(image), Path(mask)


def _voc(archives: Path, _seed: int) -> Iterator[Triple]:
    """Pascal VOC 2012 (Everingham et al., 2015); its test masks are not public."""
    from torchvision.datasets import VOCSegmentation

    for split in ("train", "val"):
        voc = _torchvision(VOCSegmentation, root=archives, year="2012", image_set=split)
        for image, mask in zip(voc.images, voc.masks, strict=True):
            yield split, Path(image), Path(mask)


DATASETS: dict[str, Callable[[Path, int], Iterator[Triple]]] = {"oxford-iiit-pet": _pet, "voc2012": _voc}
CLASSES: dict[str, list[dict[str, Any]]] = {
    "oxford-iiit-pet": [{"id": value, "name": name} for value, name in PET_CLASSES],
    "voc2012": [
        *({"id": value, "name": name} for value, name in enumerate(VOC_CLASSES)),
        {"id": 255, "name": "void", "ignore": True},
    ],
}
