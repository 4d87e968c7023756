"""What speaks against a promotion: the gain over the champion, minimums of classes, limits, metrics that differ from the run's."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from core.errors import UsageError
from core.i18n import tr, trn
from core.settings import parse_minimums
from dataset.faults import GROUPS_TO_DECIDE, SMALL_SPLIT, SMALL_SPLIT_IMAGES
from registry.judging.metrics import run_metric, split_metric
from segmentation.evaluation import EvaluationResult
from segmentation.intervals import MIN_GROUPS, gain_interval
from segmentation.means import Coverage, format_mean, format_metric

if TYPE_CHECKING:
    from config import Settings
    from registry.judging.contestants import Contestant
    from registry.judging.images import JudgedData

UNDECIDED = "undecided"  # key of a verdict's record; true: too few groups to tell the gain from chance
ROUNDING = 1e-9  # of a gain: 0.61 - 0.6 passes a minimum of 0.01
REPRODUCTION_TOLERANCE = 0.01  # of a metric: other hardware and precision round differently


def describe_warning(text: str) -> str:
    """Return the reason for a warning about the validation data that is stored with the model."""
    return tr("{text} (warning of the data check; --accept-warnings promotes all the same)", text=text)


def compare_results(
    settings: Settings, old: EvaluationResult, new: EvaluationResult
) -> tuple[list[str], dict[str, Any]]:
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


def check_reproduction(
    settings: Settings, one: Contestant, judged: JudgedData, new: EvaluationResult, unseen: Sequence[int]
) -> list[str]:
    """Return a reason if the run's own metric of the images is not reproduced; older runs have none of the test split.

    The run of a warm start has measured all images of its split, a run of folds those that a fold held out.
    """
    metric = split_metric(settings.register_metric)
    name, same = run_metric(judged.split, metric), new.only(unseen) if judged.out_of_fold else new
    recorded, measured = one.lineage.metrics.get(name), same.metric(metric)
    if recorded is None or abs(recorded - measured) <= REPRODUCTION_TOLERANCE:
        return []
    return [
        tr(
            "the run's {metric} {recorded} could not be reproduced: measured {measured}",
            metric=name,
            recorded=format_metric(name, recorded, one.lineage.classes),
            measured=same.format(metric),
        )
    ]


def check_threshold(settings: Settings, judged: JudgedData, unseen: EvaluationResult) -> list[str]:
    """Return a reason if the candidate is below the threshold on the images that it has not seen by a warm start.

    On all images, the threshold was checked by the run's own metric before.
    """
    metric, threshold = split_metric(settings.register_metric), settings.register_threshold
    applies = settings.register_metric == run_metric(settings.register_split, metric)
    value = unseen.metric(metric)
    if not applies or len(unseen.images) == len(judged.images) or value >= threshold:
        return []
    return [
        tr(
            "{metric} {value} < threshold {threshold:.4f} on the {count} images of {split} that neither the model nor the "
            "one that it started from was trained on",
            metric=metric,
            value=unseen.format(metric),
            threshold=threshold,
            count=len(unseen.images),
            split=judged.split,
        )
    ]


def check_unseen(judged: JudgedData, model: str) -> list[str]:
    """Return the reason of a split whose images were all in the training of `model`, or of what it started from."""
    if judged.out_of_fold:
        advice = tr("label new images and train with --folds again, or put them into test and set REGISTER_SPLIT=test")
    else:
        advice = tr("train with --folds 5, or put new images into test and set REGISTER_SPLIT=test")
    count = len(judged.images)
    return [
        trn(
            "{model} was trained on the only image of {split}, or started from a model that was: no image is left to "
            "compare on: {advice}",
            "{model} was trained on all {count} images of {split}, or started from a model that was: no image is left to "
            "compare on: {advice}",
            count,
            model=model,
            split=judged.split,
            advice=advice,
        )
    ]


def warnings_against(one: Contestant, judged: JudgedData, unseen: EvaluationResult) -> list[str]:
    """Return the stored warnings of the data check by which the judged images say little about the model.

    Those about a small val do not count where enough out-of-fold images decide; where these are few, that is a warning.
    """
    found = [warning for warning in one.model.warnings if warning.counts_against(judged.split)]
    if not judged.out_of_fold:
        return [warning.text for warning in found]
    images, groups = len(unseen.images), len(set(unseen.groups))
    complete = unseen.coverage.present == unseen.coverage.total
    kept = [warning.text for warning in found if warning.kind != SMALL_SPLIT and not complete]
    if images > SMALL_SPLIT_IMAGES and groups >= GROUPS_TO_DECIDE:
        return kept
    few = tr(
        "images that a fold held out: {images}, groups: {groups}: too few to judge by", images=images, groups=groups
    )
    return [*kept, few]


def unknown_parents(one: Contestant, judged: JudgedData) -> list[str]:
    """Return a warning for each model that the candidate started from whose training images are not known."""
    return [
        tr(
            "the training started from {reference}, whose training images are not known: images of {split} may be among "
            "them (--accept-warnings promotes all the same)",
            reference=reference,
            split=judged.split,
        )
        for reference in one.trained.unknown
    ]


def check_classes(minimums: Mapping[str, float], new: EvaluationResult, split: str) -> list[str]:
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


def check_limits(settings: Settings, new: EvaluationResult, size_bytes: int) -> list[str]:
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
