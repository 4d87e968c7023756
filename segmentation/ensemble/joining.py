"""Join the members of an ensemble to one model, if they can predict together."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from core.errors import AppError
from core.i18n import tr
from core.safety.terminal import escape_line
from segmentation.ensemble.network import EnsembleNetwork
from segmentation.model import Model
from segmentation.reliability.stored import join_distributions
from utils.ensemble_file import Ensemble

CLASS_FIELDS = ("names", "ids", "colors", "ignore_ids", "ignore_colors")


def join_models(where: object, ensemble: Ensemble, models: Sequence[Model]) -> Model:
    """Return a model whose network averages the members' class probabilities; `models` in the order of the members.

    Raises AppError that names the first member with other classes, input size or reading options than the first one.
    """
    first = models[0]
    for member, model in zip(ensemble.members[1:], models[1:], strict=True):
        difference = _difference(first, model)
        if difference is not None:
            name, expected, found = difference
            text = tr(
                "{path}: member {file} has another {name} than {first} (expected {expected}, found {found}): members must "
                "agree to predict together",
                path=where,
                file=member.file,
                name=name,
                first=ensemble.members[0].file,
                expected=str(expected)[:200],
                found=str(found)[:200],
            )
            raise AppError(escape_line(text))
    network = EnsembleNetwork(models)
    network.train(first.network.training)
    return replace(
        first,
        network=network,
        architecture=" + ".join(model.architecture for model in models),
        metrics={},  # those of a member are not those of the ensemble
        lineage=common_entries([model.lineage for model in models]),
        scale=(_mean_scale(models, 0), _mean_scale(models, 1)),
        warnings=tuple(dict.fromkeys(warning for model in models for warning in model.warnings)),
        members=ensemble.members,
        temperature=1.0,  # the network has those of the members
        inputs=join_distributions([model.inputs for model in models], "members.0.network."),
    )


def common_entries(records: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the entries that all members state alike, such as code and data, but not their runs."""
    return {key: value for key, value in records[0].items() if all(other.get(key) == value for other in records[1:])}


def _difference(first: Model, other: Model) -> tuple[str, object, object] | None:
    """Return what differs between two models that must agree, and both values; None if they can predict together."""
    facts = [
        *((tr("list of classes"), getattr(first.classes, key), getattr(other.classes, key)) for key in CLASS_FIELDS),
        (tr("input size"), first.input_size, other.input_size),
        (tr("way to read images"), first.reading.to_dict(), other.reading.to_dict()),
    ]
    return next((fact for fact in facts if fact[1] != fact[2]), None)


def _mean_scale(models: Sequence[Model], axis: int) -> float:
    """Return the geometric mean of the scales: members differ a little where they were trained on other images."""
    scales = [model.scale[axis] for model in models]
    return scales[0] if len(set(scales)) == 1 else statistics.geometric_mean(scales)
