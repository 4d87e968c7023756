"""The network of a model file: built only if the file has all of its weights, and filled with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from core.errors import AppError
from core.i18n import tr
from segmentation.archive.entries import shown
from segmentation.networks.registry import build_network, check_network

# Memory that a network may take beyond a multiple of its weights, where its weights cannot be listed before it is built.
ALLOWANCE, MULTIPLE = 32 << 20, 4


def build_from_weights(
    architecture: str, num_classes: int, channels: int, weights: Mapping[str, Any], file_size: int
) -> nn.Module:
    """Return the network with these weights; nothing is downloaded.

    Names, shapes and types are compared before the network is allocated: a name of 30 characters could stand for
    gigabytes. Raises UsageError for a name that is not registered, ValueError for weights that do not fit or that are not
    finite.
    """
    check_network(architecture, pretrained=False)
    try:
        with torch.device("meta"):
            planned = build_network(architecture, num_classes, channels=channels)
    except AppError:
        raise
    except Exception:  # some encoders compute with real values while they are built
        with _AllocationLimit(MULTIPLE * file_size + ALLOWANCE, architecture):
            network = build_network(architecture, num_classes, channels=channels)
        _require_fitting(network, weights)
    else:
        _require_fitting(planned, weights)
        network = build_network(architecture, num_classes, channels=channels)
    network.load_state_dict(dict(weights))
    _require_finite(network)
    return network


def _require_fitting(network: nn.Module, weights: Mapping[str, Any]) -> None:
    """Raise ValueError that names the first tensors that are missing, unknown, or of another shape or type."""
    expected = network.state_dict()
    missing = [name for name in expected if name not in weights]
    unknown = [name for name in weights if name not in expected]
    if missing or unknown:
        raise ValueError(
            tr(
                "weights: missing {missing}, unknown {unknown}",
                missing=", ".join(map(shown, missing[:3])) or tr("none"),
                unknown=", ".join(map(shown, unknown[:3])) or tr("none"),
            )
        )
    for name, wanted in expected.items():
        found = weights[name]
        if not isinstance(found, Tensor) or found.shape != wanted.shape or found.dtype != wanted.dtype:
            raise ValueError(
                tr(
                    "weights: size mismatch of {name}: found {found}, expected {expected}",
                    name=name,
                    found=_describe(found),
                    expected=_describe(wanted),
                )
            )


def _describe(value: object) -> str:
    if not isinstance(value, Tensor):
        return shown(value)
    sides = "x".join(str(side) for side in value.shape)
    return f"{sides} {value.dtype}".replace("torch.", "").strip()


def _require_finite(network: nn.Module) -> None:
    """Raise ValueError that names a tensor with NaN, infinity or a negative variance."""
    for name, value in network.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(tr("weights: {name} has values that are not finite", name=name))
        if name.endswith("running_var") and bool((value < 0).any()):
            raise ValueError(tr("weights: {name} has a negative variance", name=name))


class _AllocationLimit(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises ValueError as soon as the tensors that are made in its block have more bytes than a limit in all."""

    def __init__(self, limit: int, architecture: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.limit, self.architecture, self.made = limit, architecture, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        made_here = not any(isinstance(value, Tensor) for value in args)
        if made_here and isinstance(result, Tensor) and result.device.type != "meta":
            self.made += result.untyped_storage().nbytes()
            if self.made > self.limit:
                raise ValueError(
                    tr(
                        "{architecture} has more weights than the file: over {limit:,} bytes",
                        architecture=self.architecture,
                        limit=self.limit,
                    )
                )
        return result
