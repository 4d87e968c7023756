"""What a training step needs besides the network: its random numbers, and logits for the loss."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def step_seed(seed: int, epoch: int, step: int) -> int:
    """Return the seed of torch's generators for a step: it must not depend on what was drawn before a kill."""
    return int(np.random.SeedSequence((seed, epoch, step)).generate_state(1)[0])


def seed_dropout(seed: int, device: torch.device) -> None:
    """Seed what draws dropout on this device."""
    if device.type == "cpu":  # torch.manual_seed would note where it was called from, for GPUs that may come
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def as_float(outputs: Tensor | tuple[Tensor, Tensor]) -> Tensor | tuple[Tensor, Tensor]:
    """Return logits in float32, for the loss."""
    return outputs.float() if isinstance(outputs, Tensor) else (outputs[0].float(), outputs[1].float())
