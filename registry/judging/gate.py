"""The promotion gate: measures a candidate and the champion on one split of one data commit, image by image.

Metrics in MLflow are not trusted: the candidate is measured again, and so is the champion, whose own metrics may come
from other data. Both models see the same images; an interval over their groups tells a gain from chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from core.errors import UsageError
from core.i18n import tr, trn
from dataset.checks.committed_groups import add_groups
from dataset.samples import Item, committed_items
from registry.judging.metrics import split_metric
from registry.judging.overlap import seen_in_training
from registry.judging.reasons import (
    UNDECIDED,
    check_classes,
    check_limits,
    check_reproduction,
    class_minimums,
    compare_results,
    describe_warning,
)
from registry.judging.slices import Slice, committed_slices, measure_slices, slice_reasons
from segmentation.evaluation import EvaluationResult, measure
from segmentation.model import Model
from segmentation.model_file import load_model
from utils.ensemble_file import parts_of_model
from utils.lakefs_utils import LakeFS
from utils.run_names import CHAMPION
from versioning.provenance.verdict import (
    ACCEPT_WARNINGS,
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
    slices = committed_slices(settings, lake, (data, split), items, model)
    sizes = any(one.size is not None for one in slices)
    minimums = class_minimums(settings.register_min_class_iou, model.classes.names)  # first: rejects unknown names
    new = measure(model, items, model.classes, device, tr("candidate"), sizes=sizes)
    metric = split_metric(settings.register_metric)
    file = lake.verified_file(candidate.model_path, candidate.model_sha256, cache)
    size = sum(part.stat().st_size for part in parts_of_model(file, candidate.model_sha256))
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
        *(describe_warning(text) for text in warnings),
        *check_reproduction(settings, candidate, new),
        *check_classes(minimums, new, split),
        *check_limits(settings, new, size),
    ]
    if champion is not None:
        current = download_model(lake, champion, device, cache)
        old = _measure_champion(current, champion, candidate, items, model, device, sizes)
        seen = seen_in_training(lake, champion, data, split, cache)
        record |= {"champion_version": champion.version, "seen_by_champion": len(seen)}
        keep = [index for index, item in enumerate(items) if not {item.name, item.file_name} & seen]
        found, metrics = _compare_unseen(settings, old, new, keep, slices)
        record |= metrics
        reasons += found
        waivable[WITHOUT_INTERVAL] = int(UNDECIDED in metrics)
    if reasons and sum(waivable.values()) == len(reasons):
        record[PROMOTE_BY] = [option for option, count in waivable.items() if count]
    number = champion.version.rsplit(" v", 1)[1] if champion and champion.version else None
    return Verdict(CHALLENGER if reasons else CHAMPION, tuple(reasons), number, record)


def _measure_champion(
    current: Model,
    champion: Lineage,
    candidate: Lineage,
    items: Sequence[Item],
    model: Model,
    device: torch.device,
    sizes: bool,
) -> EvaluationResult:
    """Measure the champion on the candidate's data. Raises UsageError if it cannot read them, as of other bands or depth."""
    try:
        return measure(current, items, model.classes, device, CHAMPION, model.reading, sizes)
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


def _compare_unseen(
    settings: Settings, old: EvaluationResult, new: EvaluationResult, keep: Sequence[int], slices: Sequence[Slice]
) -> tuple[list[str], dict[str, Any]]:
    """Compare two models on the images at the places `keep`, which the champion was not trained on, and on their slices."""
    if not keep:
        reason = trn(
            "the champion was trained on the only image of {split}: no image is left to compare on",
            "the champion was trained on all {count} images of {split}: no image is left to compare on",
            len(new.images),
            split=settings.register_split,
        )
        return [reason], {}
    reasons, metrics = compare_results(settings, old.only(keep), new.only(keep))
    metric = split_metric(settings.register_metric)
    gains = measure_slices(slices, old, new, keep, metric, settings.register_confidence)
    if gains:
        metrics[SLICES] = [one.content() for one in worst_first(gains)[:MAX_SLICES]]
    return reasons + slice_reasons(gains, metric), metrics
