"""The names of metrics: of runs, such as best_val_miou, and of a split, such as miou."""

from __future__ import annotations

OUT_OF_FOLD = "train+val"  # in the place of a split: the images of both, each predicted by a fold that held it out


def split_metric(run_metric: str) -> str:
    """Return the metric of a split, `miou` or `accuracy`, that belongs to a metric of runs."""
    return "accuracy" if "accuracy" in run_metric else "miou"


def run_metric(split: str, metric: str) -> str:
    """Return the metric of runs that was measured on a split with the saved model."""
    if split == OUT_OF_FOLD:
        return f"oof_{metric}"
    return f"best_{split}_{metric}" if split == "val" else f"{split}_{metric}"
