"""What folds start from (--init): models that have not been trained on the images that the folds hold out."""

from __future__ import annotations

from collections.abc import Iterator

from config import Settings
from core.errors import AppError, UsageError
from core.i18n import tr
from core.reporting import warn
from dataset.data import SegmentationData
from train.warm_start.initial import Initial, InitialEnsemble, InitialModel
from utils.lakefs_client.connection import is_missing
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


def require_unseen(settings: Settings, lake: LakeFS, initial: Initial | None, data: SegmentationData) -> None:
    """Raise UsageError for a single model whose data has images that the folds hold out: it would have seen them.

    The same holds for the models that it started from. Warns where the data of one is not known or not on this server.
    Raises AppError if the server does not answer.
    """
    if not isinstance(initial, InitialModel):
        return
    held_out = {pair.image_sha256 for pair in data.pairs if pair.split != "test"}
    unknown = False
    for path in _data_seen(lake, initial):
        files = None if path is None else _hashes(lake, path, settings)
        if files is None:
            unknown = True
        elif shared := held_out & files:
            raise UsageError(
                tr(
                    "--folds with --init {reference}: its data ({data_path}) has images that the folds hold out "
                    "({count}): start from a model of --folds {folds}, or without --init",
                    count=len(shared),
                    reference=initial.reference,
                    data_path=path,
                    folds=settings.folds,
                )
            )
    if unknown:
        warn(
            tr(
                "--init {reference}: its data is not known here: out-of-fold metrics are too good if it was trained on "
                "these images",
                reference=initial.reference,
            )
        )


def _data_seen(lake: LakeFS, initial: InitialModel) -> Iterator[LakePath | None]:
    """Yield the data of a model and of those that it was trained from; None for data that no record names."""
    yield LakePath.parse_recorded(initial.data_path) if initial.data_path else None
    if not initial.reference.startswith(LAKEFS):
        return
    try:
        for ancestor in ancestors(lake, LakePath.parse_recorded(initial.reference)):
            yield ancestor.data_path
    except AppError as error:
        if not is_missing(error):
            raise
        yield None


def _hashes(lake: LakeFS, path: LakePath, settings: Settings) -> set[str] | None:
    """Return the SHA-256 of the files of a data commit, None if the server does not have it."""
    try:
        return set(committed_files(lake, path, settings.cache_dir).values())
    except AppError as error:
        if not is_missing(error):
            raise
        return None
