"""Pruner: after which epochs the trials of a sweep are compared, and in which unit."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

FIRST_RUNG = 10  # percent of a training before which `halving` gives no trial up: the learning rate has just warmed up
# What the steps of a trial count, at which it is compared with others.
EPOCH, PERCENT = "epoch", "percent"


@dataclass(frozen=True)
class Pruner:
    """When a trial is given up. Epochs count from 1.

    `median`: its best value is below the median of the finished trials at the same epoch, after `startup_trials` of them
    and `warmup_epochs`. `halving`: at epoch `min_epochs` * `factor`^k, it is not in the best 1/`factor` of the trials.

    Trials of different lengths are compared at the same percentage of their own: `warmup_epochs` and `min_epochs` are
    then the epochs that each has at least behind it, and `halving` compares from 100 / `factor`^k percent on.
    """

    type: str = "none"
    startup_trials: int = 5
    warmup_epochs: int = 0
    min_epochs: int = 1
    factor: int = 3

    def asks_at(self, epoch: int) -> bool:
        """Return whether trials of equal length are compared after this epoch."""
        if self.type != "halving":
            return self.type == "median" and epoch >= self.warmup_epochs
        rung = self.min_epochs
        while rung < epoch:
            rung *= self.factor
        return rung == epoch

    def asks_after(self, epoch: int, before: int, percent: int) -> bool:
        """Return whether a trial is compared after an epoch that ended at `percent` of its length, the last at `before`."""
        if percent >= 100:  # nothing is left to be saved
            return False
        if self.type != "halving":
            return self.type == "median" and epoch >= self.warmup_epochs and percent > before
        rung = self.rung(percent)
        return epoch >= self.min_epochs and rung > (0 if epoch == self.min_epochs else self.rung(before))

    def rung(self, percent: int) -> int:
        """Return the last percentage up to this one from which on `halving` compares trials; 0 below the first."""
        rungs = (100 // self.factor**power for power in itertools.count(1))
        later = list(itertools.takewhile(lambda rung: rung >= FIRST_RUNG, rungs)) or [max(1, 100 // self.factor)]
        return next((rung for rung in later if rung <= percent), 0)
