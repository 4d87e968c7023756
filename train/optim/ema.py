"""Exponential moving average of the weights, which is validated and saved: it is smoother than the last step."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class AveragedWeights:
    """An average whose window grows with the training: it spans about `fraction` of the steps so far.

    It uses the power function of Karras et al. (2024, arXiv:2312.02696) instead of a fixed decay: there is nothing to
    tune to the length of a run, and no bias towards the first weights. (torch.optim.swa_utils.AveragedModel keeps its
    counter on the device, and reading it would make a GPU wait in every step.)
    """

    def __init__(self, network: nn.Module, fraction: float) -> None:
        """Start with a copy of the network; 0 < `fraction` <= 1."""
        self.network = copy.deepcopy(network).eval()
        self.network.requires_grad_(False)
        self.power = 1 / fraction
        # Listed once: collecting them takes as long as averaging them, and they stay the same objects.
        pairs = list(zip(_tensors(self.network), _tensors(network), strict=True))
        self.averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self.copied = [pair for pair in pairs if not pair[0].is_floating_point()]  # counters of batch normalization

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Add the weights after step number `steps`, counted from 1; the first are copied."""
        keep = (1 - 1 / steps) ** self.power
        own, new = zip(*self.averaged, strict=True)
        torch._foreach_lerp_(own, new, 1 - keep)
        for mine, other in self.copied:
            mine.copy_(other)


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
