"""Draw the image of the README: sample images with label, prediction and difference, of the model in models/.

python train.py                     # the generated sample set, and a model of it
python tools/result_image.py        # writes docs/images/result.jpg
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a script, Python puts only tools/ on the path

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from core.hashing import file_sha256  # noqa: E402
from dataset.classes import UInt8  # noqa: E402
from dataset.decoding.image import read_image  # noqa: E402
from dataset.decoding.mask import read_mask  # noqa: E402
from dataset.overlay import as_rgb, difference, overlay  # noqa: E402
from dataset.validation import check_data  # noqa: E402
from segmentation.model_file import load_model  # noqa: E402
from segmentation.predictor import segment  # noqa: E402
from segmentation.preprocess import choose_device  # noqa: E402

DATA, MODEL, OUTPUT = ROOT / "data", ROOT / "models" / "model.pth", ROOT / "docs" / "images" / "result.jpg"
SHOWN = 3  # images of the test split
SCALE = 2  # of the pixels of the sample set
GAP, GAP_COLOR = 6, 90  # between panels: pixels, and a grey that can be seen on white and on black


def draw(data: Path, model_file: Path, output: Path) -> None:
    """Write a row for each of the test images with most classes: image, label, prediction, difference."""
    device = choose_device("cpu")
    model = load_model(model_file, file_sha256(model_file), device)
    rows = []
    pairs = check_data(data, 0, make_split=False, reading=model.reading).split("test")
    labels = {pair.name: read_mask(pair.mask, model.classes, model.reading) for pair in pairs}
    for pair in sorted(pairs, key=lambda pair: -np.unique(labels[pair.name]).size)[:SHOWN]:
        image, label = as_rgb(read_image(pair.image, model.reading)), labels[pair.name]
        (predicted,) = segment(model, [read_image(pair.image, model.reading)], device)
        panels = [image, overlay(image, label, model.classes), overlay(image, predicted, model.classes)]
        panels.append(difference(image, label, predicted))
        rows.append(_join([panel.repeat(SCALE, 0).repeat(SCALE, 1) for panel in panels], axis=1))
    output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(_join(rows, axis=0)).save(output, quality=85, subsampling=0, optimize=True)


def _join(parts: Sequence[UInt8], axis: int) -> UInt8:
    """Return panels (H,W,3) uint8 beside (axis 1) or below each other (0), with gaps only between them."""
    shape = [*parts[0].shape]
    shape[axis] = GAP
    gap = np.full(shape, GAP_COLOR, np.uint8)
    spaced = [piece for part in parts for piece in (gap, part)][1:]
    return np.concatenate(spaced, axis)


if __name__ == "__main__":
    draw(DATA, MODEL, OUTPUT)
    print(f"{OUTPUT.relative_to(ROOT)}: {OUTPUT.stat().st_size:,} bytes")
