"""infer.py --select: the images that a model is least certain of, with its predictions as editable annotations.

Each tool gets a directory of its own, so that it can be copied to another machine: `labelme/` (a JSON file beside each
image), `cvat/` and `cvat.zip` ("Segmentation mask 1.1"), `label-studio/` (tasks.json, label_config.xml). The file
selection.json in each of them names the model; lake.py import-labels records it with the corrected annotations.

Uncertainty is the mean entropy of the class probabilities over the pixels of an image, divided by that of equally
probable classes: 0 is certain, 1 a guess.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image

from core.errors import UsageError
from core.files import safe_join, write_atomically
from core.hashing import file_sha256
from core.i18n import tr
from core.reporting import notify
from core.safety.checksummed_json import parse_json, with_checksum
from dataset.classes import CLASSES_FILE, ClassMap, InvalidFileError, UInt8, abbreviate
from dataset.decoding.files import error_with_name
from dataset.decoding.mask import read_mask
from dataset.decoding.options import DEFAULT_READING
from dataset.formats.polygon.numbering import BACKGROUND_NAMES
from dataset.formats.selection import SELECTION_FILE, changed_files
from dataset.shapes.rle import encode_brush
from inference.annotations.polygons import labelme_json
from inference.annotations.tiff_page import extract_page
from inference.earlier.listing import is_complete, read_listing
from inference.formats import LISTING
from inference.outputs import PNG_TEXT_KEYS

FOLDER = "selection"  # in the output directory
STAGING = ".selection"  # while it is written
ASIDE = ".selection-replaced"  # the earlier one, while the new one takes its place
METHOD = "mean entropy of the class probabilities over all pixels, divided by log(number of classes)"


@dataclass(frozen=True)
class Selected:
    """One image: `name` without suffix, its file and its page, and its predicted class indices (H,W) uint8."""

    name: str
    image: Path
    page: int | None  # of a file of several
    indices: UInt8
    uncertainty: float

    @property
    def file(self) -> str:
        """Name of the image in the directories of the tools."""
        return self.name + self.image.suffix


def reject_corrections(output: Path) -> None:
    """Raise UsageError if an earlier selection in this output directory was changed: it may hold corrections."""
    folder = output / FOLDER
    _recover(output)
    if not folder.exists():
        return
    found = [path for path in folder.rglob("*") if path.is_file() and path != folder / SELECTION_FILE]
    try:
        listed = dict(parse_json((folder / SELECTION_FILE).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        listed = {}
    changed = changed_files(folder, listed, found)
    if changed:
        raise UsageError(
            tr(
                "{folder}: files changed or added since the selection: {count} ({names}): import or move them, or "
                "choose another --output",
                folder=folder,
                count=len(changed),
                names=abbreviate(changed, 3),
            )
        )


def write_selection(output: Path, count: int, classes: ClassMap) -> list[Selected]:
    """Write the `count` most uncertain images of the listing of an output directory; return them, the first one first.

    An earlier selection there is replaced, which is reported; it stays until the new one is complete.
    """
    _recover(output)
    listing, records = read_listing(output)
    if not all(is_complete(record) and "uncertainty" in record for record in records):
        raise UsageError(
            tr(
                "{path}: expected the uncertainty of each image, found images without it: it was changed, or written by an "
                "earlier version: run the command again without --resume",
                path=output / LISTING,
            )
        )
    ranked = sorted(records, key=lambda record: (-record["uncertainty"], record["mask"]))[:count]
    selected = [_load(output, record, classes) for record in ranked]
    origin = {key: str(listing[key]) for key in PNG_TEXT_KEYS}
    staging, folder = output / STAGING, output / FOLDER
    shutil.rmtree(staging, ignore_errors=True)
    _write_labelme(staging / "labelme", selected, classes, origin)
    _write_cvat(staging / "cvat", selected, classes)
    _write_label_studio(staging / "label-studio", selected, classes, origin)
    hashes = [
        record["input_sha256"] if item.page is None else file_sha256(safe_join(staging / "labelme", item.file))
        for item, record in zip(selected, ranked, strict=True)
    ]
    images = [
        {"file": item.file, "sha256": sha256, "uncertainty": item.uncertainty}
        for item, sha256 in zip(selected, hashes, strict=True)
    ]
    model = {key: listing[key] for key in PNG_TEXT_KEYS}
    content = {**model, "method": METHOD, "selected_from": len(listing["images"]), "images": images}
    for tool in sorted(path for path in staging.iterdir()):
        _write_json(tool / SELECTION_FILE, with_checksum(content))
    _zip(staging / "cvat", staging / "cvat.zip")
    paths = sorted(path for path in staging.rglob("*") if path.is_file())
    files = {path.relative_to(staging).as_posix(): file_sha256(path) for path in paths}
    _write_json(staging / SELECTION_FILE, with_checksum({**content, "files": files}))
    _replace(folder, staging, output / ASIDE)
    return selected


def _recover(output: Path) -> None:
    """Bring back the earlier selection after a kill before the new one was in its place; else remove what is left of it."""
    aside = output / ASIDE
    if aside.is_dir() and not (output / FOLDER).exists():
        aside.rename(output / FOLDER)
    shutil.rmtree(aside, ignore_errors=True)


def _replace(folder: Path, new: Path, aside: Path) -> None:
    """Move a complete selection to its place, and report how many images the earlier one had."""
    if not folder.is_dir():
        new.rename(folder)
        return
    count = _count_selected(folder)
    folder.rename(aside)
    new.rename(folder)
    shutil.rmtree(aside)
    if count is None:
        notify(tr("earlier selection replaced in {folder}, whose list cannot be read", folder=folder))
    else:
        notify(tr("earlier selection replaced in {folder}: {count}", folder=folder, count=count))


def _count_selected(folder: Path) -> int | None:
    """Return how many images the selection in a folder lists; None if its list cannot be read."""
    try:
        return len(parse_json((folder / SELECTION_FILE).read_text(encoding="utf-8"))["images"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _load(output: Path, record: Mapping[str, Any], classes: ClassMap) -> Selected:
    name = str(record["mask"]).removesuffix(".png")
    indices = read_mask(safe_join(output, record["mask"]), classes, DEFAULT_READING)
    page = int(record["page"]) - 1 if "page" in record else None
    return Selected(name, Path(record["input"]), page, indices, float(record["uncertainty"]))


def _write_json(path: Path, content: object) -> None:
    write_atomically(path, json.dumps(content, ensure_ascii=False, indent=1).encode())


def _write_classes(path: Path, classes: ClassMap) -> None:
    """Write classes.json, which gives the ids and colours back when formats without them are imported."""
    rows = zip(classes.ids, classes.names, classes.colors, strict=True)
    entries = [{"id": value, "name": name, "color": list(color)} for value, name, color in rows]
    ignored = zip(classes.ignore_ids, classes.ignore_colors, strict=True)
    entries += [{"id": v, "name": f"ignored {v}", "color": list(color), "ignore": True} for v, color in ignored]
    _write_json(path, entries)


def _copy_images(folder: Path, selected: Sequence[Selected]) -> None:
    """Write the images; of a file of several pages the selected one, as the pre-annotation belongs to no other."""
    for item in selected:
        target = safe_join(folder, item.file)
        target.parent.mkdir(parents=True, exist_ok=True)
        if item.page is None:
            shutil.copyfile(item.image, target)  # no link: a tool that edits the file must not change the input
            continue
        try:
            write_atomically(target, extract_page(item.image.read_bytes(), item.page))
        except InvalidFileError as error:
            raise error_with_name(item.image, error) from None


# --- tools ---------------------------------------------------------------------------------------------------


def _write_labelme(folder: Path, selected: Sequence[Selected], classes: ClassMap, origin: Mapping[str, str]) -> None:
    _copy_images(folder, selected)
    for item in selected:
        content = labelme_json(item.indices, classes, Path(item.file).name, origin)
        write_atomically(safe_join(folder, f"{item.name}.json"), content)
    _write_classes(folder / CLASSES_FILE, classes)


def _write_cvat(folder: Path, selected: Sequence[Selected], classes: ClassMap) -> None:
    """Write "Segmentation mask 1.1": masks in the colours of labelmap.txt, one list of all images."""
    _copy_images(folder / "JPEGImages", selected)
    colors = np.zeros((256, 3), np.uint8)
    colors[: classes.num_classes] = classes.colors
    for item in selected:
        path = safe_join(folder / "SegmentationClass", f"{item.name}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(colors[item.indices]).save(path)
    names = "".join(f"{item.name}\n" for item in selected)
    write_atomically(folder / "ImageSets/Segmentation/default.txt", names.encode())
    rows = zip(classes.names, classes.colors, strict=True)
    lines = [f"{name}:{red},{green},{blue}::\n" for name, (red, green, blue) in rows]
    write_atomically(folder / "labelmap.txt", ("# label:color_rgb:parts:actions\n" + "".join(lines)).encode())


def _write_label_studio(
    folder: Path, selected: Sequence[Selected], classes: ClassMap, origin: Mapping[str, str]
) -> None:
    """Write tasks with a brush region for each class; the images are served as local files of this directory."""
    _copy_images(folder / "images", selected)
    tasks = []
    for item in selected:
        prediction = {
            "model_version": origin["run_id"],
            "score": round(1 - item.uncertainty, 6),
            "result": _brush_regions(item.indices, classes),
        }
        address = f"/data/local-files/?d={quote(f'images/{item.file}')}"
        tasks.append({"data": {"image": address}, "predictions": [prediction]})
    _write_json(folder / "tasks.json", tasks)
    rows = zip(classes.names, classes.colors, strict=True)
    labels = [
        f"    <Label value={quoteattr(name)} background={quoteattr('#{:02x}{:02x}{:02x}'.format(*color))}/>\n"
        for name, color in rows
    ]
    config = (
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n  <BrushLabels name="label" toName="image">\n'
        + "".join(labels)
        + "  </BrushLabels>\n</View>\n"
    )
    write_atomically(folder / "label_config.xml", config.encode())
    _write_classes(folder / CLASSES_FILE, classes)


def _brush_regions(indices: UInt8, classes: ClassMap) -> list[dict[str, Any]]:
    size = {"original_height": indices.shape[0], "original_width": indices.shape[1], "image_rotation": 0}
    return [
        {
            "id": f"class-{classes.ids[index]}",
            "type": "brushlabels",
            "from_name": "label",
            "to_name": "image",
            **size,
            "value": {"format": "rle", "rle": encode_brush(indices == index), "brushlabels": [classes.names[index]]},
        }
        for index in np.unique(indices).tolist()
        if index < classes.num_classes and classes.names[index].lower() not in BACKGROUND_NAMES
    ]


def _zip(folder: Path, target: Path) -> None:
    """Write the files of a directory into an archive: CVAT accepts uploads as archives only."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.write(path, path.relative_to(folder).as_posix())
