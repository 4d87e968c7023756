"""Compare two models on the same images: tables by class and image, and a page with the images that differ most."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import Settings
from core.console import format_table
from core.errors import UsageError
from core.figures import format_confidence, format_figure, format_gain
from core.files import write_atomically
from core.i18n import tr, trn
from core.machine.heap import keep_freed_memory
from core.reporting import notify, result
from dataset.samples import Item
from registry.comparison.page import PAGE, Comparison, Side, order_by_difference, write_page
from registry.judging import gate
from registry.judging.contestants import Contestant
from registry.judging.images import JudgedData, judged_data
from registry.judging.metrics import split_metric
from registry.judging.slices import committed_slices, measure_slices
from registry.slice_table import slice_table
from segmentation.evaluation import EvaluationResult
from segmentation.intervals import gain_interval
from segmentation.preprocess import choose_device
from utils.identifiers import RunId
from utils.lakefs_utils import LakeFS
from versioning.provenance.verdict import DEFAULT_CONFIDENCE, worst_first

if TYPE_CHECKING:
    from utils.lineage import Lineage

SHOWN = 8  # rows of the table of images


def compare_models(settings: Settings, lake: LakeFS, first: Lineage, second: Lineage, output: Path) -> None:
    """Compare `first` (A) and `second` (B) on a split of B's data; see `judged_data` for ensembles.

    Report tables, and write a page with images (compare.html) and all metrics (compare.json) below `output`.
    """
    cache, device = settings.cache_dir, choose_device(settings.device)
    if device.type == "cpu":
        keep_freed_memory()
    models = [gate.contestant(lake, lineage, device, cache) for lineage in (first, second)]
    judged = judged_data(settings, lake, models[1])
    slices = committed_slices(settings, lake, judged, models[1].model.reading)
    names = [lineage.version or lineage.run_id for lineage in (first, second)]
    a, b = _measure(models, judged, names, any(one.size is not None for one in slices))
    notify(tr("A: {a}, B: {b}", a=names[0], b=names[1]))
    described = trn(
        "{count} image of {split} in {data_path}",
        "{count} images of {split} in {data_path}",
        len(judged.images),
        split=judged.split,
        data_path=second.data_path,
    )
    notify(described)
    seen = [[not may for may in model.may_judge(judged.images)] for model in models]
    _report_seen(seen)
    result("\n" + class_table(a, b, settings.register_confidence))
    shown = _display_names(names)
    sides = [
        Side(name, one.model, measured, _describe(one.lineage), list(map(one.predictor, judged.images)))
        for name, one, measured in zip(shown, models, (a, b), strict=True)
    ]
    confidence, metric = settings.register_confidence or DEFAULT_CONFIDENCE, split_metric(settings.register_metric)
    gains = worst_first(measure_slices(slices, a, b, range(len(judged.images)), metric, confidence))
    if gains:
        result("\n" + slice_table(gains, "A", "B", confidence))
    items, seen_text = [image.item for image in judged.images], _describe_seen(shown, seen)
    found = Comparison(sides[0], sides[1], items, described, seen_text, confidence, metric, gains)
    result("\n" + image_table(a, b, order_by_difference(found.gains)[:SHOWN]))
    folder = output / re.sub(r"[^\w.-]+", "-", f"{names[0]}-{names[1]}")
    folder.mkdir(parents=True, exist_ok=True)
    write_page(folder / PAGE, found, device)
    content: dict[str, Any] = {
        "a": _record(first, a),
        "b": _record(second, b),
        "data": str(second.data_path),
        "split": judged.split,
        "slices": [one.content() for one in gains],
        "pictures": _image_records(items, a, b, seen),
    }
    write_atomically(folder / "compare.json", json.dumps(content, ensure_ascii=False, indent=1).encode())
    result(tr("page with the images: {path}", path=folder / PAGE))
    result(tr("all metrics: {path}", path=folder / "compare.json"))


def _measure(
    models: Sequence[Contestant], judged: JudgedData, names: Sequence[str], sizes: bool
) -> tuple[EvaluationResult, EvaluationResult]:
    """Measure A and B on the images of B. Raises UsageError if A was trained on ones of other bands or another depth."""
    classes, reading = models[1].model.classes, models[1].model.reading
    b = models[1].measure(judged.images, classes, "B", reading, sizes)
    try:
        return models[0].measure(judged.images, classes, "A", reading, sizes), b
    except UsageError as error:
        raise UsageError(
            tr(
                "{first} cannot read the images of {second} ({error}): compare models that were trained on images of the "
                "same kind",
                first=names[0],
                second=names[1],
                error=error,
            )
        ) from error


def _report_seen(seen: Sequence[Sequence[bool]]) -> None:
    """Say how many images A and B were trained on; `seen` of each model and image."""
    for name, of_model in zip("AB", seen, strict=True):
        if any(of_model):
            notify(
                tr(
                    "{name} was trained on {count} of them, which favours {name} (a promotion leaves these images out)",
                    name=name,
                    count=sum(of_model),
                )
            )


def _display_names(names: Sequence[str]) -> list[str]:
    """Return the names for readers: run IDs shortened, and told apart if both are the same."""
    shown = [name[:12] if RunId.accepts(name) else name for name in names]
    return [f"{name} ({letter})" for name, letter in zip(shown, "AB", strict=True)] if shown[0] == shown[1] else shown


def _describe_seen(names: Sequence[str], seen: Sequence[Sequence[bool]]) -> str:
    shown = [
        tr("{name} was trained on {count} of these images, which favours it.", name=name, count=sum(of_model))
        for name, of_model in zip(names, seen, strict=True)
        if any(of_model)
    ]
    return " ".join(shown)


def _describe(lineage: Lineage) -> list[tuple[str, str]]:
    return [
        (tr("version"), lineage.version or "-"),
        (tr("MLflow run"), lineage.run_id),
        (tr("model"), str(lineage.model_path)),
        (tr("data"), str(lineage.data_path)),
    ]


def _image_records(
    items: Sequence[Item], a: EvaluationResult, b: EvaluationResult, seen: Sequence[Sequence[bool]]
) -> list[dict[str, Any]]:
    return [
        {
            "name": item.name,
            "a": a.only([i]).metric("miou"),
            "b": b.only([i]).metric("miou"),
            "seen_by_a": seen[0][i],
            "seen_by_b": seen[1][i],
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
            rows.append([name, format_figure(old), format_figure(new), format_gain(new - old), ""])
    for metric, name in (("miou", "mIoU"), ("accuracy", tr("accuracy"))):
        total_a, total_b = a.metric(metric), b.metric(metric)
        interval = gain_interval(a, b, metric, confidence)
        shown = tr("too few groups") if interval is None else f"[{', '.join(map(format_gain, interval))}]"
        rows.append([name, a.format(metric), b.format(metric), format_gain(total_b - total_a), shown])
    return format_table([tr("class"), "A", "B", "B - A", format_confidence(confidence)], rows)


def image_table(a: EvaluationResult, b: EvaluationResult, shown: Sequence[int]) -> str:
    """Return a table of the mIoU of single images."""
    rows = []
    for index in shown:
        old, new = a.only([index]).metric("miou"), b.only([index]).metric("miou")
        rows.append([b.images[index], format_figure(old), format_figure(new), format_gain(new - old)])
    return format_table([tr("images that differ most (mIoU of the classes in each)"), "A", "B", "B - A"], rows)


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
