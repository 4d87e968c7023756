"""What a training starts from: models of this project, or the published weights of an installed package."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from core.errors import UsageError
from core.i18n import tr
from segmentation.networks.search import WeightsFile
from segmentation.preprocess import Normalisation
from utils.lineage import INIT_KEYS, INIT_START


@dataclass(frozen=True)
class Initial:
    """Weights that a training starts from; `reference` always names the same file, whose hash is `sha256`."""

    reference: str
    sha256: str
    run_id: str = ""  # of its training; empty if it is not known, as `data_path`
    data_path: str = ""  # lakeFS path of the data that it was trained on
    start: str = ""  # what it had started from, if that is known from the file only

    def record(self) -> dict[str, str]:
        """Return what run, commit and model file say about it."""
        values = (self.reference, self.sha256, self.run_id, self.data_path)
        return dict(zip(INIT_KEYS, values, strict=True)) | ({INIT_START: self.start} if self.start else {})


@dataclass(frozen=True, kw_only=True)
class InitialModel(Initial):
    """A model of this project; plain values, so that it can be sent to other processes."""

    architecture: str
    weights: dict[str, Tensor]
    classes: tuple[str, ...]
    normalisation: Normalisation
    input_size: tuple[int, int]
    scale: tuple[float, float]
    value_ranges: tuple[tuple[float, float], ...] = ()  # as in ReadOptions: the units of the normalisation

    @property
    def channels(self) -> int:
        """Number of channels of its input."""
        return len(self.normalisation.mean)


@dataclass(frozen=True, kw_only=True)
class InitialEnsemble(Initial):
    """The models of an ensemble: each fold of a training starts from the one of its number."""

    members: tuple[InitialModel, ...]
    held_out: tuple[tuple[str, ...], ...]  # of each member: SHA-256 of image files that it was not trained on


@dataclass(frozen=True, kw_only=True)
class InitialWeights(Initial):
    """A file of published weights that was named; it is no model of this project, so that there is nothing to follow."""

    file: WeightsFile

    def record(self) -> dict[str, str]:
        return {}


@dataclass(frozen=True)
class InitialPackage(Initial):
    """Published weights of an encoder that an installed package has."""


def start_of_fold(initial: Initial | None, fold: int) -> Initial | None:
    """Return what a fold, counted from 1, starts from: of an ensemble the member of its number.

    Raises UsageError for an ensemble that has not so many members.
    """
    if not isinstance(initial, InitialEnsemble):
        return initial
    if fold > len(initial.members):
        raise UsageError(
            tr(
                "--init {reference}: an ensemble of {count} models cannot start fold {fold}: use --folds {count}",
                reference=initial.reference,
                count=len(initial.members),
                fold=fold,
            )
        )
    return initial.members[fold - 1]


def require_single(initial: Initial | None) -> None:
    """Raise UsageError for an ensemble: one network cannot start from several."""
    if isinstance(initial, InitialEnsemble):
        raise UsageError(
            tr(
                "--init {reference}: an ensemble of {count} models: train with --folds {count}, or start from one of them: "
                "{member}",
                reference=initial.reference,
                count=len(initial.members),
                member=initial.members[0].reference,
            )
        )
