"""Recognize images unlike those of the training, by statistics of their pixels and by the features of the encoder.

An image is scored in several ways: each statistic by its distance from the median of the training, and all statistics
together, and the features of the encoder, by their Mahalanobis distance. In each way, 1 is what 95 % of the training
images stay below when they are scored by the others (five parts, each by the other four), so that a small split is
generous. The score of an image is the largest one, divided by a threshold that 99.5 % of the training images stay below.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from core.errors import AppError
from core.i18n import tr
from segmentation.reliability.features import FeatureDistribution, Features
from segmentation.reliability.statistics import COMBINATION, FEATURES, REASONS, Figures, kind_of, statistic_names

LEAST_IMAGES = 8  # of the training split; fewer say nothing about what is usual
OUTERMOST = 0.005  # fraction of the training images on each side of a statistic
COLUMN = 0.05  # fraction of the training images beyond 1 in each way
FALSE_ALARMS = 0.005  # fraction of training images beyond the threshold
VAL_ALARMS = 0.02  # fraction of validation images beyond it, at most
WIDEST = 1.5  # times what the training says, to which the validation images may move it
PARTS = 5
LEAST_SCALE, MOST = 1e-6, 1e6  # of a scale, and of a score, that is not a number otherwise
APART = ("size", "aspect")  # statistics of the file, which say nothing together with those of the pixels


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

    `center`, `below`, `above` (s,): median of each statistic and the distances of 1 on both sides. `scales`: the distances
    of 1 of `combination`, of all statistics together, and of `features`.
    """

    bands: int
    center: tuple[float, ...]
    below: tuple[float, ...]
    above: tuple[float, ...]
    combination: FeatureDistribution
    features: FeatureDistribution | None = None
    scales: tuple[float, float] = (1.0, 1.0)
    threshold: float = 1.0

    def check(self, statistics: Figures, features: Features | None) -> Drift:
        """Compare an image; without features, only its statistics are. Raises AppError for features of another network."""
        if features is not None and self.features is not None and features.shape != self.features.mean.shape:
            raise AppError(
                tr("the model file describes features that its network does not have: train the model again")
            )
        one = None if features is None else features[None]
        scores = self.scores(Observations(statistics[None], one))[0] / self.threshold
        scores = np.nan_to_num(scores, nan=MOST, posinf=MOST)  # features that are not finite are unlike any
        beyond: dict[str, float] = {}
        for name, score in zip(self._reasons(), scores.tolist(), strict=False):
            if score > 1:
                beyond[name] = max(score, beyond.get(name, 0.0))
        return Drift(float(scores.max()), tuple(sorted(beyond, key=lambda name: (-beyond[name], REASONS.index(name)))))

    def _reasons(self) -> list[str]:
        return [*(kind_of(name)[0] for name in statistic_names(self.bands)), COMBINATION, FEATURES]

    def scores(self, seen: Observations) -> Figures:
        """Return the scores of each statistic, of their combination, and, with features, of those, (N,s+1) or (N,s+2)."""
        away = seen.statistics - np.asarray(self.center)
        parts = [np.where(away < 0, -away / np.asarray(self.below), away / np.asarray(self.above))]
        parts.append(self.combination.distances(combined(self.bands, seen.statistics))[:, None] / self.scales[0])
        if self.features is not None and seen.features is not None:
            parts.append(self.features.distances(seen.features)[:, None] / self.scales[1])
        return np.concatenate(parts, 1)

    def alarms(self, seen: Observations) -> float:
        """Return the fraction of images that are flagged; 0 of none."""
        return float((self.scores(seen).max(1) > self.threshold).mean()) if len(seen) else 0.0

    def scaled(self, factors: Figures) -> TrainingDistribution:
        """Return this with the distances of 1 multiplied, in the order of `scores`."""
        count, (combination, features) = len(self.center), self.scales
        own = factors[:count]
        last = float(factors[count + 1]) if len(factors) > count + 1 else 1.0
        return replace(
            self,
            below=tuple((np.asarray(self.below) * own).tolist()),
            above=tuple((np.asarray(self.above) * own).tolist()),
            scales=(combination * float(factors[count]), features * last),
        )

    def widened(self, val: Observations) -> TrainingDistribution:
        """Return this so that it flags at most VAL_ALARMS of the validation images, as far as WIDEST allows it.

        They are of the same data: what is flagged there would be a false alarm.
        """
        if self.alarms(val) <= VAL_ALARMS:
            return self
        wide = self.scaled(np.clip(_quantile(self.scores(val), VAL_ALARMS), 1, WIDEST))
        if wide.alarms(val) <= VAL_ALARMS:
            return wide
        wanted = float(_quantile(wide.scores(val).max(1), VAL_ALARMS)) * (1 + 1e-6)
        return replace(wide, threshold=min(wanted, WIDEST * self.threshold))


def _quantile(scores: Figures, beyond: float) -> Figures:
    """Return the scores that this fraction of the images is beyond, of each column."""
    return np.asarray(np.quantile(scores, 1 - beyond, axis=0, method="higher"))


def combined(bands: int, statistics: Figures) -> Features:
    """Return what is looked at together of statistics (N,s), each in units of its smallest distance that means anything."""
    names = statistic_names(bands)
    chosen = [index for index, name in enumerate(names) if name not in APART]
    least = np.array([kind_of(names[index])[1] for index in chosen])
    return np.asarray(statistics[:, chosen] / least, np.float32)


def fit_distribution(bands: int, seen: Observations, module: str | None) -> TrainingDistribution | None:
    """Return what these training images are like; None for fewer than LEAST_IMAGES. `module`: the one of the features."""
    if len(seen) < LEAST_IMAGES:
        return None
    part, scores = np.arange(len(seen)) % PARTS, []
    for number in range(PARTS):
        others = _fit(bands, seen.only(part != number), module)
        scores.append(others.scores(seen.only(part == number)))
    held_out = np.concatenate(scores)
    factors = np.clip(_quantile(held_out, COLUMN), LEAST_SCALE, MOST)  # images that are all equal have none
    own = len(statistic_names(bands))
    factors[:own] = np.maximum(factors[:own], 1)  # of the others, 1 is only the mean of the training
    threshold = min(max(1.0, float(_quantile((held_out / factors).max(1), FALSE_ALARMS))), MOST)
    return replace(_fit(bands, seen, module).scaled(factors), threshold=threshold)


def _fit(bands: int, seen: Observations, module: str | None) -> TrainingDistribution:
    least = np.array([kind_of(name)[1] for name in statistic_names(bands)])
    low, center, high = np.quantile(seen.statistics, (OUTERMOST, 0.5, 1 - OUTERMOST), axis=0)
    below, above = np.maximum(center - low, least), np.maximum(high - center, least)
    together = FeatureDistribution.fit(COMBINATION, combined(bands, seen.statistics))
    features = None
    if module is not None and seen.features is not None:
        features = FeatureDistribution.fit(module, seen.features)
    return TrainingDistribution(
        bands, tuple(center.tolist()), tuple(below.tolist()), tuple(above.tolist()), together, features
    )
