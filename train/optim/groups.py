"""Parameter groups of the optimizer: an encoder with published weights learns more slowly than what is new."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from core.errors import AppError, one_line
from core.i18n import tr

SHARE = "share"  # of the learning rate, 0 to 1; a key of the optimizer's groups


def parameter_groups(network: nn.Module, encoder_share: float) -> list[dict[str, Any]]:
    """Return the parameters that are trained as groups, each with its SHARE of the rate; those of `network.encoder` come last.

    One group if the share is 1. Raises ValueError for another one if the network has no encoder.
    """
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if encoder_share == 1:
        return [{"params": trained, SHARE: 1.0}]
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise ValueError(f"{type(network).__name__} has no encoder")
    of_encoder = set(map(id, encoder.parameters()))
    slow, new = ([p for p in trained if (id(p) in of_encoder) == own] for own in (True, False))
    return [{"params": new, SHARE: 1.0}, {"params": slow, SHARE: encoder_share}]


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore an optimizer from its state; the groups keep their SHARE, which earlier versions did not store.

    Raises AppError for a state with other groups.
    """
    shares = [group[SHARE] for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(state)
    except ValueError as error:
        raise AppError(
            tr(
                "the checkpoint is of a version that trained these layers differently ({error}): train again, or resume "
                "with the code of that version",
                error=one_line(error),
            )
        ) from error
    for group, share in zip(optimizer.param_groups, shares, strict=True):
        group[SHARE] = share
