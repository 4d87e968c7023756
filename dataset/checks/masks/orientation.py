"""Find masks that were drawn on images as they are stored, without their EXIF orientation."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from statistics import median

from core.i18n import tr
from dataset.decoding.options import ReadOptions
from dataset.decoding.orientation import OrientationFacts
from dataset.faults import Fault
from dataset.pair_reading import PairContent

BETTER = 1.5  # how much more contrast lies along the outlines of masks the other way than as read, and than elsewhere
NO_CONTRAST = 1e-3  # so that a ratio stays finite


def check_orientation(contents: Collection[PairContent], options: ReadOptions) -> Iterator[Fault]:
    """Yield a fault for each mask that fits its image only, or clearly better, the other way up."""
    yield from _check_sizes(contents, options)
    tagged = [(content.candidate.mask, content.orientation) for content in contents if content.orientation is not None]
    for tag in sorted({facts.tag for _, facts in tagged}):
        alike = [(mask, facts) for mask, facts in tagged if facts.tag == tag and facts.as_read + facts.other > 0]
        # The median: one mask alone may fit better by chance.
        if not alike or median(_ratio(facts) for _, facts in alike) < BETTER:
            continue
        if median(facts.other for _, facts in alike) < BETTER:
            continue
        expected = tr("outlines that follow the image, turned by its EXIF orientation {tag}", tag=tag)
        if options.raw_orientation:
            expected = tr("outlines that follow the image as stored (EXIF orientation {tag})", tag=tag)
        found = tr("they fit the other way") + f": {_cure(options)}"
        yield from (Fault(mask, expected, found) for mask, facts in alike if _ratio(facts) > 1)


def _ratio(facts: OrientationFacts) -> float:
    return facts.other / max(facts.as_read, NO_CONTRAST)


def _check_sizes(contents: Collection[PairContent], options: ReadOptions) -> Iterator[Fault]:
    for content in contents:
        if content.orientation is None or not content.orientation.swapped:
            continue
        assert content.image_size is not None and content.mask_size is not None
        (height, width), (mask_height, mask_width) = content.image_size, content.mask_size
        tag = content.orientation.tag
        expected = tr(
            "{width}x{height} (image turned by its EXIF orientation {tag})", width=width, height=height, tag=tag
        )
        if options.raw_orientation:
            expected = tr(
                "{width}x{height} (image as stored; EXIF orientation {tag})", width=width, height=height, tag=tag
            )
        yield Fault(content.candidate.mask, expected, f"{mask_width}x{mask_height}: {_cure(options)}")


def _cure(options: ReadOptions) -> str:
    if options.raw_orientation:
        return tr("the mask was drawn on the turned image: leave out --raw-orientation")
    return tr("the mask was drawn on the image as stored: use --raw-orientation")
