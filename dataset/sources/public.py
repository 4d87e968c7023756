"""Download public data sets for train.py --dataset NAME, through torchvision, into the layout of this project."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from core.errors import AppError, UsageError, describe_error
from core.files import read_regular, write_atomically
from core.hashing import file_sha256
from core.i18n import tr, trn
from core.reporting import notify, progress
from dataset.classes import CLASSES_FILE
from dataset.directory import is_empty
from dataset.sources.synthetic import fill_folder
from dataset.splitting.splits import new_split, write_splits

MARK = ".dataset"  # names the data set in a data directory; hidden, so not part of the data
ARCHIVES = ".download"  # what torchvision downloaded and unpacked; removed at the end; hidden too
PET_CLASSES = ((1, "pet"), (2, "background"), (3, "border"))
VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
Triple = tuple[str, Path, Path]  # split, image, mask


def fetch(name: str, root: Path, seed: int) -> None:
    """Download a data set into an empty directory; do nothing if the directory holds it already.

    Raises UsageError if the directory holds other data, AppError if the download fails.
    """
    mark = root / MARK
    if mark.exists() and read_regular(mark) == name.encode() and not is_empty(root):
        return
    if not is_empty(root):
        raise UsageError(
            tr("{root}: holds other data: set --data-dir to an empty directory, or omit --dataset", root=root)
        )
    archives = root / ARCHIVES
    archives.mkdir(parents=True, exist_ok=True)
    notify(tr("downloading the data set {name}", name=name))
    try:
        triples = remove_duplicates(DATASETS[name](archives, seed))
    except (OSError, RuntimeError) as error:  # no network, a broken archive, a full disk
        reason = describe_error(error)
        raise AppError(
            tr(
                "cannot download the data set {name} ({reason}): check the network and run again, or delete {archives} first",
                name=name,
                reason=reason,
                archives=archives,
            )
        ) from error
    write_atomically(mark, name.encode())
    fill_folder(root, lambda staging: _arrange(staging, name, triples, seed))
    shutil.rmtree(archives)


def remove_duplicates(triples: Iterable[Triple]) -> list[Triple]:
    """Return each image once: a duplicate in two splits would leak evaluation images into training."""
    first: dict[str, Triple] = {}
    count = 0
    for triple in progress(triples, None, tr("comparing the images"), tr("images")):
        first.setdefault(file_sha256(triple[1]), triple)
        count += 1
    if len(first) < count:
        notify(trn("left out {count} duplicate image", "left out {count} duplicate images", count - len(first)))
    return list(first.values())


def _arrange(staging: Path, name: str, triples: list[Triple], seed: int) -> None:
    """Write images, masks, classes.json and splits as copies, because the archives are removed."""
    for part in ("images", "masks"):
        (staging / part).mkdir(parents=True)
    for _, image, mask in progress(triples, len(triples), tr("arranging the data"), tr("pairs")):
        shutil.copyfile(image, staging / "images" / image.name)
        shutil.copyfile(mask, staging / "masks" / mask.name)
    (staging / CLASSES_FILE).write_text(json.dumps(CLASSES[name], indent=1), encoding="utf-8")
    write_splits(staging, {image.stem: split for split, image, _ in triples}, seed)


def _torchvision(make: Callable[..., Any], **arguments: Any) -> Any:
    """Return the torchvision data set, downloaded unless it is there already."""
    try:
        return make(**arguments, download=False)
    except RuntimeError:
        return make(**arguments, download=True)


def _pet_files(pets: Any) -> list[tuple[Path, Path]]:
    """Return (image, mask) paths of an OxfordIIITPet.

    Private attributes: torchvision has no public list of these files. Tested up to torchvision 0.29; check them
    before allowing a newer version.
    """
    return list(zip(pets._images, pets._segs, strict=True))


def _pet(archives: Path, seed: int) -> Iterator[Triple]:
    """Yield Oxford-IIIT Pet (Parkhi et al., 2012); its trainval split is divided into train and val, 9 to 1."""
    from torchvision.datasets import OxfordIIITPet

    for split in ("trainval", "test"):
        pets = _torchvision(OxfordIIITPet, root=archives, split=split, target_types="segmentation")
        pairs = _pet_files(pets)
        own = new_split([image.stem for image, _ in pairs], seed)
        for image, mask in pairs:
            held_out = own[image.stem] == "val"
            yield ("test" if split == "test" else "val" if held_out else "train"), Path(image), Path(mask)


def _voc(archives: Path, _seed: int) -> Iterator[Triple]:
    """Yield Pascal VOC 2012 (Everingham et al., 2015); its test masks are not public."""
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
