"""Take the weights of a model over into a network for other classes, or for images of other bands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.errors import AppError, UsageError
from core.i18n import tr
from segmentation.archive.entries import shown
from segmentation.networks.registry import build_network
from train.warm_start.initial import InitialModel

Shapes = dict[str, torch.Size]


@dataclass(frozen=True)
class ClassChange:
    """How the classes of a network compare with those of the model that it starts from, by name."""

    kept: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]


def compare_classes(initial: InitialModel, names: Sequence[str]) -> ClassChange:
    """Return which classes keep their weights, start anew, and are no longer predicted."""
    return ClassChange(
        kept=tuple(name for name in names if name in initial.classes),
        new=tuple(name for name in names if name not in initial.classes),
        dropped=tuple(name for name in initial.classes if name not in names),
    )


def transfer(initial: InitialModel, architecture: str, names: Sequence[str], channels: int) -> nn.Module:
    """Return the network for these classes and channels with the weights of a model.

    Output rows are those of the classes of the same name; the rows of new classes are random. Of the filters of the
    first layer, those of additional channels are the mean of the known ones, and surplus ones are left out: bands have no
    names, so the first ones are taken as the same. Raises UsageError that names the first tensor that does not fit.
    """
    network = build_network(architecture, len(names), channels)
    own = network.state_dict()
    by_class = _class_tensors(architecture, own, len(names), channels)
    _require_same_tensors(initial, architecture, own)
    rows = [(names.index(name), initial.classes.index(name)) for name in names if name in initial.classes]
    filled = {}
    for key, fresh in own.items():
        found = initial.weights[key]
        if key in by_class:
            fits = found.shape == (len(initial.classes), *fresh.shape[1:])
        else:
            found = _with_channels(found, fresh, initial.channels, channels)
            fits = found.shape == fresh.shape
        if not fits or found.dtype != fresh.dtype:
            raise _no_fit(initial, architecture, key, initial.weights[key].shape, fresh.shape)
        filled[key] = _copy_rows(fresh, found, rows) if key in by_class else found
    network.load_state_dict(filled)
    return network


def _class_tensors(architecture: str, own: dict[str, Tensor], classes: int, channels: int) -> set[str]:
    """Return the names of the tensors that have a row for each class: those that grow with one class more."""
    more = _shapes(architecture, classes + 1, channels)
    return {
        key
        for key, value in own.items()
        if value.ndim
        and (classes, *value.shape[1:]) == value.shape
        and more.get(key) == (classes + 1, *value.shape[1:])
    }


def _shapes(architecture: str, classes: int, channels: int) -> Shapes:
    try:
        with torch.device("meta"):
            network = build_network(architecture, classes, channels)
    except AppError:
        raise
    except Exception:  # some encoders compute with real values while they are built
        with torch.random.fork_rng(devices=[]):
            network = build_network(architecture, classes, channels)
    return {key: value.shape for key, value in network.state_dict().items()}


def _with_channels(found: Tensor, fresh: Tensor, known: int, wanted: int) -> Tensor:
    """Return a tensor of the first layer, (outputs, known, ...), for the wanted number of channels; others unchanged."""
    is_first = found.ndim > 1 and found.shape[1] == known and fresh.shape == (found.shape[0], wanted, *found.shape[2:])
    if known == wanted or not is_first:
        return found
    if wanted < known:
        return found[:, :wanted]
    mean = found.mean(dim=1, keepdim=True)
    return torch.cat([found, mean.expand(-1, wanted - known, *found.shape[2:])], dim=1)


def _copy_rows(fresh: Tensor, found: Tensor, rows: Sequence[tuple[int, int]]) -> Tensor:
    """Return `fresh` with the rows (to, from) of `found`."""
    filled = fresh.clone()
    for target, source in rows:
        filled[target] = found[source]
    return filled


def _require_same_tensors(initial: InitialModel, architecture: str, own: dict[str, Tensor]) -> None:
    missing = next((key for key in own if key not in initial.weights), None)
    surplus = next((key for key in initial.weights if key not in own), None)
    if missing is not None:
        raise _no_fit(initial, architecture, missing, None, own[missing].shape)
    if surplus is not None:
        raise _no_fit(initial, architecture, surplus, initial.weights[surplus].shape, None)


def _no_fit(
    initial: InitialModel, architecture: str, key: str, found: torch.Size | None, expected: torch.Size | None
) -> UsageError:
    return UsageError(
        tr(
            "--init {reference}: its weights are those of {found_name} and do not fit {name}: tensor {key}: expected "
            "{expected}, found {found}: leave out --model",
            reference=initial.reference,
            found_name=initial.architecture,
            name=architecture,
            key=shown(key),
            expected=_sides(expected),
            found=_sides(found),
        )
    )


def _sides(shape: torch.Size | None) -> str:
    if shape is None:
        return tr("none")
    return "x".join(map(str, shape)) or tr("a number")
