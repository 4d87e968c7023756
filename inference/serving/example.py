"""The example on the page of `infer.py --serve`: an image of the data directory of this machine, with its prediction."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from core.errors import AppError
from dataset.classes import InvalidFileError, UInt8
from dataset.directory import data_files
from dataset.layout.layout import SPLIT
from dataset.layout.resolve import resolve_layout
from dataset.overlay import as_rgb
from dataset.pages import find_page
from dataset.splitting.splits import read_splits

SPLITS_BY_WORTH = ("test", "val", "train")  # a model has not seen the images of the first
MAX_SIDE = 1024  # pixels of the image that is sent to the page


@dataclass(frozen=True)
class Example:
    """An image file of a split of the data directory; `name` is its path there."""

    name: str
    path: Path
    split: str
    page: int | None = None


def find_example(root: Path) -> Example | None:
    """Return the first image of the test split in a data directory, else of val or train; None if there is none.

    A directory that is missing or cannot be read has no example: the page works without.
    """
    try:
        files = data_files(root)
        layout = resolve_layout(list(files), root.name)
        listed = read_splits(root / layout.splits_root) if layout.kind != SPLIT else None
    except (AppError, InvalidFileError, OSError):
        return None
    for split in SPLITS_BY_WORTH:
        images = layout.images(split)
        if layout.kind == SPLIT:
            names = sorted(images)
        else:
            names = sorted(name for kind, _, name in listed.lines if kind == split) if listed is not None else []
        for name in names:
            file, page = find_page(name, images)
            if file in images:
                path = images[file][0]
                return Example(path, files[path], split, page)
    return None


def encode_preview(pixels: UInt8) -> bytes:
    """Return an image (H,W,C) uint8 as PNG for a browser: RGB, at most MAX_SIDE pixels a side."""
    image = Image.fromarray(as_rgb(pixels))
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
