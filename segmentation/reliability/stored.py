"""What a model file says of the images that it was trained on: written as plain values and tensors, and checked when read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from core.i18n import tr
from segmentation.archive.values import invalid_value, items, mapping, number, text
from segmentation.reliability.drift import TrainingDistribution
from segmentation.reliability.features import MOST_DIRECTIONS, FeatureDistribution
from segmentation.reliability.statistics import statistic_names

MOST_CHANNELS = 8192  # of a feature map
LARGEST = 1e6  # of a statistic
MODULE_CHARACTERS = 200


def distribution_to_dict(distribution: TrainingDistribution) -> dict[str, Any]:
    """Return plain values and tensors."""
    content: dict[str, Any] = {
        "statistics": list(statistic_names(distribution.bands)),
        "center": list(distribution.center),
        "below": list(distribution.below),
        "above": list(distribution.above),
        "threshold": distribution.threshold,
    }
    if (features := distribution.features) is not None:
        content["features"] = {
            "module": features.module,
            "scale": distribution.feature_scale,
            "rest": features.rest,
            **{
                name: torch.from_numpy(np.ascontiguousarray(getattr(features, name)))
                for name in ("mean", "std", "directions", "variances")
            },
        }
    return content


def parse_distribution(value: object, bands: int, network: nn.Module) -> TrainingDistribution | None:
    """Return what `distribution_to_dict` wrote, None if `value` is None. Raises ValueError for anything else."""
    if value is None:
        return None
    content = mapping(value, "inputs")
    names = statistic_names(bands)
    if tuple(items(content.get("statistics"), "statistics", len(names) + 1)) != names:
        raise invalid_value("statistics", content.get("statistics"), ", ".join(names[:3]) + " ...")
    center, below, above = (_numbers(content, key, len(names)) for key in ("center", "below", "above"))
    threshold = number(content.get("threshold"), "threshold", 1, LARGEST)
    if min(*below, *above) <= 0:
        raise invalid_value("below", min(*below, *above), tr("a number above 0"))
    distribution = TrainingDistribution(bands, center, below, above, threshold)
    if "features" not in content:
        return distribution
    found = mapping(content["features"], "features")
    features = _parse_features(found, network)
    return replace(distribution, features=features, feature_scale=number(found.get("scale"), "scale", 1e-6, LARGEST))


def _numbers(content: Any, key: str, count: int) -> tuple[float, ...]:
    found = items(content.get(key), key, count)
    if len(found) != count:
        raise invalid_value(key, found, tr("{count} numbers", count=count))
    return tuple(number(value, key, -LARGEST, LARGEST) for value in found)


def _parse_features(content: Any, network: nn.Module) -> FeatureDistribution:
    module = text(content.get("module"), "module", MODULE_CHARACTERS)
    if module not in dict(network.named_modules()):
        raise invalid_value("module", module, tr("a module of the network"))
    mean = _array(content, "mean", 1)
    channels = len(mean)
    directions, variances, std = (
        _array(content, key, n) for key, n in (("directions", 2), ("variances", 1), ("std", 1))
    )
    shapes = {"std": (channels,), "directions": (len(variances), channels)}
    for name, array in (("std", std), ("directions", directions)):
        if array.shape != shapes[name] or channels > MOST_CHANNELS or len(variances) > MOST_DIRECTIONS:
            raise invalid_value(name, list(array.shape), str(list(shapes[name])))
    if min(std.min(initial=1), variances.min(initial=1)) <= 0:
        raise invalid_value("std", 0, tr("a number above 0"))
    rest = number(content.get("rest"), "rest", 1e-9, LARGEST)
    return FeatureDistribution(module, mean, std, directions, variances, rest)


def _array(content: Any, key: str, dimensions: int) -> npt.NDArray[np.float32]:
    value = content.get(key)
    if not isinstance(value, Tensor) or value.dtype != torch.float32 or value.ndim != dimensions or not value.numel():
        raise invalid_value(key, type(value).__name__, tr("a tensor of float32"))
    if not bool(torch.isfinite(value).all()):
        raise invalid_value(key, "nan", tr("a finite number"))
    return np.asarray(value.numpy())


def join_distributions(found: Sequence[TrainingDistribution | None], prefix: str) -> TrainingDistribution | None:
    """Return what the images of several trainings on parts of one data set are like; None if one of them does not know.

    An image is unlike them if it is unlike the widest of each. `prefix`: what stands before the name of a module of the
    first network in the joined one, such as "members.0."; features are those of the first.
    """
    known = [one for one in found if one is not None]
    if not known or len(known) < len(found) or len({one.bands for one in known}) > 1:
        return None
    low = np.min([np.subtract(one.center, one.below) for one in known], axis=0)
    high = np.max([np.add(one.center, one.above) for one in known], axis=0)
    center = np.mean([one.center for one in known], axis=0)
    first = known[0].features
    return replace(
        known[0],
        center=tuple(center.tolist()),
        below=tuple((center - low).tolist()),
        above=tuple((high - center).tolist()),
        threshold=max(one.threshold for one in known),
        features=None if first is None else replace(first, module=prefix + first.module),
    )
