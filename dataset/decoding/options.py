"""Options that decide which pixels an image file becomes; a model file stores those that its network was trained with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.i18n import tr

if TYPE_CHECKING:
    from config import Settings


@dataclass(frozen=True)
class ReadOptions:
    """How files are decoded, equally in the data check, training, evaluation and prediction.

    Each field has a default, which is how files were read before the field existed: older model files lack it.
    """

    raw_orientation: bool = False  # pixels as they are stored, whatever orientation the EXIF tag states

    def to_dict(self) -> dict[str, Any]:
        """Return the options that differ from their defaults as plain values, to be stored in a model file."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if value != getattr(DEFAULT_READING, name)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ReadOptions:
        """Return the options of `to_dict`. Raises ValueError for an option or value that this version does not know."""
        unknown = sorted(values.keys() - {option.name for option in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(tr("unknown reading options {unknown}", unknown=", ".join(unknown)))
        if not isinstance(values.get("raw_orientation", False), bool):
            raise ValueError(tr("raw_orientation {value}, expected true or false", value=values["raw_orientation"]))
        return cls(**values)


DEFAULT_READING = ReadOptions()


def options_of(settings: Settings) -> ReadOptions:
    """Return the options that the settings ask for; what is measured from the data is added by the data check."""
    return ReadOptions(raw_orientation=settings.raw_orientation)
