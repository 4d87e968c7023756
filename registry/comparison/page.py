"""compare.html: metrics with intervals, classes, and the images that two models predict most differently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from core.figures import format_confidence, format_figure, format_gain
from core.i18n import tr
from core.pages.cards import Card, Gallery, Panel
from core.safety import html
from dataset.classes import IGNORE_INDEX, ClassMap, UInt8
from dataset.decoding.image import read_image
from dataset.decoding.mask import read_mask
from dataset.decoding.options import ReadOptions
from dataset.decoding.orientation import reorient
from dataset.overlay import as_rgb, class_legend, css_color, grey, overlay, panel, reduced
from dataset.samples import Item
from registry.slice_table import slice_head, slice_rows
from segmentation import evaluation, predictor
from segmentation.evaluation import EvaluationResult
from segmentation.intervals import gain_interval
from segmentation.model import Model
from versioning.provenance.verdict import MIN_SLICE_GROUPS, SliceGain

PAGE = "compare.html"
TEMPLATE = Path(__file__).with_name(PAGE)
SHOWN = 24  # images of the page at most
SIDE = 480  # pixels, largest width of a panel
GAINED, LOST = (25, 110, 235), (235, 115, 0)  # RGB: only B is right, only A is right


@dataclass(frozen=True)
class Side:
    """One of the two models: the name that readers know it by, its files' records, and its measured metrics."""

    name: str
    model: Model
    measured: EvaluationResult
    record: Sequence[tuple[str, str]]  # what it is, and where it comes from
    predictors: Sequence[
        Model
    ] = ()  # of each image, where it is not `model`: the members of an ensemble that held it out

    def predictor(self, index: int) -> Model:
        """Return the model that predicts an image."""
        return self.predictors[index] if self.predictors else self.model


@dataclass(frozen=True)
class Comparison:
    """Models A and B, measured on the same images."""

    a: Side
    b: Side
    items: Sequence[Item]
    data: str  # describes the images
    seen: str  # says that A was trained on some of them; empty: it was not
    confidence: float  # of the intervals
    slice_metric: str  # miou or accuracy
    slices: Sequence[SliceGain]

    @property
    def gains(self) -> list[float]:
        """The mIoU of B minus that of A, of each image."""
        a, b = ([side.measured.only([i]).metric("miou") for i in range(len(self.items))] for side in (self.a, self.b))
        return [new - old for old, new in zip(a, b, strict=True)]


def order_by_difference(gains: Sequence[float]) -> list[int]:
    """Return the indices of images, the largest gain or loss first."""
    return [int(index) for index in np.argsort(-np.abs(gains), kind="stable")]


def write_page(path: Path, found: Comparison, device: torch.device) -> None:
    """Write the page; it predicts the images that it shows again, because only their metrics were kept."""
    a, b, classes = found.a, found.b, found.b.measured.classes
    html.write_page(
        path,
        TEMPLATE,
        title=tr("Comparison: {a} and {b}", a=a.name, b=b.name),
        data=found.data,
        seen=found.seen,
        metric_head=["", a.name, b.name, tr("gain"), tr("interval of the gain")],
        metric_rows=[_metric_row(found, "miou", "mIoU"), _metric_row(found, "accuracy", tr("accuracy"))],
        interval_note=tr(
            "gain: {b} minus {a}; its interval at a confidence of {confidence}.",
            a=a.name,
            b=b.name,
            confidence=format_confidence(found.confidence),
        ),
        class_head=[tr("class"), f"IoU {a.name}", f"IoU {b.name}", tr("gain")],
        class_rows=_class_rows(found),
        colors=dict(zip(classes.names, map(css_color, classes.colors), strict=True)),
        slice_head=slice_head(a.name, b.name, found.confidence),
        slice_rows=slice_rows(found.slices),
        slice_note=tr(
            "{metric} of each slice of REGISTER_SLICES. Slices with fewer than {count} groups have no interval.",
            metric="mIoU" if found.slice_metric == "miou" else tr("accuracy"),
            count=MIN_SLICE_GROUPS,
        ),
        gallery=_gallery(found, classes, device),
        model_head=["", a.name, b.name],
        model_rows=[[key, value, other] for (key, value), (_, other) in zip(a.record, b.record, strict=True)],
    )


def _metric_row(found: Comparison, metric: str, name: str) -> list[str]:
    a, b = found.a.measured, found.b.measured
    interval = gain_interval(a, b, metric, found.confidence)
    shown = tr("too few groups") if interval is None else " … ".join(map(format_gain, interval))
    return [name, a.format(metric), b.format(metric), format_gain(b.metric(metric) - a.metric(metric)), shown]


