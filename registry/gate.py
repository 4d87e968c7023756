"""The promotion gate: measures a candidate and the champion on one split of one data commit, image by image.

Metrics in MLflow are not trusted: the candidate is measured again, and so is the champion, whose own metrics may come
from other data. Both models see the same images; an interval over their groups tells a gain from chance.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from core.errors import UsageError
from core.i18n import tr, trn
from core.settings import parse_minimums
from dataset.checks.committed_groups import add_groups
from dataset.samples import Item, committed_items
from registry.intervals import MIN_GROUPS, gain_interval
from registry.metrics import run_metric, split_metric
from registry.overlap import seen_in_training
from segmentation.evaluation import EvaluationResult, measure
from segmentation.means import Coverage, format_mean, format_metric
from segmentation.model_file import Model, load_model
from utils.lakefs_utils import LakeFS
from utils.run_names import CHAMPION
from versioning.provenance.verdict import ACCEPT_WARNINGS, CHALLENGER, PROMOTE_BY, WITHOUT_INTERVAL, Verdict

if TYPE_CHECKING:
    from config import Settings
    from utils.lineage import Lineage

UNDECIDED = "undecided"  # key of a verdict's record; true: too few groups to tell the gain from chance
ROUNDING = 1e-9  # of a gain: 0.61 - 0.6 passes a minimum of 0.01
REPRODUCTION_TOLERANCE = 0.01  # of a metric: other hardware and precision round differently


# --- measuring ---


def download_model(lake: LakeFS, lineage: Lineage, device: torch.device, cache: Path) -> Model:
    """Download the model of a run or version, verify it and load it."""
    return load_model(lake.verified_file(lineage.model_path, lineage.model_sha256, cache), lineage.model_sha256, device)


# --- judging ---


def judge(
    settings: Settings, lake: LakeFS, candidate: Lineage, champion: Lineage | None, device: torch.device, cache: Path
) -> Verdict:
    """Measure the candidate, and the champion if there is one, on the candidate's data, and decide."""
    data, split = candidate.data_path, settings.register_split
    _, items = committed_items(lake, data, split, cache)
    model = download_model(lake, candidate, device, cache)
    items = add_groups(lake, data, (split, items), cache, model.classes, model.reading, settings.split_group)
    minimums = class_minimums(settings.register_min_class_iou, model.classes.names)  # first: rejects unknown names
    new = measure(model, items, model.classes, device, tr("candidate"))
    metric = split_metric(settings.register_metric)
    size = lake.verified_file(candidate.model_path, candidate.model_sha256, cache).stat().st_size
    record: dict[str, Any] = {
        "data": str(data),
        "split": split,
        "figure": metric,
        "pictures": len(items),
        "candidate": new.metric(metric),
        "milliseconds": round(new.milliseconds, 3),
        "device": device.type,
        "megabytes": round(size / 1e6, 3),
    }
    warnings = [warning.text for warning in model.warnings if warning.counts_against(split)]
    if warnings and settings.register_accept_warnings:
        record["accepted"] = warnings
        warnings = []
    waivable = {ACCEPT_WARNINGS: len(warnings)}  # option -> reasons that it removes
    reasons = [
        *(_describe_warning(text) for text in warnings),
        *_check_reproduction(settings, candidate, new),
        *_check_classes(minimums, new, split),
        *_check_limits(settings, new, size),
    ]
    if champion is not None:
        current = download_model(lake, champion, device, cache)
        old = _measure_champion(current, champion, candidate, items, model, device)
        seen = seen_in_training(lake, champion, data, split, cache)
        record |= {"champion_version": champion.version, "seen_by_champion": len(seen)}
        found, metrics = _compare_unseen(settings, old, new, items, seen)
        record |= metrics
        reasons += found
        waivable[WITHOUT_INTERVAL] = int(UNDECIDED in metrics)
    if reasons and sum(waivable.values()) == len(reasons):
        record[PROMOTE_BY] = [option for option, count in waivable.items() if count]
    number = champion.version.rsplit(" v", 1)[1] if champion and champion.version else None
    return Verdict(CHALLENGER if reasons else CHAMPION, tuple(reasons), number, record)


def _measure_champion(
    current: Model, champion: Lineage, candidate: Lineage, items: Sequence[Item], model: Model, device: torch.device
) -> EvaluationResult:
    """Measure the champion on the candidate's data. Raises UsageError if it cannot read them, as of other bands or depth."""
    try:
        return measure(current, items, model.classes, device, CHAMPION, model.reading)
    except UsageError as error:
        raise UsageError(
            tr(
                "the champion {version} cannot read the images of the candidate ({error}): register models of such images "
                "under a name of their own (REGISTERED_MODEL=NAME), or replace the champion without a comparison by "
                "python register_model.py --run-id {run_id} --force REASON",
                version=champion.version,
                error=error,
                run_id=candidate.run_id,
            )
        ) from error


def _describe_warning(text: str) -> str:
    """Return the reason for a warning about the validation data that is stored with the model."""
    return tr("{text} (warning of the data check; --accept-warnings promotes all the same)", text=text)


def _compare_unseen(
    settings: Settings, old: EvaluationResult, new: EvaluationResult, items: Sequence[Item], seen: set[str]
) -> tuple[list[str], dict[str, Any]]:
    """Compare two models on the images that the champion was not trained on; see `_compare`."""
    keep = [index for index, item in enumerate(items) if not {item.name, item.file_name} & seen]
    if keep:
        return _compare(settings, old.only(keep), new.only(keep))
    reason = trn(
        "the champion was trained on the only image of {split}: no image is left to compare on",
        "the champion was trained on all {count} images of {split}: no image is left to compare on",
        len(seen),
        split=settings.register_split,
    )
    return [reason], {}


