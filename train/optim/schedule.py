"""The learning rate as a pure function of the training progress: testable, and nothing to save for a resume."""

from __future__ import annotations

import math

WARMUP = 0.05  # fraction of the training
FLOOR = 0.01  # fraction of the peak, reached at the end


def learning_rate(fraction: float, peak: float) -> float:
    """Return the rate of linear warm-up and cosine decay (Loshchilov & Hutter, 2017, arXiv:1608.03983) to 1 % of `peak`.

    `fraction` of the training goes from 0 to 1, by steps or by time; beyond 1 the rate stays at its minimum.
    """
    if fraction < WARMUP:
        return peak * max(fraction, FLOOR * WARMUP) / WARMUP
    falling = min(1.0, (fraction - WARMUP) / (1 - WARMUP))
    return peak * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * falling)))


def batches_of_step(batch: int, batches: int, accumulate: int) -> int:
    """Return how many batches share the optimizer step of this one; the last step of an epoch may have fewer.

    `batch` counts from 0, `batches` is the number in an epoch.
    """
    first = batch - batch % accumulate
    return min(accumulate, batches - first)
