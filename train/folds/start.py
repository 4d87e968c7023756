"""What folds start from (--init): models that have not been trained on the images that the folds hold out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from config import Settings
from core.errors import UsageError
from core.i18n import tr
from core.reporting import warn
from dataset.data import Pair, SegmentationData
from dataset.samples import Item
from train.folds.division import Division, divide
from train.warm_start.initial import Initial, InitialEnsemble
from utils.identifiers import InvalidValue
from utils.lakefs_client.connection import is_missing
from utils.lakefs_utils import LakeFS
from versioning.provenance.ancestors import Ancestor, ancestors, parent_of
from versioning.provenance.training_images import TrainingImages, images_of_ancestors


@dataclass(frozen=True)
class FoldImage:
    """An image that a fold may hold out."""

    pair: Pair
    data: None = None  # whether it is in a commit, too, does not matter

    @property
    def split(self) -> str:
        """Its split."""
        return self.pair.split

    @property
    def names(self) -> tuple[str, ...]:
        """The names by which lists may have it."""
        return Item(self.pair.name, self.pair.image, page=self.pair.page).names

    @property
    def page(self) -> int | None:
        """Its page."""
        return self.pair.page

    @property
    def sha256(self) -> str:
        """The SHA-256 of its file."""
        return self.pair.image_sha256

    @property
    def digests(self) -> tuple[str, ...]:
        """The SHA-256 of its file."""
        return (self.sha256,)


def divide_unseen(
    settings: Settings, lake: LakeFS, data: SegmentationData, initial: Initial | None, store: bool
) -> Division:
    """Return train and val in folds whose starts have not been trained on what they hold out; `store`: see `divide`.

    Raises UsageError where that is not possible, AppError if the server does not answer.
    """
    seen = images_seen(settings, lake, initial)
    division = divide(settings, data, store, earlier_folds(settings, initial, seen, data))
    require_unseen(initial, seen, division)
    return division


def images_seen(settings: Settings, lake: LakeFS, initial: Initial | None) -> TrainingImages:
    """Return what the models that the folds start from, and those that these started from, were trained on.

    Warns where that is not known. Raises AppError if the server does not answer.
    """
    start = parent_of(initial.record()) if initial else None
    if initial is None or start is None:
        return TrainingImages(())
    seen = images_of_ancestors(lake, _chain(lake, start), initial.reference, settings.cache_dir, val=True)
    for error in seen.errors:
        if not (is_missing(error) or isinstance(error, UsageError | InvalidValue)):  # the server does not answer
            raise error
    if isinstance(initial, InitialEnsemble) and start.path is None and seen.generations:
        held_out = tuple(map(frozenset, initial.held_out))  # lakeFS does not have the file that says it
        seen = replace(seen, generations=(replace(seen.generations[0], held_out=held_out), *seen.generations[1:]))
    for reference in dict.fromkeys(seen.unknown):
        warn(
            tr(
                "--init {reference}: the training images of {unknown} are not known here: out-of-fold metrics are too good if "
                "these images are among them",
                reference=initial.reference,
                unknown=reference,
            )
        )
    return seen


def _chain(lake: LakeFS, start: Ancestor) -> Iterator[Ancestor]:
    yield start
    if start.path is not None:
        yield from ancestors(lake, start.path)


def earlier_folds(
    settings: Settings, initial: Initial | None, seen: TrainingImages, data: SegmentationData
) -> dict[str, int] | None:
    """Return the fold of each image of earlier trainings with folds, by the SHA-256 of its file; None without one.

    A fold starts from the model of its number: images that this one has not been trained on, while the others have, stay
    in it. Raises UsageError for another number of folds.
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
    known = {sha256: fold for fold, held_out in enumerate(initial.held_out, 1) for sha256 in held_out}
    for image in (FoldImage(pair) for pair in data.pairs if pair.split != "test"):
        unseen = _unseen_by(seen, image, settings.folds)
        if 0 < len(unseen) < settings.folds and known.get(image.sha256) not in unseen:
            known[image.sha256] = unseen[0]
    return known


def _unseen_by(seen: TrainingImages, image: FoldImage, folds: int) -> Sequence[int]:
    """Return the folds that may hold out an image: those whose start has not been trained on it."""
    return [fold for fold in range(1, folds + 1) if not seen.seen_by(image, fold - 1)]


def require_unseen(initial: Initial | None, seen: TrainingImages, division: Division) -> None:
    """Raise UsageError if a fold holds out images that its start, or a model that this one started from, was trained on."""
    pairs = [(FoldImage(pair), fold - 1) for pair, fold in zip(division.pairs, division.fold_of, strict=True)]
    for generation in seen.generations if initial else ():
        count = sum(generation.has(image, member) for image, member in pairs)
        if initial and count:
            raise UsageError(
                tr(
                    "--folds with --init {reference}: the data that it, or a model that it started from, was trained on "
                    "({data_path}) has images that the folds hold out ({count}): start from a model that was not trained on "
                    "them, or leave out --init",
                    reference=initial.reference,
                    data_path=generation.data,
                    count=count,
                )
            )