def _compare(settings: Settings, old: EvaluationResult, new: EvaluationResult) -> tuple[list[str], dict[str, Any]]:
    """Return why the new model is not better than the old one, and the metrics of both on these images."""
    metric, confidence, groups = (
        split_metric(settings.register_metric),
        settings.register_confidence,
        len(set(new.groups)),
    )
    before, after = old.metric(metric), new.metric(metric)
    gain = after - before
    reasons: list[str] = []
    metrics: dict[str, Any] = {
        "compared": len(new.images),
        "groups": groups,
        "classes": str(new.coverage) if metric == "miou" else None,
        "champion": before,
        "gain": gain,
    }
    reasons += check_gain(settings.register_min_gain, metric, before, after, new.coverage)
    interval = gain_interval(old, new, metric, confidence) if confidence else None
    if confidence and interval is None:
        metrics[UNDECIDED] = True
        reasons.append(
            tr(
                "images: {images}, groups: {count} (films, patients; else each image is one): an interval of the "
                "gain needs at least {minimum} groups, so it may be chance (--confidence 0 disables this check)",
                images=len(new.images),
                count=groups,
                minimum=MIN_GROUPS,
            )
        )
    elif interval is not None:
        low, high = interval
        metrics |= {"interval": [low, high], "confidence": confidence}
        if gain > 0 and not low > 0:
            reasons.append(
                tr(
                    "the gain {gain:+.4f} may be chance: {confidence:.0%} interval over {count} "
                    "groups [{low:+.4f}, {high:+.4f}]",
                    gain=gain,
                    confidence=confidence,
                    count=groups,
                    low=low,
                    high=high,
                )
            )
    return reasons, metrics


def check_gain(minimum: float, metric: str, before: float, after: float, coverage: Coverage | None) -> list[str]:
    """Return a reason if the gain is not above 0, or below the minimum of the settings; `coverage` is that of a mean."""
    gain = after - before
    if gain > 0 and gain >= minimum - ROUNDING:
        return []
    needed = tr("at least {minimum:.4f}", minimum=minimum) if minimum > 0 else tr("more than 0")
    return [
        tr(
            "{metric} {after}, champion {before}: gain {gain:+.4f}, needed {needed}",
            metric=metric,
            after=format_mean(after, coverage if metric == "miou" else None),
            before=format_mean(before, coverage if metric == "miou" else None),
            gain=gain,
            needed=needed,
        )
    ]


def _check_reproduction(settings: Settings, candidate: Lineage, new: EvaluationResult) -> list[str]:
    """Return a reason if the run's own metric of the split is not reproduced; older runs have none of the test split."""
    metric = split_metric(settings.register_metric)
    name = run_metric(settings.register_split, metric)
    recorded, measured = candidate.metrics.get(name), new.metric(metric)
    if recorded is None or abs(recorded - measured) <= REPRODUCTION_TOLERANCE:
        return []
    return [
        tr(
            "the run's {metric} {recorded} could not be reproduced: measured {measured}",
            metric=name,
            recorded=format_metric(name, recorded, candidate.classes),
            measured=new.format(metric),
        )
    ]


def _check_classes(minimums: Mapping[str, float], new: EvaluationResult, split: str) -> list[str]:
    """Return a reason for each class below its minimum, or with a minimum but absent from the split."""
    reasons = []
    for name, iou in new.iou().items():
        minimum = minimums.get(name, 0.0)
        if minimum and iou is None:
            reasons.append(
                tr(
                    "class {name}: does not occur in {split}, so its minimum {minimum:.4f} cannot "
                    "be checked ({name}=0 disables this check)",
                    name=name,
                    split=split,
                    minimum=minimum,
                )
            )
        elif iou is not None and iou < minimum:
            reasons.append(
                tr("class {name}: IoU {iou:.4f} < minimum {minimum:.4f}", name=name, iou=iou, minimum=minimum)
            )
    return reasons


def _check_limits(settings: Settings, new: EvaluationResult, size_bytes: int) -> list[str]:
    """Return a reason for each exceeded limit of the settings: size of the model file, time per image."""
    reasons = []
    max_mb, max_ms = settings.register_max_mb, settings.register_max_ms
    if max_mb is not None and size_bytes > max_mb * 1e6:
        reasons.append(
            tr("model file {size_mb:.2f} MB > maximum {max_mb:.2f} MB", size_mb=size_bytes / 1e6, max_mb=max_mb)
        )
    if max_ms is not None and new.milliseconds > max_ms:
        reasons.append(
            tr(
                "{milliseconds:.1f} ms per image > maximum {max_ms:.1f} ms",
                milliseconds=new.milliseconds,
                max_ms=max_ms,
            )
        )
    return reasons


def class_minimums(text: str | None, names: Sequence[str]) -> Mapping[str, float]:
    """Return the minimum IoU of each class for "0.2", "road=0.5 car=0.3" or both.

    Raises UsageError for an unknown class.
    """
    everywhere, single = parse_minimums("REGISTER_MIN_CLASS_IOU", text)
    for name in single:
        if name not in names:
            known = ", ".join(difflib.get_close_matches(name, names, n=1, cutoff=0) or names)
            raise UsageError(
                tr("REGISTER_MIN_CLASS_IOU: unknown class '{name}' (classes: {known})", name=name, known=known)
            )
    return (dict.fromkeys(names, everywhere) if everywhere is not None else {}) | single
