"""What an audit writes: audit.csv with every mask in order, and audit.html with the first ones to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.figures import format_figure
from core.files import write_atomically
from core.i18n import tr
from core.pages.cards import Card, Gallery, Panel
from core.safety import html
from core.safety.spreadsheet import csv_bytes
from dataset.classes import IGNORE_INDEX
from dataset.data import SegmentationData
from dataset.overlay import as_rgb, class_legend, difference, overlay, panel, wrong_legend
from train.audit.predictions import OutOfFold
from train.audit.ranking import Suspicion

TABLE, PAGE = "audit.csv", "audit.html"
TEMPLATE = Path(__file__).with_name("audit.html")
SHOWN_SHARE, SHOWN_LEAST, SHOWN_MOST = 0.05, 20, 200  # masks on the page: part of all, but not fewer or more than these


def write_table(path: Path, data: SegmentationData, ranked: Sequence[Suspicion]) -> None:
    """Write one row per mask, the most suspicious first."""
    rows: list[list[object]] = [["rank", "split", "name", "mask", "score", "quality", "explanation"]]
    for rank, found in enumerate(ranked, 1):
        pair = data.pairs[found.index]
        figures = [format_figure(found.score), format_figure(found.quality), found.explanation]
        rows.append([rank, pair.split, pair.name, _mask_path(data, found), *figures])
    write_atomically(path, csv_bytes(rows))


def write_page(path: Path, data: SegmentationData, predicted: OutOfFold, ranked: Sequence[Suspicion]) -> int:
    """Write the page of the most suspicious masks, which loads nothing from elsewhere; return their number."""
    shown = ranked[: min(SHOWN_MOST, max(SHOWN_LEAST, math.ceil(SHOWN_SHARE * len(ranked))))]
    intro = tr(
        "{shown} of {count} masks, the most suspicious first. Each was predicted by a model that was trained without it; "
        "a high place means that a typical mistake explains the difference, not that the mask is wrong.",
        shown=len(shown),
        count=len(ranked),
    )
    gallery = Gallery(
        "masks",
        tr("Masks"),
        [_card(data, predicted, found, rank) for rank, found in enumerate(shown, 1)],
        data.classes.names,
        [*class_legend(data.classes), wrong_legend()],
        ("label", "prediction"),
        [("first", tr("most suspicious first")), ("name", tr("name"))],
    )
    html.write_page(path, TEMPLATE, intro=intro, gallery=gallery)
    return len(shown)


def _card(data: SegmentationData, predicted: OutOfFold, found: Suspicion, rank: int) -> Card:
    explanation = found.explanation or tr("nothing in particular")
    figures = tr("score {score:.2f}, label quality {quality:.3f}", score=found.score, quality=found.quality)
    panels, present = _panels(data, predicted, found.index)
    return Card(
        _mask_path(data, found),
        panels,
        value=rank,
        class_values={str(index): rank for index in present},
        score=f"{rank}. {explanation} ({figures})",
        note=data.pairs[found.index].split,
        legend=class_legend(data.classes, present),
    )


def _panels(data: SegmentationData, predicted: OutOfFold, index: int) -> tuple[list[Panel], list[int]]:
    """Return image, mask, prediction and their difference, and the classes that occur in mask or prediction."""
    pixels, labels, _ = predicted.images.arrays(index)
    image, guess = as_rgb(pixels), predicted.probabilities[index].argmax(0).astype("uint8")
    guess[labels == IGNORE_INDEX] = IGNORE_INDEX
    present = np.union1d(labels, guess)
    panels = [
        panel("image", tr("image"), image),
        panel("label", tr("label"), overlay(image, labels, data.classes)),
        panel("prediction", tr("prediction"), overlay(image, guess, data.classes)),
        panel("difference", tr("difference"), difference(image, labels, guess)),
    ]
    return panels, [int(index) for index in present if index < data.classes.num_classes]


def _mask_path(data: SegmentationData, found: Suspicion) -> str:
    mask = data.pairs[found.index].mask
    return mask.relative_to(data.root).as_posix() if mask.is_relative_to(data.root) else str(mask)
