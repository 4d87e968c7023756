"""Is a model good enough to be champion? Measured picture by picture on one split of one data commit, beside the champion.

The figures in MLflow are not believed: the candidate is measured again, and so is a champion, whose own figures may be
those of other data. Both models see the same pictures; chance is judged by resampling them.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from core.errors import UsageError
from core.i18n import tr
from core.settings import parse_minimums
from dataset.samples import committed_items
from registry.overlap import seen_in_training
from registry.versions import CHALLENGER, CHAMPION
from segmentation.evaluation import EvaluationResult, measure
from segmentation.model_file import Model, load_model
from utils.lakefs_utils import LakeFS

if TYPE_CHECKING:
    from config import Settings
    from utils.lineage import Lineage

RESAMPLES = 2000  # of the bootstrap: the ends of a 95 % interval then vary by about a twentieth of its length
# Below it, percentile intervals are too short to be believed: for a mean, sqrt(9/10) * 1.96 / 2.26 = 0.82 times Student's
# interval with 10 pictures, 0.63 times with 5, and one point with 1, which would call every gain proven.
LEAST_PICTURES = 10
REPEATED = 0.01  # how far a figure may lie from the run's own: other hardware and precision round differently


@dataclass(frozen=True)
class Verdict:
    """What the gate found; `to_tag` is what the registry keeps of it."""

    decision: str  # CHAMPION or CHALLENGER
    reasons: tuple[str, ...]
    against: str | None  # version number of the champion that it was compared with
    record: dict[str, Any]  # figures, data, conditions
    forced: dict[str, str] | None = None  # who, why and when, where a person decided

    def to_tag(self) -> str:
        """JSON; reasons are cut to what a tag of MLflow holds."""
        content = {"decision": self.decision, "against": self.against, **self.record}
        content |= {"forced": self.forced} if self.forced else {}
        return json.dumps({**content, "reasons": [reason[:400] for reason in self.reasons[:12]]}, ensure_ascii=False)


# --- measuring ------------------------------------------------------------------------------------------------------


def gain_interval(before: EvaluationResult, after: EvaluationResult, figure: str, confidence: float) -> tuple[float, float]:
    """Ends of the percentile bootstrap interval of the gain, over pictures, paired (Efron & Tibshirani 1993, ch. 13).

    The same pictures are drawn for both models, from a fixed seed: a second call gives the same interval.
    """
    count, random = len(after.images), np.random.default_rng(0)
    rows = max(1, 2_000_000 // count)  # of the table of draws that is in memory at once
    gains = []
    for start in range(0, RESAMPLES, rows):
        draws = random.multinomial(count, np.full(count, 1 / count), size=min(rows, RESAMPLES - start))
        gains.append(after.resampled(figure, draws) - before.resampled(figure, draws))
    low, high = np.quantile(np.concatenate(gains), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def load(lake: LakeFS, lineage: Lineage, device: torch.device, cache: Path) -> Model:
    """The model of a run or version, fetched and checked."""
    return load_model(lake.verified_file(lineage.model_path, lineage.model_sha256, cache), lineage.model_sha256, device)


# --- judging --------------------------------------------------------------------------------------------------------


def judge(
    settings: Settings, lake: LakeFS, candidate: Lineage, champion: Lineage | None, device: torch.device, cache: Path
) -> Verdict:
    """Measure the candidate, and the champion where there is one, on the candidate's data, and decide."""
    data, split = candidate.data_path, settings.register_split
    _, items = committed_items(lake, data, split, cache)
    model = load(lake, candidate, device, cache)
    minimum = class_minimum(settings.register_min_class_iou, model.classes.names)  # a wrong name is said at once
    new = measure(model, items, model.classes, device, tr("candidate"))
    figure = figure_of(settings.register_metric)
    record: dict[str, Any] = {"data": str(data), "split": split, "figure": figure, "pictures": len(items)}
    record |= {"candidate": new.metric(figure), "milliseconds": round(new.milliseconds, 3), "device": device.type}
    size = lake.verified_file(candidate.model_path, candidate.model_sha256, cache).stat().st_size
    record["megabytes"] = round(size / 1e6, 3)
    reasons = [
        *_repeated(settings, candidate, new),
        *_class_conditions(minimum, new, split),
        *_conditions(settings, new, size),
    ]
    if champion is not None:
        old = measure(load(lake, champion, device, cache), items, model.classes, device, CHAMPION)
        seen = seen_in_training(lake, champion, data, split, cache)
        keep = [index for index, item in enumerate(items) if item.name not in seen]
        record |= {"champion_version": champion.version, "seen_by_champion": len(seen)}
        if keep:
            found, figures = _against(settings, old.only(keep), new.only(keep), figure)
            record |= figures
            reasons += found
        else:
            reasons.append(
                tr(
                    "the champion was trained on all {count} pictures of {split}: nothing to compare on",
                    count=len(seen),
                    split=split,
                )
            )
    number = champion.version.rsplit(" v", 1)[1] if champion and champion.version else None
    return Verdict(CHALLENGER if reasons else CHAMPION, tuple(reasons), number, record)


