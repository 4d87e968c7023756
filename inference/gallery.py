"""index.html of an output directory: one page to browse the predictions, without a server or external files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from core.errors import UsageError
from core.figures import format_figure
from core.i18n import tr
from core.pages.cards import Panel
from core.reporting import progress, warn
from core.safety import html
from core.threads.workers import parallel
from dataset.classes import IGNORE_INDEX, ClassMap, UInt8
from dataset.decoding.mask import read_mask
from dataset.decoding.options import DEFAULT_READING
from dataset.overlay import as_rgb, css_color, difference, overlay, panel, wrong_legend
from dataset.samples import Item
from segmentation.evaluation import read_labels
from segmentation.means import Coverage, format_mean
from segmentation.model import Model
from segmentation.reliability.reasons import describe_counts, describe_reasons

TEMPLATE = Path(__file__).with_name("gallery.html")
BESIDE = "'self' file: data:"  # the images of the directory, from a web server or a disk, and embedded previews
PREVIEWS = 100  # images whose input (and label) the page embeds
PREVIEW_SIDE = 320  # pixels, largest side of a preview


def choose_previews(records: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the indices of the records whose input the page shows: those with the lowest mIoU, else the first ones."""
    return sorted(range(len(records)), key=lambda i: (_value(records[i], 2.0), i))[:PREVIEWS]


def collect_previews(
    records: Mapping[str, Mapping[str, Any]],
    items: Mapping[str, Item],
    preview: Callable[[Item], list[Panel]],
    workers: int,
) -> dict[str, list[Panel]]:
    """Return the embedded panels of some images by mask file; `records` and `items` are by the name of the image.

    An image that was removed or replaced since it was predicted gives a warning and no panels.
    """
    names = list(records)
    chosen = [names[index] for index in choose_previews(list(records.values()))]
    found: dict[str, list[Panel]] = {}
    shown = [items[name] for name in chosen if name in items]
    results = parallel(preview, shown, workers=workers)
    for item, panels in progress(results, len(shown), tr("writing the gallery"), tr("images")):
        if isinstance(panels, UsageError):
            warn(str(panels))
        elif isinstance(panels, Exception):
            raise panels
        else:
            found[records[item.name]["mask"]] = panels
    return found


def preview_item(item: Item, image: UInt8, mask: Path, model: Model) -> list[Panel]:
    """Return the panels of an image (H,W,C) uint8 whose prediction is in the file `mask`. Raises UsageError for its label."""
    if item.mask is None:
        return preview_panels(image, None, None, model.classes)
    predicted = read_mask(mask, model.classes, DEFAULT_READING)
    label = read_labels(item, model.classes, model.reading, predicted.shape)
    return preview_panels(image, label, predicted, model.classes)


def preview_panels(image: UInt8, label: UInt8 | None, predicted: UInt8 | None, classes: ClassMap) -> list[Panel]:
    """Return the panels of an input image (H,W,C) uint8 and, with them, of its label and the difference, (H,W) uint8."""
    scale = min(1.0, PREVIEW_SIDE / max(image.shape[:2]))
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    shown = _resized(as_rgb(image), size, Image.Resampling.BOX)
    panels = [panel("image", tr("image"), shown)]
    if label is not None and predicted is not None:
        small, guess = (_resized(indices, size, Image.Resampling.NEAREST) for indices in (label, predicted))
        guess = np.where(small == IGNORE_INDEX, small, guess)
        panels.append(panel("label", tr("label"), overlay(shown, small, classes)))
        panels.append(panel("difference", tr("difference"), difference(shown, small, guess)))
    return panels


def _resized(pixels: UInt8, size: tuple[int, int], method: Image.Resampling) -> UInt8:
    return np.asarray(Image.fromarray(pixels).resize(size, method))


