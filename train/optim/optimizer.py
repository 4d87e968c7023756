"""Build the optimizer of a training."""

from __future__ import annotations

from inspect import unwrap

import torch
from torch import nn
from torch.optim import AdamW

from train.optim.groups import parameter_groups

WEIGHT_DECAY = 0.01


class EagerAdamW(AdamW):
    """torch's AdamW with the same steps, whose methods do not import torch's compiler.

    torch wraps them to keep them out of what is compiled. Nothing is compiled here, and the import takes a second and a
    half of the start of each training.
    """

    add_param_group = unwrap(AdamW.add_param_group)
    zero_grad = unwrap(AdamW.zero_grad)
    state_dict = unwrap(AdamW.state_dict)
    load_state_dict = unwrap(AdamW.load_state_dict)
    step = torch.no_grad()(unwrap(AdamW.step))


def build_optimizer(network: nn.Module, peak_rate: float, encoder_share: float, device: torch.device) -> AdamW:
    """Return AdamW for the parameters that are trained, with an encoder at `encoder_share` of the rate."""
    groups = parameter_groups(network, encoder_share)
    return EagerAdamW(groups, peak_rate, weight_decay=WEIGHT_DECAY, fused=device.type in ("cpu", "cuda"))