def _class_rows(found: Comparison) -> list[list[str]]:
    """Return IoU and gain of the classes, in their order."""
    old, new = found.a.measured.iou(), found.b.measured.iou()
    rows = []
    for name in found.b.measured.classes.names:
        before, after = old[name], new[name]
        if before is None or after is None:
            rows.append([name, tr("absent"), tr("absent"), ""])
        else:
            rows.append([name, format_figure(before), format_figure(after), format_gain(after - before)])
    return rows


def _gallery(found: Comparison, classes: ClassMap, device: torch.device) -> Gallery:
    gains = found.gains
    shown = order_by_difference(gains)[:SHOWN]
    legend = [
        *class_legend(classes),
        (css_color(GAINED), tr("difference: only {name} is right", name=found.b.name)),
        (css_color(LOST), tr("difference: only {name} is right", name=found.a.name)),
    ]
    return Gallery(
        "images",
        tr("Images, the largest difference first ({shown} of {count})", shown=len(shown), count=len(gains)),
        [_card(found, index, gains[index], classes, device) for index in shown],
        classes.names,
        legend,
        ("a", "b"),
        [("first", tr("largest difference first")), ("name", tr("name"))],
    )


def _card(found: Comparison, index: int, gain: float, classes: ClassMap, device: torch.device) -> Card:
    a, b = (side.measured.only([index]) for side in (found.a, found.b))
    values = {
        number: (old, new)
        for number, (old, new) in enumerate(zip(a.iou().values(), b.iou().values(), strict=True))
        if old is not None and new is not None
    }
    return Card(
        found.items[index].name,
        _panels(found, index, classes, device),
        value=-abs(gain),
        class_values={str(number): -abs(new - old) for number, (old, new) in values.items()},
        score=tr(
            "mIoU {old} → {new} ({gain})",
            old=format_figure(a.metric("miou")),
            new=format_figure(b.metric("miou")),
            gain=format_gain(gain),
        ),
        legend=[
            (css_color(classes.colors[number]), f"{classes.names[number]} {format_figure(old)} → {format_figure(new)}")
            for number, (old, new) in values.items()
        ],
        legend_lead="IoU",
    )


def _panels(found: Comparison, index: int, classes: ClassMap, device: torch.device) -> list[Panel]:
    """Return the image, the label, both predictions and their difference."""
    item, reading = found.items[index], found.b.model.reading
    image = as_rgb(read_image(item.image, reading, item.page))
    mask = read_mask(evaluation.require_mask(item), classes, reading, item.page)
    a, b = (_predict(item, side.predictor(index), classes, device, reading) for side in (found.a, found.b))
    drawn = (
        ("image", tr("image"), image),
        ("label", tr("label"), overlay(image, mask, classes)),
        ("a", found.a.name, _overlay_known(image, a, classes)),
        ("b", found.b.name, _overlay_known(image, b, classes)),
        ("difference", tr("difference"), _draw_difference(image, mask, a, b)),
    )
    return [panel(kind, caption, reduced(pixels, SIDE / pixels.shape[1])) for kind, caption, pixels in drawn]


def _predict(item: Item, model: Model, classes: ClassMap, device: torch.device, reading: ReadOptions) -> UInt8:
    """Return the indices (H,W) uint8 in `classes` that a model predicts, oriented as an image that `reading` reads."""
    (indices,) = predictor.segment(model, [read_image(item.image, model.reading, item.page)], device)
    found = evaluation.map_class_indices(model, classes)[indices]
    return reorient(found, item.image.read_bytes(), model.reading, reading, item.page)


def _overlay_known(image: UInt8, indices: UInt8, classes: ClassMap) -> UInt8:
    """Return an overlay in which classes that the data do not have stay uncoloured."""
    return overlay(image, np.where(indices < classes.num_classes, indices, np.uint8(IGNORE_INDEX)), classes)


def _draw_difference(image: UInt8, mask: UInt8, a: UInt8, b: UInt8) -> UInt8:
    """Return the image in grey, (H,W,3) uint8, with the pixels coloured where only one model is right."""
    drawn = grey(image)
    known = mask != IGNORE_INDEX
    drawn[known & (a != mask) & (b == mask)] = GAINED
    drawn[known & (a == mask) & (b != mask)] = LOST
    return drawn
