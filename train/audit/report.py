"""What an audit writes: audit.csv with every mask in order, and audit.html with the first ones to look at."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from core.files import write_atomically
from core.i18n import tr
from core.safety import html
from core.safety.spreadsheet import csv_bytes
from dataset.classes import IGNORE_INDEX, UInt8
from dataset.data import SegmentationData
from dataset.overlay import as_rgb, overlay
from train.audit.predictions import OutOfFold
from train.audit.ranking import Suspicion

TABLE, PAGE = "audit.csv", "audit.html"
TEMPLATE = Path(__file__).with_name("audit.html")
SHOWN_SHARE, SHOWN_LEAST, SHOWN_MOST = 0.05, 20, 200  # masks on the page: part of all, but not fewer or more than these
JPEG_QUALITY = 85


def write_table(path: Path, data: SegmentationData, ranked: Sequence[Suspicion]) -> None:
    """Write one row per mask, the most suspicious first."""
    rows: list[list[object]] = [["rank", "split", "name", "mask", "score", "quality", "explanation"]]
    for rank, found in enumerate(ranked, 1):
        pair = data.pairs[found.index]
        figures = [f"{found.score:.4f}", f"{found.quality:.4f}", found.explanation]
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
    entries = [
        {
            "rank": rank,
            "mask": _mask_path(data, found),
            "explanation": found.explanation or tr("nothing in particular"),
            "figures": tr("score {score:.2f}, label quality {quality:.3f}", score=found.score, quality=found.quality),
            "images": _images(data, predicted, found.index),
        }
        for rank, found in enumerate(shown, 1)
    ]
    html.write_page(path, TEMPLATE, intro=intro, entries=entries)
    return len(shown)


def _images(data: SegmentationData, predicted: OutOfFold, index: int) -> list[tuple[str, str]]:
    """Return (caption, data URL) of image, mask and prediction."""
    pixels, labels, _ = predicted.images.arrays(index)
    image, guess = as_rgb(pixels), predicted.probabilities[index].argmax(0).astype("uint8")
    guess[labels == IGNORE_INDEX] = IGNORE_INDEX
    panels = ((tr("image"), image), (tr("mask"), overlay(image, labels, data.classes)))
    return [(name, _jpeg(panel)) for name, panel in (*panels, (tr("prediction"), overlay(image, guess, data.classes)))]


def _jpeg(image: UInt8) -> str:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _mask_path(data: SegmentationData, found: Suspicion) -> str:
    mask = data.pairs[found.index].mask
    return mask.relative_to(data.root).as_posix() if mask.is_relative_to(data.root) else str(mask)
