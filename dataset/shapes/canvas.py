"""Paint shapes onto a mask, one over the other."""

from __future__ import annotations

import numpy as np

from core.i18n import tr, trn
from dataset.classes import InvalidFileError
from dataset.shapes.polygon import Region


class Canvas:
    """A mask (height,width) uint8 of class ids that starts as `background`; each shape is painted over earlier ones.

    With `strict`, a shape on pixels of another class is an error, because the file does not say which one is right.
    """

    def __init__(self, height: int, width: int, background: int, strict: bool = False) -> None:
        self.values = np.full((height, width), background, np.uint8)
        self.strict = strict
        self._painted = np.zeros((height, width), np.bool_)

    def paint(self, region: Region, class_id: int, name: str) -> None:
        """Give the pixels of a region this class id; `name` is the entry of the file, for the error.

        Raises InvalidFileError with `strict`.
        """
        values, painted, inside = self.values[region.window], self._painted[region.window], region.pixels
        if self.strict and (covered := inside & painted & (values != class_id)).any():
            expected = tr("no overlap of different classes (--strict)")
            other = int(np.bincount(values[covered]).argmax())
            raise InvalidFileError(
                (
                    expected,
                    trn(
                        "{name} covers {count} pixel of class {other}",
                        "{name} covers {count} pixels of class {other}",
                        int(covered.sum()),
                        name=name,
                        other=other,
                    ),
                )
            )
        values[inside] = class_id
        painted |= inside

    @property
    def complete(self) -> bool:
        """Whether every pixel is painted."""
        return bool(self._painted.all())
