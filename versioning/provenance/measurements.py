"""What metrics.json, committed beside a model, says of it: figures of each split and class, and warnings of the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from core.i18n import tr
from core.safety.json_object import JsonObject

SPLITS = ("val", "oof", "test")  # oof: out-of-fold predictions of train and val


@dataclass(frozen=True)
class SplitFigures:
    """Figures of the model on one split; None where something was not measured."""

    miou: float | None
    accuracy: float | None
    classes: str  # with pixels in the split, of all: '9/11'
    iou: Mapping[str, float | None]  # None: the class has no pixels
    ece: float | None = None  # expected calibration error
    ece_uncalibrated: float | None = None  # without the temperature


@dataclass(frozen=True)
class Measurements:
    """The figures of a model by split, and the warnings of its data."""

    splits: Mapping[str, SplitFigures]
    warnings: tuple[str, ...] = ()
    temperature: float | None = None

    @classmethod
    def parse(cls, text: str | bytes, where: str) -> Measurements:
        """Return the content of metrics.json. Raises AppError, naming `where` it was read, for anything else."""
        return cls.of(
            JsonObject.parse(text, where, tr("it was not written by train.py: register a model of a new training"))
        )

    @classmethod
    def of(cls, found: JsonObject) -> Measurements:
        """Return the figures of an object. Raises its error."""
        splits = {split: _parse_split(found, split) for split in SPLITS if f"{split}_iou" in found}
        return cls(splits, tuple(_parse_warnings(found)), _optional(found, "temperature"))


def _parse_split(found: JsonObject, split: str) -> SplitFigures:
    prefix = "best_val" if split == "val" else split
    miou, accuracy = f"{prefix}_miou", f"{prefix}_accuracy"
    return SplitFigures(
        miou=_optional(found, miou),
        accuracy=_optional(found, accuracy),
        classes=found.text(f"{split}_classes") if f"{split}_classes" in found else "unknown",
        iou=found.named_numbers(f"{split}_iou"),
        ece=_optional(found, f"{split}_ece"),
        ece_uncalibrated=_optional(found, f"{split}_ece_uncalibrated"),
    )


def _optional(found: JsonObject, key: str) -> float | None:
    return found.number(key) if key in found else None


def _parse_warnings(found: JsonObject) -> list[str]:
    """Return the texts of the warnings; those of older versions are texts, not objects."""
    if all(isinstance(entry, str) for entry in found.items("warnings")):
        return list(found.texts("warnings"))
    return [warning.text("text") for warning in found.objects("warnings")]
