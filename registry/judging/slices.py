"""Slices of the judged images, and what a new model gains or loses on each.

A better mean can hide a loss on images that matter: dark ones, small objects, one camera. With n slices, n intervals at
95 % would refuse 1 - 0.95^n of equal models; so each has a confidence of 1 - 0.05 / n, and they cover all gains together
with at least 95 % (Bonferroni; Dunn 1961, J. Am. Stat. Assoc. 56(293)). `benchmarks/gate_coverage.py` simulates how often
an equal model is refused, and how often a worse one is found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from config import ROOT
from core.i18n import tr
from dataset.decoding.image import read_image
from dataset.decoding.options import ReadOptions
from dataset.directory import SPLITS
from dataset.samples import Item
from registry.judging.slice_file import Names, read_slice_file
from segmentation.evaluation import EvaluationResult
from segmentation.intervals import gain_interval
from segmentation.object_sizes import SIZES
from versioning.provenance.training_images import images_of
from versioning.provenance.verdict import DEFAULT_CONFIDENCE, MIN_SLICE_GROUPS, SliceGain

if TYPE_CHECKING:
    from config import Settings
    from registry.judging.images import JudgedData
    from utils.lakefs_utils import LakeFS

OBJECT_SIZE, BRIGHTNESS, DIRECTORY = "object-size", "brightness", "directory"  # rules; any other is a CSV file


@dataclass(frozen=True)
class Slice:
    """The images at these places of a list of items; with `size`, an index in SIZES, only their objects of this size."""

    rule: str
    name: str
    places: frozenset[int]
    size: int | None = None

    @property
    def label(self) -> str:
        """The rule and the name."""
        return f"{self.rule} {self.name}"

    def of(self, measured: EvaluationResult, keep: Sequence[int]) -> EvaluationResult:
        """Return the result for the images of this slice that are among those at the places `keep` of all items."""
        part = measured.only([place for place in keep if place in self.places])
        return part if self.size is None else part.of_size(self.size)


def parse_rules(text: str | None) -> tuple[str, ...]:
    """Return the rules of REGISTER_SLICES, each once."""
    return tuple(dict.fromkeys(rule.strip() for rule in text.split(","))) if text else ()


def committed_slices(settings: Settings, lake: LakeFS, judged: JudgedData, reading: ReadOptions) -> list[Slice]:
    """Return the slices of REGISTER_SLICES; a CSV file may name images of the other splits of the data commit."""
    rules = parse_rules(settings.register_slices)
    if not rules:
        return []
    others = {
        split: images_of(lake, judged.data, split, settings.cache_dir) for split in SPLITS if split not in judged.splits
    }
    splits = [image.split for image in judged.images]
    return find_slices(rules, [image.item for image in judged.images], reading, splits, others)


def find_slices(
    rules: Iterable[str],
    items: Sequence[Item],
    reading: ReadOptions,
    splits: Sequence[str],
    others: Names | None = None,
) -> list[Slice]:
    """Return the slices of `items`, by rule. Raises UsageError for a CSV file that cannot be used.

    `splits`: that of each item. `others` are names of images that are not judged, by split, which a CSV file may list.
    """
    found: list[Slice] = []
    for rule in rules:
        if rule == OBJECT_SIZE:
            found += [Slice(rule, name, frozenset(range(len(items))), size) for size, name in enumerate(SIZES)]
        elif rule == BRIGHTNESS:
            found += _by_brightness([_brightness(item, reading) for item in items])
        elif rule == DIRECTORY:
            found += _by_name(rule, [(str(PurePosixPath(item.name).parent), place) for place, item in enumerate(items)])
        else:
            found += _by_file(rule, items, splits, others)
    return found


def _by_name(rule: str, members: Iterable[tuple[str, int]]) -> list[Slice]:
    """Return a slice for each name of the pairs (name, place), sorted by name."""
    places: dict[str, set[int]] = {}
    for name, place in members:
        places.setdefault(name, set()).add(place)
    return [Slice(rule, name, frozenset(places[name])) for name in sorted(places)]


def _by_file(rule: str, items: Sequence[Item], splits: Sequence[str], others: Names | None) -> list[Slice]:
    """Return the slices of a CSV file, a relative path of which starts at the project's directory."""
    path = ROOT / Path(rule).expanduser()
    places: dict[str, dict[str, set[int]]] = {}  # split -> name -> places in `items`
    for place, (item, split) in enumerate(zip(items, splits, strict=True)):
        for name in {item.name, item.file_name}:  # a line may name a file for all of its pages
            places.setdefault(split, {}).setdefault(name, set()).add(place)
    listed = read_slice_file(path, places, others)
    return _by_name(
        path.name,
        [(slice_, p) for slice_, images in listed.items() for split, name in images for p in places[split][name]],
    )


