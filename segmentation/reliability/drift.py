"""Recognize images unlike those of the training, by statistics of their pixels and by the features of the encoder.

Each statistic has a distance from the median of the training: 1 is that of its outermost images. An image's score is the
largest of its distances, divided by the threshold: the score that 99.5 % of the training images stay below when they are
scored by the others (five parts, each by the other four), so that a small split has a wide threshold.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from core.errors import AppError
from core.i18n import tr
from segmentation.reliability.features import FeatureDistribution, Features
from segmentation.reliability.statistics import FEATURES, REASONS, Figures, kind_of, statistic_names

LEAST_IMAGES = 8  # of the training split; fewer say nothing about what is usual
OUTERMOST = 0.005  # fraction of the training images on each side of a statistic
FALSE_ALARMS = 0.005  # fraction of training images beyond the threshold
VAL_ALARMS = 0.02  # fraction of validation images beyond it, at most
WIDEST = 1.5  # times the threshold of the training, to which the validation images may move it
PARTS = 5


@dataclass(frozen=True)
class Drift:
    """How far an image is from those of the training: flagged if `score` is above 1, because of `reasons`, of REASONS."""

    score: float
    reasons: tuple[str, ...]

    @property
    def flagged(self) -> bool:
        """Whether the image is unlike those of the training."""
        return bool(self.reasons)


@dataclass(frozen=True)
class Observations:
    """What was measured of N images: statistics (N,s), and features (N,d) of the deepest map, if the network has one."""

    statistics: Figures
    features: Features | None

    def __len__(self) -> int:
        return len(self.statistics)

    def only(self, rows: npt.NDArray[np.bool_]) -> Observations:
        """Return some images."""
        return Observations(self.statistics[rows], None if self.features is None else self.features[rows])


@dataclass(frozen=True)
class TrainingDistribution:
    """What the images of a training are like; stored with its model.

    `center`, `below`, `above` (s,): median of each statistic and the distances of 1 on both sides; `feature_scale`: the
    distance of features that counts as 1.
    """

    bands: int
    center: tuple[float, ...]
    below: tuple[float, ...]
    above: tuple[float, ...]
    threshold: float
    features: FeatureDistribution | None = None
    feature_scale: float = 1.0

    def check(self, statistics: Figures, features: Features | None) -> Drift:
        """Compare an image; without features, only its statistics are. Raises AppError for features of another network."""
        if features is not None and self.features is not None and features.shape != self.features.mean.shape:
            raise AppError(
                tr("the model file describes features that its network does not have: train the model again")
            )
        one = None if features is None else features[None]
        scores = self.scores(Observations(statistics[None], one))[0] / self.threshold
        beyond: dict[str, float] = {}
        for name, score in zip(self._reasons(), scores.tolist(), strict=False):
            if score > 1:
                beyond[name] = max(score, beyond.get(name, 0.0))
        return Drift(float(scores.max()), tuple(sorted(beyond, key=lambda name: (-beyond[name], REASONS.index(name)))))

    def _reasons(self) -> list[str]:
        return [*(kind_of(name)[0] for name in statistic_names(self.bands)), FEATURES]

    def scores(self, seen: Observations) -> Figures:
        """Return the distance of each statistic, and of the features in the last column, (N,s+1) or (N,s)."""
        away = seen.statistics - np.asarray(self.center)
        scores: Figures = np.where(away < 0, -away / np.asarray(self.below), away / np.asarray(self.above))
        if self.features is None or seen.features is None:
            return scores
        return np.column_stack([scores, self.features.distances(seen.features) / self.feature_scale])

    def alarms(self, seen: Observations) -> float:
        """Return the fraction of images that are flagged; 0 of none."""
        return float((self.scores(seen).max(1) > self.threshold).mean()) if len(seen) else 0.0

    def widened(self, val: Observations) -> TrainingDistribution:
        """Return this with a threshold that flags at most VAL_ALARMS of the validation images, if WIDEST allows it.

        They are of the same data: what is flagged there would be a false alarm.
        """
        if self.alarms(val) <= VAL_ALARMS:
            return self
        wanted = float(np.quantile(self.scores(val).max(1), 1 - VAL_ALARMS, method="higher")) * (1 + 1e-6)
        return replace(self, threshold=min(wanted, WIDEST * self.threshold))


def fit_distribution(bands: int, seen: Observations, module: str | None) -> TrainingDistribution | None:
    """Return what these training images are like; None for fewer than LEAST_IMAGES. `module`: the one of the features."""
    if len(seen) < LEAST_IMAGES:
        return None
    part = np.arange(len(seen)) % PARTS
    held_out = [_fit(bands, seen.only(part != i), module) for i in range(PARTS)]
    fitted = _fit(bands, seen, module)
    scale = fitted.feature_scale
    if seen.features is not None:
        far = np.concatenate(
            [one.features.distances(seen.features[part == i]) for i, one in enumerate(held_out) if one.features]
        )
        scale = float(np.quantile(far, 1 - FALSE_ALARMS, method="higher"))
    held_out = [replace(one, feature_scale=scale) for one in held_out]
    worst = np.concatenate([one.scores(seen.only(part == i)).max(1) for i, one in enumerate(held_out)])
    threshold = max(1.0, float(np.quantile(worst, 1 - FALSE_ALARMS, method="higher")))
    return replace(fitted, feature_scale=scale, threshold=threshold)


def _fit(bands: int, seen: Observations, module: str | None) -> TrainingDistribution:
    least = np.array([kind_of(name)[1] for name in statistic_names(bands)])
    low, center, high = np.quantile(seen.statistics, (OUTERMOST, 0.5, 1 - OUTERMOST), axis=0)
    features = None
    if module is not None and seen.features is not None:
        features = FeatureDistribution.fit(module, seen.features)
    below, above = np.maximum(center - low, least), np.maximum(high - center, least)
    return TrainingDistribution(
        bands, tuple(center.tolist()), tuple(below.tolist()), tuple(above.tolist()), 1.0, features
    )