def figure_of(metric: str) -> str:
    """The figure of a split that a run's metric speaks of."""
    return "accuracy" if "accuracy" in metric else "miou"


def _against(settings: Settings, old: EvaluationResult, new: EvaluationResult, figure: str) -> tuple[list[str], dict[str, Any]]:
    """Why the new model is not better than the old one, and the figures of both on these pictures."""
    before, after, confidence = old.metric(figure), new.metric(figure), settings.register_confidence
    gain, reasons = after - before, []
    count = len(new.images)
    figures: dict[str, Any] = {"compared": count, "champion": before, "gain": gain}
    if not gain > 0 or gain < settings.register_min_gain:
        needed = max(settings.register_min_gain, 0)
        reasons.append(
            tr(
                "{figure} {after:.4f}, champion {before:.4f}: gain {gain:+.4f}, needed more than {needed:.4f}",
                figure=figure,
                after=after,
                before=before,
                gain=gain,
                needed=needed,
            )
        )
    if confidence and count < LEAST_PICTURES:
        reasons.append(
            tr(
                "{count} pictures cannot tell a gain from chance: needed {least_pictures} "
                "(REGISTER_CONFIDENCE=0: not asked for)",
                count=count,
                least_pictures=LEAST_PICTURES,
            )
        )
    elif confidence:
        low, high = gain_interval(old, new, figure, confidence)
        figures |= {"interval": [low, high], "confidence": confidence}
        if gain > 0 and not low > 0:
            reasons.append(
                tr(
                    "the gain {gain:+.4f} may be chance: {confidence:.0%} interval over {count} "
                    "pictures [{low:+.4f}, {high:+.4f}]",
                    gain=gain,
                    confidence=confidence,
                    count=count,
                    low=low,
                    high=high,
                )
            )
    return reasons, figures


def _repeated(settings: Settings, candidate: Lineage, new: EvaluationResult) -> list[str]:
    """Whether the run's own figure is found again; it was measured on the validation split."""
    recorded = {"accuracy": "best_val_accuracy", "miou": "best_val_miou"}
    figure = figure_of(settings.register_metric)
    said = candidate.metrics.get(recorded[figure])
    if settings.register_split != "val" or said is None or abs(said - new.metric(figure)) <= REPEATED:
        return []
    return [
        tr(
            "the run's {recorded} {said:.4f} was not found again: measured {figure:.4f}",
            recorded=recorded[figure],
            said=said,
            figure=new.metric(figure),
        )
    ]


def _class_conditions(minimum: Mapping[str, float], new: EvaluationResult, split: str) -> list[str]:
    """Which classes are below their minimum, or do not occur: what nobody measured has not passed."""
    reasons = []
    for name, iou in new.iou().items():
        least = minimum.get(name, 0.0)
        if least and iou is None:
            reasons.append(
                tr(
                    "class {name}: does not occur in {split}, so its minimum {least:.4f} cannot "
                    "be checked ({name}=0: not asked for)",
                    name=name,
                    split=split,
                    least=least,
                )
            )
        elif iou is not None and iou < least:
            reasons.append(tr("class {name}: IoU {iou:.4f} < minimum {least:.4f}", name=name, iou=iou, least=least))
    return reasons


def _conditions(settings: Settings, new: EvaluationResult, size_bytes: int) -> list[str]:
    """Which of the other conditions of the settings fail: the file's size, the time a picture takes."""
    reasons = []
    most, slowest = settings.register_max_mb, settings.register_max_ms
    if most is not None and size_bytes > most * 1e6:
        reasons.append(
            tr("model file {size_bytes:.2f} MB > largest {most:.2f} MB", size_bytes=size_bytes / 1000000.0, most=most)
        )
    if slowest is not None and new.milliseconds > slowest:
        reasons.append(
            tr(
                "{milliseconds:.1f} ms a picture > most {slowest:.1f} ms",
                milliseconds=new.milliseconds,
                slowest=slowest,
            )
        )
    return reasons


def class_minimum(text: str | None, names: Sequence[str]) -> Mapping[str, float]:
    """The setting "0.2", "road=0.5 car=0.3" or both -> the least IoU of each class. Raises UsageError for an unknown one."""
    everywhere, single = parse_minimums("REGISTER_MIN_CLASS_IOU", text)
    for name in single:
        if name not in names:
            known = ", ".join(difflib.get_close_matches(name, names, n=1, cutoff=0) or names)
            raise UsageError(
                tr("REGISTER_MIN_CLASS_IOU: unknown class '{name}' (classes: {known})", name=name, known=known)
            )
    return (dict.fromkeys(names, everywhere) if everywhere is not None else {}) | single
