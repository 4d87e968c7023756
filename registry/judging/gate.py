"""The promotion gate: measures a candidate and the champion on one split of one data commit, image by image.

Metrics in MLflow are not trusted: the candidate is measured again, and so is the champion, whose own metrics may come
from other data. Both models see the same images, none that either was trained on; an interval over their groups tells a
gain from chance. Folds are judged by out-of-fold predictions of the images of train and val.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from core.errors import UsageError
from core.i18n import tr
from core.reporting import warn
from registry.judging.contestants import Contestant
from registry.judging.images import JudgedData, judged_data
from registry.judging.metrics import split_metric
from registry.judging.reasons import (
    UNDECIDED,
    check_classes,
    check_limits,
    check_reproduction,
    check_threshold,
    check_unseen,
    class_minimums,
    compare_results,
    describe_warning,
    unknown_parents,
    warnings_against,
)
from registry.judging.slices import Slice, committed_slices, measure_slices, slice_reasons
from segmentation.evaluation import EvaluationResult
from segmentation.model import Model
from segmentation.model_file import load_model
from utils.ensemble_file import parts_of_model
from utils.lakefs_utils import LakeFS
from utils.run_names import CHAMPION
from versioning.provenance.verdict import (
    ACCEPT_WARNINGS,
    ACCEPTED,
    CHALLENGER,
    PROMOTE_BY,
    SLICES,
    WITHOUT_INTERVAL,
    Verdict,
    worst_first,
)

if TYPE_CHECKING:
    from config import Settings
    from utils.lineage import Lineage

MAX_SLICES = 30  # of a verdict, the worst first
UNKNOWN_PARENTS = "unknown_parents"  # key of a verdict's record: models whose training images are not known, of either


def download_model(lake: LakeFS, lineage: Lineage, device: torch.device, cache: Path) -> Model:
    """Download the model of a run or version, verify it and load it."""
    return load_model(lake.verified_file(lineage.model_path, lineage.model_sha256, cache), lineage.model_sha256, device)


def contestant(lake: LakeFS, lineage: Lineage, device: torch.device, cache: Path) -> Contestant:
    """Download the model of a run or version, and find what it was trained on."""
    return Contestant.load(lake, lineage, device, cache, download_model(lake, lineage, device, cache))


def judge(
    settings: Settings, lake: LakeFS, candidate: Lineage, champion: Lineage | None, device: torch.device, cache: Path
) -> Verdict:
    """Measure the candidate, and the champion if there is one, on the candidate's data, and decide."""
    one = contestant(lake, candidate, device, cache)
    judged = judged_data(settings, lake, one)
    slices = committed_slices(settings, lake, judged, one.model.reading)
    sizes = any(part.size is not None for part in slices)
    class_minimums(settings.register_min_class_iou, one.model.classes.names)  # first: rejects unknown names
    new = one.measure(judged.images, one.model.classes, tr("candidate"), sizes=sizes)
    unseen = [place for place, may in enumerate(one.may_judge(judged.images)) if may]
    record = _describe_candidate(settings, one, judged, new, unseen)
    stored, parents = warnings_against(one, judged, new.only(unseen)), unknown_parents(one, judged)
    warnings = [*map(describe_warning, stored), *parents]
    if warnings and settings.register_accept_warnings:
        record[ACCEPTED] = [*stored, *parents]
        warnings = []
    waivable = {ACCEPT_WARNINGS: len(warnings)}  # option -> reasons that it removes
    reasons = [
        *warnings,
        *check_reproduction(settings, one, judged, new, unseen),
        *_check_candidate(settings, one, judged, new.only(unseen), record),
    ]
    if champion is not None:
        other = contestant(lake, champion, device, cache)
        old = _measure_champion(other, one, judged, sizes)
        may = other.may_judge(judged.images)
        record |= {"champion_version": champion.version, "seen_by_champion": may.count(False)}
        _report_unknown_champion(other, record)
        keep = [place for place in unseen if may[place]]
        if unseen:
            who = tr("the candidate or the champion") if any(may) else tr("the champion")
            found, metrics = _compare_unseen(settings, judged, (old, new), keep, slices, who)
            record |= metrics
            reasons += found
            waivable[WITHOUT_INTERVAL] = int(UNDECIDED in metrics)
    if reasons and sum(waivable.values()) == len(reasons):
        record[PROMOTE_BY] = [option for option, count in waivable.items() if count]
    number = champion.version.rsplit(" v", 1)[1] if champion and champion.version else None
    return Verdict(CHALLENGER if reasons else CHAMPION, tuple(reasons), number, record)


