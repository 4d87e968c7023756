"""What a model file says of the images that it was trained on: written as plain values and tensors, and checked when read."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from core.i18n import tr
from segmentation.archive.values import invalid_value, items, mapping, number, text
from segmentation.reliability.drift import TrainingDistribution, combined
from segmentation.reliability.features import MOST_DIRECTIONS, FeatureDistribution
from segmentation.reliability.statistics import COMBINATION, statistic_names

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
        "combination": _features_to_dict(distribution.combination, distribution.scales[0]),
    }
    if distribution.features is not None:
        content["features"] = _features_to_dict(distribution.features, distribution.scales[1])
    return content


def _features_to_dict(features: FeatureDistribution, scale: float) -> dict[str, Any]:
    arrays = {
        name: np.ascontiguousarray(getattr(features, name)) for name in ("mean", "std", "directions", "variances")
    }
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return {"module": features.module, "scale": scale, "rest": features.rest, **tensors}


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
    combination, scale = _parse_features(mapping(content.get("combination"), "combination"), (COMBINATION,))
    width = combined(bands, np.zeros((1, len(names)))).shape[1]
    if len(combination.mean) != width:
        raise invalid_value("combination", len(combination.mean), tr("{count} numbers", count=width))
    features, feature_scale = None, 1.0
    if "features" in content:
        modules = dict(network.named_modules())
        features, feature_scale = _parse_features(mapping(content["features"], "features"), modules)
    return TrainingDistribution(bands, center, below, above, combination, features, (scale, feature_scale), threshold)


def _numbers(content: Any, key: str, count: int) -> tuple[float, ...]:
    found = items(content.get(key), key, count)
    if len(found) != count:
        raise invalid_value(key, found, tr("{count} numbers", count=count))
    return tuple(number(value, key, -LARGEST, LARGEST) for value in found)


def _parse_features(content: Mapping[str, Any], modules: Container[str]) -> tuple[FeatureDistribution, float]:
    """Return the distribution of features of one of these modules, and the distance that counts as 1."""
    module = text(content.get("module"), "module", MODULE_CHARACTERS)
    if module not in modules:
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
    found = FeatureDistribution(module, mean, std, directions, variances, rest)
    return found, number(content.get("scale"), "scale", 1e-6, LARGEST)


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
    first network in the joined one, such as "members.0."; features, and statistics together, are those of the first.
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
        scales=(max(one.scales[0] for one in known), known[0].scales[1]),
        threshold=max(one.threshold for one in known),
        features=None if first is None else replace(first, module=prefix + first.module),
    )
