"""One network of several, which returns the logarithm of the mean of their class probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segmentation.model import Model
from segmentation.preprocess import Normalisation
from segmentation.reliability.uncertainty import scaled


class EnsembleNetwork(nn.Module):
    """The members in turn: images (N,C,H,W) float32, normalised as for the first member, to logits (N,num_classes,H,W).

    The softmax of these logits is the mean of the members' class probabilities, each with the normalisation and the
    temperature of its own member. One member's activations are in memory at a time, beside the sum of those before.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        super().__init__()
        first = models[0].normalisation
        self.members = nn.ModuleList(_MemberNetwork(model, first) for model in models)

    def forward(self, images: Tensor) -> Tensor:
        total: Tensor | None = None
        for member in self.members:
            logarithms = member(images)
            # In logarithms, a probability that float32 rounds to 0 stays finite.
            total = logarithms if total is None else torch.logaddexp(total, logarithms)
        assert total is not None  # an ensemble has a member
        return total - math.log(len(self.members))


class _MemberNetwork(nn.Module):
    """One member: its network behind the map from the first member's normalisation to its own."""

    scale: Tensor | None
    shift: Tensor | None

    def __init__(self, model: Model, given: Normalisation) -> None:
        super().__init__()
        self.network, self.temperature = model.network, model.temperature
        device = next(self.network.parameters()).device
        for name, values in zip(("scale", "shift"), _conversion(given, model.normalisation), strict=True):
            self.register_buffer(name, None if values is None else values.to(device))

    def forward(self, images: Tensor) -> Tensor:
        """Return logarithms of the class probabilities (N,num_classes,H,W)."""
        if self.scale is not None and self.shift is not None:
            images = images * self.scale + self.shift
        logits: Tensor = self.network(images)
        return scaled(logits.float(), self.temperature).log_softmax(1)


def _conversion(given: Normalisation, wanted: Normalisation) -> tuple[Tensor | None, Tensor | None]:
    """Return factor and summand (1,C,1,1) that turn images of one normalisation into those of another; None if equal."""
    if given == wanted:
        return None, None
    mean, std, new_mean, new_std = (
        torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1)
        for values in (given.mean, given.std, wanted.mean, wanted.std)
    )
    return (std / new_std).float(), ((mean - new_mean) / new_std).float()