def write_gallery(
    path: Path, listing: dict[str, Any], classes: ClassMap, previews: Mapping[str, Sequence[Panel]]
) -> None:
    """Write the page for the content of predictions.json; the browser loads images when they are scrolled to.

    `previews` are embedded panels by the mask's file name, of the images that have them.
    """
    records, measured = listing["images"], "miou" in listing
    iou = listing.get("iou", {})
    images = [_image(record, place, previews.get(record["mask"], ())) for place, record in enumerate(records)]
    kinds = {shown["kind"]: shown["caption"] for image in images for shown in image["panels"]}
    legend = [
        (css_color(color), name + ("" if iou.get(name) is None else f" (IoU {format_figure(iou[name])})"))
        for name, color in zip(classes.names, classes.colors, strict=True)
    ]
    html.write_page(
        path,
        TEMPLATE,
        BESIDE,
        title=tr("Predictions of {model}", model=listing["model_version"] or tr("run") + f" {listing['run_id']}"),
        notes=_notes(listing, measured, len(previews)),
        measured=measured,
        names=classes.names,
        legend=[*legend, wrong_legend()] if "difference" in kinds else legend,
        panels=list(kinds.items()),
        sides=("image", "overlay"),
        orders=[
            ("first", tr("lowest mIoU first") if measured else tr("order of the data")),
            *([("confidence", tr("lowest confidence first"))] if any("confidence" in r for r in records) else []),
            *([("unlike", tr("least like the training first"))] if "drift" in listing else []),
            ("name", tr("name")),
            ("share", tr("largest fraction of the chosen class")),
        ],
        origin=json.dumps({k: v for k, v in listing.items() if k != "images"}, ensure_ascii=False, indent=1),
        data={
            "lead": tr("IoU (share of the image)") if measured else tr("share of the image"),
            "classes": [
                {"name": name, "color": css_color(color)}
                for name, color in zip(classes.names, classes.colors, strict=True)
            ],
            "images": images,
        },
    )


def _notes(listing: Mapping[str, Any], measured: bool, previews: int) -> list[str]:
    """Return what the head says of the whole directory."""
    notes = []
    if measured:
        mean = format_mean(listing["miou"], Coverage.parse(listing.get("classes")))
        figures = tr("mIoU {miou}, accuracy {accuracy:.4f}", miou=mean, accuracy=listing["accuracy"])
        notes.append(f"{listing['split']}: {figures}" if listing.get("split") else figures)
    if (auroc := listing.get("uncertainty_auroc")) is not None:
        notes.append(tr("AUROC of the uncertainty for wrong pixels: {auroc}", auroc=format_figure(auroc)))
    if (drift := listing.get("drift")) is not None and drift["flagged"]:
        notes.append(
            tr(
                "unlike the images of the training: {flagged} of {compared} ({reasons})",
                flagged=drift["flagged"],
                compared=drift["compared"],
                reasons=describe_counts(drift["reasons"]),
            )
        )
    if previews < len(listing["images"]):
        notes.append(
            tr(
                "input images are shown for {count} images only: those with the lowest mIoU, or the first ones",
                count=previews,
            )
        )
    return notes


def _image(record: Mapping[str, Any], place: int, previews: Sequence[Panel]) -> dict[str, Any]:
    """Return what the script needs of an image: its panels are the previews and the overlay, with the difference or the mask."""
    own = [{"kind": "overlay", "caption": tr("prediction"), "url": record["overlay"]}]
    if record["mask"].endswith(".png"):  # browsers do not show TIFF files
        own.append({"kind": "mask", "caption": tr("mask"), "url": record["mask"], "pixels": True})
    uncertain = record.get("uncertainty_map", "")
    maps = (
        [{"kind": "uncertainty", "caption": tr("uncertainty"), "url": uncertain}] if uncertain.endswith(".png") else []
    )
    embedded = {shown.kind: dataclasses.asdict(shown) for shown in previews}
    last = [embedded.pop("difference")] if "difference" in embedded else []
    return {
        "name": record["mask"].removesuffix(Path(record["mask"]).suffix),
        "width": record["width"],
        "height": record["height"],
        "value": _value(record, place),
        "score": ", ".join(text for text in (_describe_mean(record), _describe_confidence(record)) if text),
        "confidence": record.get("confidence", 2.0),
        "unlike": record["drift"]["score"] if "drift" in record else 0.0,
        "notice": _describe_drift(record),
        "shares": list(record["class_shares"].values()),
        "iou": list(record.get("iou", {}).values()),
        "panels": [*embedded.values(), *([own[0], *last] if last else [*own[1:], own[0]]), *maps],
    }


def _describe_confidence(record: Mapping[str, Any]) -> str:
    return tr("confidence {value}", value=format_figure(record["confidence"])) if "confidence" in record else ""


def _describe_drift(record: Mapping[str, Any]) -> str:
    """Return why an image is unlike those of the training; empty if it is not."""
    if not record.get("drift", {}).get("flagged"):
        return ""
    return tr("unlike the images of the training: {reasons}", reasons=describe_reasons(record["drift"]["reasons"]))


def _value(record: Mapping[str, Any], without: float) -> float:
    """Return the mIoU, by which images are sorted; `without` for an image without a label."""
    return without if record.get("miou") is None else float(record["miou"])


def _describe_mean(record: Mapping[str, Any]) -> str:
    """Return the mIoU of an image with the number of classes that it is of; empty for an image without a mask."""
    if record.get("miou") is None:
        return ""
    return f"mIoU {format_mean(record['miou'], Coverage.parse(record.get('classes')))}"