def _describe_candidate(
    settings: Settings, one: Contestant, judged: JudgedData, new: EvaluationResult, unseen: Sequence[int]
) -> dict[str, Any]:
    """Return the conditions, and what was measured of the candidate."""
    metric = split_metric(settings.register_metric)
    return {
        "data": str(one.lineage.data_path),
        "split": judged.split,
        "figure": metric,
        "pictures": len(judged.images),
        "candidate": new.only(unseen).metric(metric),
        "seen_by_candidate": len(judged.images) - len(unseen),
        "milliseconds": round(new.milliseconds, 3),
        "device": one.device.type,
    }


def _check_candidate(
    settings: Settings, one: Contestant, judged: JudgedData, new: EvaluationResult, record: dict[str, Any]
) -> list[str]:
    """Return why the candidate is not good enough by itself, on the images that it was not trained on."""
    size = sum(part.stat().st_size for part in parts_of_model(one.file, one.lineage.model_sha256))
    record["megabytes"] = round(size / 1e6, 3)
    limits = check_limits(settings, new, size)
    if not new.images:
        return [*check_unseen(judged, tr("the candidate")), *limits]
    minimums = class_minimums(settings.register_min_class_iou, one.model.classes.names)
    return [
        *check_threshold(settings, judged, new),
        *check_classes(minimums, new, judged.split),
        *limits,
    ]


def _report_unknown_champion(champion: Contestant, record: dict[str, Any]) -> None:
    """Warn that the champion may have been trained on the judged images: that only makes it harder to replace."""
    for reference in champion.trained.unknown:
        warn(
            tr(
                "the champion started from {reference}, whose training images are not known: it may be favoured",
                reference=reference,
            )
        )
    if champion.trained.unknown:
        record[UNKNOWN_PARENTS] = list(champion.trained.unknown)


def _measure_champion(champion: Contestant, candidate: Contestant, judged: JudgedData, sizes: bool) -> EvaluationResult:
    """Measure the champion on the candidate's data. Raises UsageError if it cannot read them, as of other bands or depth."""
    reading, classes = candidate.model.reading, candidate.model.classes
    try:
        return champion.measure(judged.images, classes, CHAMPION, reading, sizes)
    except UsageError as error:
        raise UsageError(
            tr(
                "the champion {version} cannot read the images of the candidate ({error}): register models of such images "
                "under a name of their own (REGISTERED_MODEL=NAME), or replace the champion without a comparison by "
                "python register_model.py --run-id {run_id} --force REASON",
                version=champion.lineage.version,
                error=error,
                run_id=candidate.lineage.run_id,
            )
        ) from error


def _compare_unseen(
    settings: Settings,
    judged: JudgedData,
    measured: tuple[EvaluationResult, EvaluationResult],
    keep: Sequence[int],
    slices: Sequence[Slice],
    who: str,
) -> tuple[list[str], dict[str, Any]]:
    """Compare champion and candidate on the images at the places `keep`, which neither saw, and on their slices.

    `who` has seen the others.
    """
    if not keep:
        return check_unseen(judged, who), {}
    old, new = measured
    reasons, metrics = compare_results(settings, old.only(keep), new.only(keep))
    metric = split_metric(settings.register_metric)
    gains = measure_slices(slices, old, new, keep, metric, settings.register_confidence)
    if gains:
        metrics[SLICES] = [gain.content() for gain in worst_first(gains)[:MAX_SLICES]]
    return reasons + slice_reasons(gains, metric), metrics
