"""Options that decide which pixels an image file becomes; a model file stores those that its network was trained with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.i18n import tr

if TYPE_CHECKING:
    from config import Settings


MAX_CHANNELS = 1024  # hyperspectral cameras have hundreds


@dataclass(frozen=True)
class ReadOptions:
    """How files are decoded, equally in the data check, training, evaluation and prediction.

    Each field has a default, which is how files were read before the field existed: older model files lack it.
    """

    raw_orientation: bool = False  # pixels as they are stored, whatever orientation the EXIF tag states
    allow_truncated: bool = False  # accept JPEG images whose end is missing
    channels: int = 3  # of the decoded image: 3 for grey and colour files, else the number of bands
    # What becomes 0..255, for each channel or once for all; empty: samples of more than 8 bits by their full 16 bits.
    value_ranges: tuple[tuple[float, float], ...] = ()

    @property
    def value_range(self) -> tuple[float, float]:
        """The smallest and the largest value that are distinguished, over all channels."""
        ranges = self.value_ranges or ((0.0, 255.0),)
        return min(low for low, _ in ranges), max(high for _, high in ranges)

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
        for name in ("raw_orientation", "allow_truncated"):
            if not isinstance(values.get(name, False), bool):
                raise ValueError(tr("{name} {value}, expected true or false", name=name, value=values[name]))
        channels = values.get("channels", 3)
        if not isinstance(channels, int) or not 2 <= channels <= MAX_CHANNELS:
            raise ValueError(tr("channels {value}, expected 2 to {most}", value=channels, most=MAX_CHANNELS))
        return cls(**{**values, "value_ranges": _checked_ranges(values.get("value_ranges", ()), channels)})


def _checked_ranges(values: Sequence[Sequence[float]], channels: int) -> tuple[tuple[float, float], ...]:
    """Return the ranges as tuples of floats. Raises ValueError."""
    ranges = tuple((float(low), float(high)) for low, high in values)
    if len(ranges) not in (0, 1, channels) or not all(-math.inf < low < high < math.inf for low, high in ranges):
        raise ValueError(
            tr(
                "value ranges {ranges}, expected none, one, or one per channel ({channels}), each from a "
                "smaller to a larger number",
                ranges=ranges,
                channels=channels,
            )
        )
    return ranges


DEFAULT_READING = ReadOptions()


def options_of(settings: Settings) -> ReadOptions:
    """Return the options that the settings ask for; what is measured from the data is added by the data check."""
    return ReadOptions(raw_orientation=settings.raw_orientation, allow_truncated=settings.allow_truncated)
