"""What a page shows of images: cards of panels with a legend, in an area with search, filter, order and slider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Legend = Sequence[tuple[str, str]]  # colour as "#rrggbb", or "" for the stripes of ignored pixels; text


@dataclass(frozen=True)
class Panel:
    """One view of an image; panels of a `kind` (a word for the script) are compared across cards."""

    kind: str
    caption: str
    url: str
    width: int
    height: int
    pixels: bool = False  # enlarge without interpolation


@dataclass(frozen=True)
class Card:
    """An image: its panels, its score, the classes in it.

    Cards are sorted by `value`, the lowest first, and with a chosen class by `class_values`: index of the class (as
    text) -> value, None where it has none. An image without the class is not shown then.
    """

    name: str
    panels: Sequence[Panel]
    value: float
    class_values: Mapping[str, float | None] = field(default_factory=dict)
    score: str = ""
    note: str = ""
    faults: Sequence[str] = ()
    legend: Legend = ()
    legend_lead: str = ""  # what the numbers in the legend are


@dataclass(frozen=True)
class Gallery:
    """An area of cards: `sides` are the kinds of panels that the slider compares first, `orders` (value, text)."""

    id: str
    title: str
    cards: Sequence[Card]
    classes: Sequence[str]
    legend: Legend
    sides: tuple[str, str]
    orders: Sequence[tuple[str, str]]

    @property
    def panels(self) -> list[tuple[str, str]]:
        """Kinds and captions of all panels, in the order of the first card that has them."""
        return list({panel.kind: (panel.kind, panel.caption) for card in self.cards for panel in card.panels}.values())
