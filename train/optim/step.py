"""What a training step needs besides the network: its random numbers, and logits for the loss."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def step_seed(seed: int, epoch: int, step: int) -> int:
    """Return the seed of torch's generators for a step: it must not depend on what was drawn before a kill."""
    return int(np.random.SeedSequence((seed, epoch, step)).generate_state(1)[0])


def as_float(outputs: Tensor | tuple[Tensor, Tensor]) -> Tensor | tuple[Tensor, Tensor]:
    """Return logits in float32, for the loss."""
    return outputs.float() if isinstance(outputs, Tensor) else (outputs[0].float(), outputs[1].float())
