"""The learning rate as a pure function of the step: testable, and nothing to save for a resume."""

from __future__ import annotations

import math

WARMUP_SHARE = 0.05  # of all steps
FLOOR_SHARE = 0.01  # of the peak, reached at the last step


def learning_rate(step: int, total_steps: int, peak: float) -> float:
    """Linear warm-up to `peak`, then half a cosine (Loshchilov & Hutter, 2017, arXiv:1608.03983) down to 1 % of it.

    `step` counts from 0 to `total_steps` - 1; later steps keep the floor.
    """
    warmup = max(1, round(total_steps * WARMUP_SHARE))
    if step < warmup:
        return peak * (step + 1) / warmup
    share = min(1.0, (step - warmup) / max(1, total_steps - 1 - warmup))
    return peak * (FLOOR_SHARE + (1 - FLOOR_SHARE) * 0.5 * (1 + math.cos(math.pi * share)))
