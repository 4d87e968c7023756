"""What folds start from (--init): models that have not been trained on the images that the folds hold out."""

from __future__ import annotations

from config import Settings
from core.errors import UsageError
from core.i18n import tr
from train.warm_start.initial import Initial, InitialEnsemble


def earlier_folds(settings: Settings, initial: Initial | None) -> dict[str, int] | None:
    """Return the fold of each image of an earlier training with folds, by the SHA-256 of its file; None without one.

    A fold starts from the model of its number, which has not been trained on the images of that fold: they stay in it.
    Raises UsageError for another number of folds.
    """
    if not isinstance(initial, InitialEnsemble):
        return None
    if len(initial.members) != settings.folds:
        raise UsageError(
            tr(
                "--folds {folds}: --init {reference} is an ensemble of {count} models: use --folds {count}",
                folds=settings.folds,
                reference=initial.reference,
                count=len(initial.members),
            )
        )
    return {sha256: fold for fold, held_out in enumerate(initial.held_out, 1) for sha256 in held_out}