def _brightness(item: Item, reading: ReadOptions) -> int:
    """Return the mean of an image's channels, 0 (black) to 255."""
    return round(float(read_image(item.image, reading, item.page).mean()))


def _by_brightness(levels: Sequence[int]) -> list[Slice]:
    """Return the darkest, middle and brightest third of images with these levels; equal levels stay together."""
    bounds = np.quantile(levels, (1 / 3, 2 / 3))
    thirds = np.searchsorted(bounds, levels, side="left")
    slices = []
    for third in np.unique(thirds):
        places = [place for place, of_image in enumerate(thirds) if of_image == third]
        of_third = [levels[place] for place in places]
        name = f"{min(of_third)}-{max(of_third)}"
        slices.append(Slice(BRIGHTNESS, name, frozenset(places)))
    return slices


def measure_slices(
    slices: Sequence[Slice],
    old: EvaluationResult,
    new: EvaluationResult,
    keep: Sequence[int],
    metric: str,
    confidence: float,
) -> list[SliceGain]:
    """Return the gain of the new model over the old one on each slice of the images at the places `keep`.

    Those of at least MIN_SLICE_GROUPS groups have intervals, which cover all gains together with this confidence. Slices
    of all images have none: they are judged as a whole.
    """
    pairs = [(one, _labelled(one.of(old, keep), one.of(new, keep))) for one in slices]
    pixels = int(new.only(keep).counts.sum())
    judged = [
        len(set(after.groups)) >= MIN_SLICE_GROUPS and int(after.counts.sum()) < pixels for _, (_, after) in pairs
    ]
    each = 1 - (1 - (confidence or DEFAULT_CONFIDENCE)) / max(sum(judged), 1)
    return [
        SliceGain(
            rule=one.rule,
            name=one.name,
            images=len(after.images),
            groups=len(set(after.groups)),
            champion=before.metric(metric),
            gain=after.metric(metric) - before.metric(metric),
            interval=gain_interval(before, after, metric, each) if is_judged else None,
        )
        for (one, (before, after)), is_judged in zip(pairs, judged, strict=True)
        if after.images
    ]


def _labelled(old: EvaluationResult, new: EvaluationResult) -> tuple[EvaluationResult, EvaluationResult]:
    """Return both results without the images that have no labelled pixel of the slice."""
    places = np.flatnonzero(new.counts.sum((1, 2)) > 0).tolist()
    return old.only(places), new.only(places)


def slice_reasons(found: Iterable[SliceGain], metric: str) -> list[str]:
    """Return a reason for each slice that the new model degrades beyond the interval."""
    return [
        tr(
            "slice {name}: {metric} {after:.4f}, champion {before:.4f}: gain {gain:+.4f}, interval [{low:+.4f}, {high:+.4f}]",
            name=one.label,
            metric=metric,
            after=one.champion + one.gain,
            before=one.champion,
            gain=one.gain,
            low=one.interval[0],
            high=one.interval[1],
        )
        for one in found
        if one.interval is not None and one.degraded
    ]
