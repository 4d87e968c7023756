"""Which metric judges a run: that of the settings, or the out-of-fold one where the run has no validation split of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping

OOF_PREFIX = "oof_"  # of metrics over all images of train and val, each predicted by a model that was not trained on it
OUT_OF_FOLD = {"best_val_miou": "oof_miou", "best_val_accuracy": "oof_accuracy"}
OF_FOLD = {"best_val_miou": "fold_miou", "best_val_accuracy": "fold_accuracy"}  # of the run of one fold


def registry_metric(metric: str, known: Collection[str]) -> str:
    """Return the one of the `known` metrics of a run or version that takes the place of `metric`.

    That is `metric` itself, or its out-of-fold metric if only that is known.
    """
    return _replaced(metric, known, OUT_OF_FOLD)


def find_metric(metric: str, metrics: Mapping[str, float]) -> float | None:
    """Return the value that judges a run or version by `metric`; None if it has none."""
    return metrics.get(registry_metric(metric, metrics))


def child_metric(metric: str, known: Collection[str]) -> str:
    """Return the metric of a run that belongs to another one: of a fold that of its held-out images."""
    return _replaced(metric, known, OF_FOLD)


def _replaced(metric: str, known: Collection[str], others: Mapping[str, str]) -> str:
    other = others.get(metric)
    return metric if other is None or metric in known or other not in known else other
