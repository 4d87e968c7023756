"""The learning rate as a pure function of the share of the training that is done: testable, and nothing to save for a resume."""

from __future__ import annotations

import math

WARMUP_SHARE = 0.05  # of the training
FLOOR_SHARE = 0.01  # of the peak, reached at the end


def learning_rate(fraction: float, peak: float) -> float:
    """Linear warm-up to `peak`, then half a cosine (Loshchilov & Hutter, 2017, arXiv:1608.03983) down to 1 % of it.

    `share` goes from 0 to 1, by steps or by time; beyond 1 the floor is kept.
    """
    if fraction < WARMUP_SHARE:
        return peak * max(fraction, FLOOR_SHARE * WARMUP_SHARE) / WARMUP_SHARE
    falling = min(1.0, (fraction - WARMUP_SHARE) / (1 - WARMUP_SHARE))
    return peak * (FLOOR_SHARE + (1 - FLOOR_SHARE) * 0.5 * (1 + math.cos(math.pi * falling)))
