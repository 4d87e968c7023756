"""Shapes of an annotation file, drawn into masks; what is wrong with them is collected by file and entry."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from core.i18n import tr
from dataset.classes import InvalidFileError, UInt8, abbreviate
from dataset.faults import DataFaults, DataWarning, Fault, LeftOut
from dataset.shapes.canvas import Canvas
from dataset.shapes.polygon import Points, Region, count_outside, fill

Size = tuple[int, int]  # height, width in pixels


@dataclass(frozen=True)
class Shape:
    """One object: `entry` names it in messages, `key` is its class in the file, `draw` returns its pixels.

    `draw` takes height and width of the image, and raises InvalidFileError for damaged pixels.
    """

    entry: str
    key: object
    draw: Callable[[int, int], Region]


@dataclass(frozen=True)
class Drawing:
    """An image and its shapes, the first one painted first; `image` and the annotation file are paths in the export."""

    name: str
    split: str | None
    image: str
    file: str
    size: Size
    shapes: tuple[Shape, ...]
    content: Callable[[], bytes] | None = None  # of an image that is inside the annotation file
    suffix: str = ".png"  # of that image

    def paint(self, ids: dict[object, int], background: int, strict: bool) -> Canvas:
        """Return the canvas (H,W) with all shapes. Raises InvalidFileError that names the entry."""
        canvas = Canvas(*self.size, background, strict)
        for shape in self.shapes:
            with name_entry(shape.entry):
                region = shape.draw(*self.size)
            canvas.paint(region, ids[shape.key], shape.entry)
        return canvas

    def mask(self, ids: dict[object, int], background: int, strict: bool) -> UInt8:
        """Return the mask (H,W) uint8 of class ids. Raises InvalidFileError that names the entry."""
        return self.paint(ids, background, strict).values


@contextlib.contextmanager
def name_entry(entry: str) -> Iterator[None]:
    """Put the name of an entry in front of what an InvalidFileError found."""
    try:
        yield
    except InvalidFileError as error:
        raise InvalidFileError(*((expected, f"{entry}: {found}") for expected, found in error.problems)) from None


@dataclass
class Findings:
    """What the reader of a format finds beside the annotations."""

    faults: list[Fault] = field(default_factory=list)
    warnings: list[DataWarning] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    clipped: list[str] = field(default_factory=list)  # shapes that reach beyond their image

    def add(self, file: str, expected: str, found: str) -> None:
        """Add one fault."""
        self.faults.append(Fault(file, expected, found))

    @contextlib.contextmanager
    def entry(self, file: str, entry: str) -> Iterator[None]:
        """Turn an InvalidFileError inside the block into faults of this entry."""
        try:
            with name_entry(entry):
                yield
        except InvalidFileError as error:
            self.faults += [Fault(file, expected, found) for expected, found in error.problems]

    def polygons(self, rings: Sequence[Points], size: Size, file: str, entry: str) -> Callable[[int, int], Region]:
        """Return what draws a polygon with holes; note that it is cut off at the border of the image."""
        if any(count_outside(ring, *size) for ring in rings):
            self.clipped.append(f"{file}: {entry}")
        return lambda height, width: fill(rings, height, width)

    def note_background(self, names: Collection[str], rule: str) -> None:
        """Warn in one line of images without annotations."""
        if names:
            text = tr(
                "images without annotations ({count}): {rule}: {names}",
                count=len(names),
                rule=rule,
                names=abbreviate(names, 3),
            )
            self.warnings.append(DataWarning("unannotated-images", text))

    def raise_faults(self) -> None:
        """Raise DataFaults if there are any faults."""
        if self.faults:
            raise DataFaults(self.faults)

    def all_warnings(self) -> tuple[DataWarning, ...]:
        """Return the warnings, with one line for all shapes that are cut off."""
        if not self.clipped:
            return tuple(self.warnings)
        text = tr(
            "shapes that reach beyond their image were cut off ({count}): {entries}",
            count=len(self.clipped),
            entries=abbreviate(self.clipped, 3),
        )
        return (*self.warnings, DataWarning("clipped-shapes", text))
