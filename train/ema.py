"""A running average of the weights: what is validated and saved, smoother than the last step."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class AveragedWeights:
    """An average whose window grows with the training: it spans about `share` of the steps so far.

    The power function of Karras et al. (2024, arXiv:2312.02696) instead of a fixed decay: nothing to tune to the length of
    a run, and no bias towards the first weights. (torch.optim.swa_utils.AveragedModel keeps its counter on the device, and
    reading it would make a GPU wait in every step.)
    """

    def __init__(self, network: nn.Module, share: float) -> None:
        self.network = copy.deepcopy(network).eval()
        self.network.requires_grad_(False)
        self.power = 1 / share

    @torch.no_grad()
    def update(self, network: nn.Module, steps: int) -> None:
        """Take in the weights after step number `steps`, which counts from 1; with 1 they are simply copied."""
        keep = (1 - 1 / steps) ** self.power
        own, new = _tensors(self.network), _tensors(network)
        floats = [i for i, tensor in enumerate(own) if tensor.is_floating_point()]
        torch._foreach_lerp_([own[i] for i in floats], [new[i] for i in floats], 1 - keep)
        for mine, other in zip(own, new, strict=True):
            if not mine.is_floating_point():  # counters of batch normalisation
                mine.copy_(other)


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
