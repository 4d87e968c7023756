"""What folds start from (--init): models that have not been trained on the images that the folds hold out."""

from __future__ import annotations

from config import Settings
from core.errors import AppError, UsageError
from core.i18n import tr
from core.reporting import warn
from dataset.data import SegmentationData
from train.warm_start.initial import Initial, InitialEnsemble, InitialModel
from utils.lakefs_utils import LakeFS, LakePath
from versioning.provenance.ancestors import LAKEFS, ancestors
from versioning.versions import committed_files


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


def _data_of_ancestors(lake: LakeFS, reference: str) -> list[LakePath]:
    """Return the data of the models that a model of lakeFS was trained from."""
    if not reference.startswith(LAKEFS):
        return []
    found = ancestors(lake, LakePath.parse_recorded(reference))
    return [ancestor.data_path for ancestor in found if ancestor.data_path is not None]


def require_unseen(settings: Settings, lake: LakeFS, initial: Initial | None, data: SegmentationData) -> None:
    """Raise UsageError for a single model whose data has images that the folds hold out: it would have seen them.

    The same holds for the models that it started from. Warns where their data is not known.
    """
    if not isinstance(initial, InitialModel):
        return
    try:
        paths = [LakePath.parse_recorded(initial.data_path), *_data_of_ancestors(lake, initial.reference)]
        seen = {sha256 for path in paths for sha256 in committed_files(lake, path, settings.cache_dir).values()}
    except AppError:
        warn(
            tr(
                "--init {reference}: its data is not known here: out-of-fold metrics are too good if it was trained on "
                "these images",
                reference=initial.reference,
            )
        )
        return
    shared = [pair for pair in data.pairs if pair.split != "test" and pair.image_sha256 in seen]
    if shared:
        raise UsageError(
            tr(
                "--folds with --init {reference}: its data ({data_path}) has images that the folds hold out ({count}): "
                "start from a model of --folds {folds}, or without --init",
                count=len(shared),
                reference=initial.reference,
                data_path=initial.data_path,
                folds=settings.folds,
            )
        )
