"""Check that all images have the same bands and depth, and measure the range of their values."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from core.i18n import tr, trn
from dataset.classes import abbreviate
from dataset.decoding.options import MAX_CHANNELS, ReadOptions
from dataset.decoding.value_range import BandValues, Squeezed, find_squeezed, pool_ranges
from dataset.faults import DataWarning, Fault
from dataset.pair_reading import ImageFacts, PairContent

Finding = Fault | DataWarning


@dataclass(frozen=True)
class MeasuredImages:
    """`reading` is how the images have to be read; `bands` how many their files have, 3 for grey beside colour."""

    reading: ReadOptions
    bands: int
    findings: tuple[Finding, ...] = ()


def measure_images(contents: Iterable[PairContent], reading: ReadOptions) -> MeasuredImages:
    """Return how the images of a data set have to be read, with the value range of its training split."""
    images = [(content, content.image) for content in contents if content.image is not None]
    if not images:
        return MeasuredImages(reading, 3)
    channels = _common_channels([facts for _, facts in images])
    findings: list[Finding] = [
        *_check_channels(images, channels),
        *_check_depths(images),
        *_warn_of_files(images),
    ]
    # Only where it was needed does the model accept such images, too.
    truncated = any(facts.truncated for _, facts in images)
    reading = dataclasses.replace(reading, allow_truncated=truncated)
    if any(isinstance(finding, Fault) for finding in findings):
        return MeasuredImages(reading, channels, tuple(findings))
    deep = [facts for content, facts in images if content.candidate.split == "train" and facts.values is not None]
    values = [_without_alpha(facts, channels) for facts in deep]
    # Colours keep their relations with one range for all; other bands may be quantities of their own.
    shared = channels == 3 and all(facts.depth == "integers" for facts in deep)
    ranges = pool_ranges(values, shared) if values else ()
    findings += _warn_of_few_levels(find_squeezed(values, ranges, shared) if values else [])
    measured = dataclasses.replace(reading, channels=channels, value_ranges=ranges)
    grey = all(facts.bands == 1 for _, facts in images)
    return MeasuredImages(measured, 1 if grey else channels, tuple(findings))


def _common_channels(images: list[ImageFacts]) -> int:
    """Return the channels that most images have; an opaque alpha band is one only if others have it, not opaque."""
    counts = Counter(facts.channels for facts in images if not facts.opaque_alpha)
    if counts:
        return max(counts, key=lambda channels: (counts[channels], channels))
    return Counter(max(2, facts.channels - 1) for facts in images).most_common(1)[0][0]


def _check_channels(images: list[tuple[PairContent, ImageFacts]], channels: int) -> Iterator[Fault]:
    """Yield a fault for each image with other bands than most."""
    for content, facts in images:
        if facts.channels == channels or (facts.opaque_alpha and facts.channels - 1 == channels):
            if channels <= MAX_CHANNELS:
                continue
            yield Fault(content.candidate.image, tr("at most {most} bands", most=MAX_CHANNELS), str(facts.bands))
        else:
            expected = trn("{count} band, as most images have", "{count} bands, as most images have", channels)
            yield Fault(content.candidate.image, expected, trn("{count} band", "{count} bands", facts.bands))


def _check_depths(images: list[tuple[PairContent, ImageFacts]]) -> Iterator[Finding]:
    """Yield faults for floats beside integers and for a depth that training does not see, a warning for mixed depths."""
    names: dict[str, list[str]] = {}
    for content, facts in images:
        names.setdefault(facts.depth, []).append(content.candidate.image)
    if "floats" in names and len(names) > 1:
        rare = min(names, key=lambda depth: len(names[depth]))
        for name in names[rare]:
            yield Fault(
                name, tr("one kind of samples in all images"), tr("{kind}, unlike the others", kind=_kind(rare))
            )
        return
    trained = {facts.depth for content, facts in images if content.candidate.split == "train"}
    for content, facts in images if trained else ():  # without a training split, that is the fault
        if facts.depth != "8 bits" and facts.depth not in trained:
            expected = tr("samples of 8 bits, as all training images have")
            yield Fault(content.candidate.image, expected, tr("more than 8 bits, whose range is unknown"))
    if len(names) > 1 and trained == set(names):
        text = trn(
            "{count} image has 8 bits and {many} more: the former is read as it is, the latter by their "
            "range of values; of 8 bits: {files}",
            "{count} images have 8 bits and {many} more: the former are read as they are, the latter by "
            "their range of values; of 8 bits: {files}",
            len(names["8 bits"]),
            many=len(names["integers"]),
            files=abbreviate(names["8 bits"], 3),
        )
        yield DataWarning("mixed-depth", text)


def _kind(depth: str) -> str:
    return {"8 bits": tr("8 bits"), "integers": tr("integers of more than 8 bits"), "floats": tr("floats")}[depth]


def _warn_of_files(images: list[tuple[PairContent, ImageFacts]]) -> Iterator[DataWarning]:
    """Yield warnings of images of which a part is missing."""
    names = [content.candidate.image for content, facts in images if facts.truncated]
    if names:
        text = trn(
            "{count} truncated JPEG image was accepted (ALLOW_TRUNCATED); its missing part is grey: {files}",
            "{count} truncated JPEG images were accepted (ALLOW_TRUNCATED); their missing part is grey: {files}",
            len(names),
            files=abbreviate(names),
        )
        yield DataWarning("truncated-images", text)
    names = [content.candidate.image for content, facts in images if not facts.complete]
    if names:
        text = trn(
            "{count} image contains NaN or the value of no data, which is read as the smallest value: {files}",
            "{count} images contain NaN or the value of no data, which is read as the smallest value: {files}",
            len(names),
            files=abbreviate(names, 3),
        )
        yield DataWarning("missing-values", text)


def _warn_of_few_levels(squeezed: list[Squeezed]) -> Iterator[DataWarning]:
    """Yield a warning if extreme values leave few of the 256 levels for most pixels."""
    if squeezed:
        bands = [band.band + 1 for band in squeezed if band.band is not None]
        text = tr(
            "most pixels fall on {levels:.1f} of the 256 levels, because the values reach {value:g}{bands}: if that "
            "marks missing data, say so in the files (gdal_edit.py -a_nodata {value:g} FILE, or NaN in floats); if it "
            "is an outlier, clip it",
            levels=max(squeezed[0].levels, 1),
            value=squeezed[0].value,
            bands=tr(" in band {bands}", bands=abbreviate(bands)) if bands else "",
        )
        yield DataWarning("few-levels", text)


def _without_alpha(facts: ImageFacts, channels: int) -> BandValues:
    """Return the distribution of the bands that are used."""
    assert facts.values is not None  # deep images are measured
    if not facts.opaque_alpha or facts.channels == channels:
        return facts.values
    values = facts.values
    return BandValues(values.quantiles[:channels], values.count, values.second[:channels])
