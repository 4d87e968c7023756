"""Compare two models on the same images: tables by class and image, and a sheet of the images that differ most."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from config import Settings
from core.console import format_table
from core.files import atomic_replace, write_atomically
from core.heap import keep_freed_memory
from core.i18n import tr
from core.reporting import notify
from dataset.checks.committed_groups import add_groups
from dataset.classes import IGNORE_INDEX, ClassMap, UInt8
from dataset.decoding.image import read_image
from dataset.decoding.mask import read_mask
from dataset.decoding.options import ReadOptions
from dataset.decoding.orientation import reorient
from dataset.overlay import as_rgb, overlay, title_font
from dataset.samples import Item, committed_items
from registry import gate, overlap
from registry.intervals import gain_interval
from segmentation import evaluation, predictor
from segmentation.evaluation import EvaluationResult
from segmentation.model_file import Model
from segmentation.preprocess import choose_device, resize_image
from utils.lakefs_utils import LakeFS

if TYPE_CHECKING:
    from utils.lineage import Lineage

SHOWN = 8  # images in the sheet and rows of the table: half where B gains most, half where it loses most
PANEL = 320  # pixels, maximum width of a panel of the sheet
MARGIN = 18  # pixels above each panel, for its title
GAINED, LOST = (40, 170, 80), (220, 50, 50)  # RGB: only B is right, only A is right
DEFAULT_CONFIDENCE = 0.95  # of intervals, where REGISTER_CONFIDENCE=0 disables the check of the gate


def compare_models(settings: Settings, lake: LakeFS, first: Lineage, second: Lineage, output: Path) -> None:
    """Compare `first` (A) and `second` (B) on a split of B's data.

    Report tables, and write a sheet of images (compare.png) and all metrics (compare.json) below `output`.
    """
    cache, device = settings.cache_dir, choose_device(settings.device)
    if device.type == "cpu":
        keep_freed_memory()
    split, items = committed_items(lake, second.data_path, settings.register_split, cache)
    models = [gate.download_model(lake, lineage, device, cache) for lineage in (first, second)]
    classes, reading = models[1].classes, models[1].reading
    committed = (split, items)
    items = add_groups(lake, second.data_path, committed, cache, classes, reading, settings.split_group)
    a, b = (evaluation.measure(m, items, classes, device, name, reading) for m, name in zip(models, "AB", strict=True))
    names = [lineage.version or lineage.run_id for lineage in (first, second)]
    notify(tr("A: {a}, B: {b}", a=names[0], b=names[1]))
    notify(tr("{count} images of {split} in {data_path}", count=len(items), split=split, data_path=second.data_path))
    seen = overlap.seen_in_training(lake, first, second.data_path, split, cache)
    if seen:
        notify(
            tr(
                "A was trained on {count} of them, which favours A (a promotion leaves these images out)",
                count=len(seen),
            )
        )
    notify("\n" + class_table(a, b, settings.register_confidence))
    gains = np.array([b.only([i]).metric("miou") - a.only([i]).metric("miou") for i in range(len(items))])
    shown = _most_different(gains)
    notify("\n" + image_table(a, b, shown))
    folder = output / re.sub(r"[^\w.-]+", "-", f"{names[0]}-{names[1]}")
    sheet = draw_sheet([items[i] for i in shown], models, device, classes, [float(gains[i]) for i in shown])
    with atomic_replace(folder / "compare.png", durable=False) as part:
        sheet.save(part, "PNG")
    content: dict[str, Any] = {
        "a": _record(first, a),
        "b": _record(second, b),
        "data": str(second.data_path),
        "split": split,
        "pictures": _image_records(items, a, b, seen),
    }
    write_atomically(folder / "compare.json", json.dumps(content, ensure_ascii=False, indent=1).encode())
    notify(tr("images and all metrics: {folder}", folder=folder))


def _image_records(
    items: Sequence[Item], a: EvaluationResult, b: EvaluationResult, seen: set[str]
) -> list[dict[str, Any]]:
    return [
        {
            "name": item.name,
            "a": a.only([i]).metric("miou"),
            "b": b.only([i]).metric("miou"),
            "seen_by_a": bool({item.name, item.file_name} & seen),
        }
        for i, item in enumerate(items)
    ]


def class_table(a: EvaluationResult, b: EvaluationResult, confidence: float) -> str:
    """Return a table of IoU of each class, then mIoU and accuracy over the split with the interval of their gain."""
    confidence = confidence or DEFAULT_CONFIDENCE
    rows = []
    iou_a, iou_b = a.iou(), b.iou()
    for name in b.classes.names:
        old, new = iou_a[name], iou_b[name]
        if old is None or new is None:
            rows.append([name, *[tr("absent")] * 2, "", ""])
        else:
            rows.append([name, f"{old:.4f}", f"{new:.4f}", f"{new - old:+.4f}", ""])
    for metric, name in (("miou", "mIoU"), ("accuracy", tr("accuracy"))):
        total_a, total_b = a.metric(metric), b.metric(metric)
        interval = gain_interval(a, b, metric, confidence)
        shown = tr("too few groups") if interval is None else "[{:+.4f}, {:+.4f}]".format(*interval)
        rows.append([name, a.format(metric), b.format(metric), f"{total_b - total_a:+.4f}", shown])
    return format_table([tr("class"), "A", "B", "B - A", f"{confidence:.0%}"], rows)


def image_table(a: EvaluationResult, b: EvaluationResult, shown: Sequence[int]) -> str:
    """Return a table of the mIoU of single images."""
    rows = []
    for index in shown:
        old, new = a.only([index]).metric("miou"), b.only([index]).metric("miou")
        rows.append([b.images[index], f"{old:.4f}", f"{new:.4f}", f"{new - old:+.4f}"])
    return format_table([tr("images that differ most (mIoU of the classes in each)"), "A", "B", "B - A"], rows)


def _most_different(gains: np.ndarray[Any, Any]) -> list[int]:
    """Return indices by gain, from B's largest gain to its largest loss, without those in the middle."""
    order = [int(index) for index in np.argsort(-gains, kind="stable")]
    half = SHOWN // 2
    return order if len(order) <= SHOWN else order[:half] + order[-half:]


