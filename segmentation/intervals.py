"""The confidence interval of a model's metric, and of a gain between two models that were measured on the same images.

Frames of one film, or slices of one patient, resemble each other: a hundred of them say little more than one, and an
interval that counts them as independent is far too short. So the groups of the split are the observations.

The variance is the delete-one-group jackknife, which suits ratios such as IoU (Efron & Tibshirani 1993, An Introduction
to the Bootstrap, ch. 11; MacKinnon, Nielsen & Webb 2023, J. Appl. Econometrics 38(5), for clusters). The factor is
Student's t, as a percentile bootstrap over ten groups covers only about 90 % where 95 % are wanted. A film of a thousand
frames beside four short ones does not make five equal observations: the effective number of groups of n pixels is
(sum n)^2 / sum n^2 (Kish 1965, Survey Sampling). The degrees of freedom lie halfway between that number and the number of
groups, less one: the latter covers too little for groups of unequal size, the former too much, as the jackknife is
already generous there.
`benchmarks/gate_coverage.py` simulates how often the interval covers the true gain.
"""

from __future__ import annotations

import math

from dataset.faults import GROUPS_TO_DECIDE
from segmentation.evaluation import EvaluationResult, Figures, metric_of_counts

MIN_GROUPS = GROUPS_TO_DECIDE


def gain_interval(
    before: EvaluationResult, after: EvaluationResult, metric: str, confidence: float
) -> tuple[float, float] | None:
    """Return the ends of the interval of the gain in `miou` or `accuracy`; None with fewer than MIN_GROUPS groups.

    Both results must be of the same images.
    """
    old, new = before.group_counts(), after.group_counts()
    labelled = new.sum((1, 2)) > 0  # a group without labelled pixels is not an observation
    old, new = old[labelled], new[labelled]
    if len(new) < MIN_GROUPS:
        return None
    gain = float(metric_of_counts(metric, new.sum(0)) - metric_of_counts(metric, old.sum(0)))
    # The gain over all groups but one, for each of them.
    gains = metric_of_counts(metric, new.sum(0) - new) - metric_of_counts(metric, old.sum(0) - old)
    half = _half_width(gains - gain, new.sum((1, 2)) / new.sum(), confidence)
    return gain - half, gain + half


def metric_interval(result: EvaluationResult, metric: str, confidence: float) -> tuple[float, float] | None:
    """Return the ends of the interval of `miou` or `accuracy`, within 0 and 1; None with fewer than MIN_GROUPS groups.

    It says how far the value would move with other groups of images, not with another training.
    """
    counts = result.group_counts()
    counts = counts[counts.sum((1, 2)) > 0]
    if len(counts) < MIN_GROUPS:
        return None
    total = counts.sum(0)
    value = float(metric_of_counts(metric, total))
    half = _half_width(metric_of_counts(metric, total - counts) - value, counts.sum((1, 2)) / total.sum(), confidence)
    return max(0.0, value - half), min(1.0, value + half)


def _half_width(deviations: Figures, weights: Figures, confidence: float) -> float:
    """Return half the length of the interval from what leaving out each group changes, and each group's weight."""
    from scipy.special import stdtrit

    groups, effective = len(weights), 1 / float((weights**2).sum())
    error = math.sqrt((groups - 1) / groups * float((deviations**2).sum()))
    freedom = max((groups + effective) / 2 - 1, 1.0)
    return float(stdtrit(freedom, (1 + confidence) / 2)) * error
