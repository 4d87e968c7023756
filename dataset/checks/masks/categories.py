"""Complete COCO's categories, which list only what was annotated, by the values that the masks have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from core.i18n import tr
from dataset.checks.masks.values import count_values
from dataset.class_file import ClassFile
from dataset.classes import ClassMap, abbreviate, build_classes
from dataset.faults import DataWarning
from dataset.pair_reading import PairContent


def complete_classes(listed: ClassFile, contents: Collection[PairContent]) -> tuple[ClassMap, list[DataWarning]]:
    """Return the classes with which to read the masks: those listed, unless the list is partial.

    To a partial list, values that it lacks are added as ignored, with a warning; the background that it implies is
    removed where no mask has it.
    """
    classes = listed.classes
    if not listed.partial:
        return classes, []
    pixels: Counter[int] = Counter()
    for content in contents:
        pixels.update(count_values(content, classes))
    unlisted = sorted(value for value in pixels if value not in classes.known)
    entries = [entry for entry in _entries(classes) if entry[0] != 0 or pixels[0] or not pixels]
    entries += [(value, f"class_{value}", None, True) for value in unlisted]
    return build_classes(entries), list(_warn(unlisted, pixels))


def _entries(classes: ClassMap) -> list[tuple[int, str, tuple[int, int, int] | None, bool]]:
    learned = zip(classes.ids, classes.names, classes.colors, strict=True)
    ignored = zip(classes.ignore_ids, classes.ignore_colors, strict=True)
    return [
        *((value, name, color, False) for value, name, color in learned),
        *((value, "ignored", color, True) for value, color in ignored),
    ]


def _warn(unlisted: Collection[int], pixels: Counter[int]) -> Iterator[DataWarning]:
    if unlisted:
        share = sum(pixels[value] for value in unlisted) / pixels.total()
        text = tr(
            "values {values} of the masks ({share:.1%} of the pixels) are ignored: classes.json, a list of COCO's "
            "categories, does not have them (add them if they are classes)",
            values=abbreviate(unlisted),
            share=share,
        )
        yield DataWarning("unlisted-values", text)