def _record(lineage: Lineage, measured: EvaluationResult) -> dict[str, Any]:
    return {
        "version": lineage.version,
        "run_id": lineage.run_id,
        "model": str(lineage.model_path),
        "model_sha256": lineage.model_sha256,
        "miou": measured.metric("miou"),
        "classes": str(measured.coverage),
        "accuracy": measured.metric("accuracy"),
        "iou": measured.iou(),
        "milliseconds": round(measured.milliseconds, 3),
    }


def draw_sheet(
    items: Sequence[Item], models: Sequence[Model], device: torch.device, classes: ClassMap, gains: Sequence[float]
) -> Image.Image:
    """Draw a row for each image: the image, mask, A, B, and their difference (green: only B is right, red: only A)."""
    rows = []
    for item, gain in zip(items, gains, strict=True):
        reading = models[1].reading
        image = as_rgb(read_image(item.image, reading, item.page))
        mask = read_mask(evaluation.require_mask(item), classes, reading, item.page)
        a, b = (_predict(item, model, classes, device, reading) for model in models)
        panels = [image, overlay(image, mask, classes), _overlay_known(image, a, classes)]
        panels += [_overlay_known(image, b, classes), _draw_difference(image, mask, a, b)]
        titles = [item.name, tr("mask"), "A", "B", f"B - A: {gain:+.3f}"]
        rows.append(_draw_row(panels, titles))
    width, height = max(row.width for row in rows), sum(row.height for row in rows)
    sheet = Image.new("RGB", (width, height), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def _predict(item: Item, model: Model, classes: ClassMap, device: torch.device, reading: ReadOptions) -> UInt8:
    """Return the indices (H,W) uint8 in `classes` that a model predicts, oriented as an image that `reading` reads."""
    (indices,) = predictor.segment(model, [read_image(item.image, model.reading, item.page)], device)
    found = evaluation.map_class_indices(model, classes)[indices]
    return reorient(found, item.image.read_bytes(), model.reading, reading)


def _overlay_known(image: UInt8, indices: UInt8, classes: ClassMap) -> UInt8:
    """Return an overlay in which classes that the data do not have stay uncoloured."""
    return overlay(image, np.where(indices < classes.num_classes, indices, np.uint8(IGNORE_INDEX)), classes)


def _draw_difference(image: UInt8, mask: UInt8, a: UInt8, b: UInt8) -> UInt8:
    """Return the image in grey, (H,W,3) uint8, with the pixels coloured where only one model is right."""
    grey: UInt8 = (image.mean(2, keepdims=True) * 0.5 + 100).astype(np.uint8).repeat(3, axis=2)
    known = mask != IGNORE_INDEX
    grey[known & (a != mask) & (b == mask)] = GAINED
    grey[known & (a == mask) & (b != mask)] = LOST
    return grey


def _draw_row(panels: Sequence[UInt8], titles: Sequence[str]) -> Image.Image:
    """Draw panels beside each other at one size, each below its title."""
    height, width = panels[0].shape[:2]
    scale = PANEL / width
    size = (max(1, round(height * scale)), PANEL)
    row = Image.new("RGB", ((PANEL + 4) * len(panels), size[0] + MARGIN + 4), "white")
    draw, font = ImageDraw.Draw(row), title_font(12)
    for index, (panel, title) in enumerate(zip(panels, titles, strict=True)):
        left = index * (PANEL + 4)
        row.paste(Image.fromarray(resize_image(panel, size)), (left, MARGIN))
        draw.text((left + 2, 2), title[-44:], fill="black", font=font)
    return row
