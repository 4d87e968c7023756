"""Draw the image of the README: sample images with label, prediction and difference, of the model in models/.

python train.py                     # the generated sample set, and a model of it
python tools/result_image.py        # writes docs/images/result.jpg
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a script, Python puts only tools/ on the path

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from core.hashing import file_sha256  # noqa: E402
from dataset.decoding.image import read_image  # noqa: E402
from dataset.decoding.mask import read_mask  # noqa: E402
from dataset.overlay import as_rgb, difference, overlay  # noqa: E402
from dataset.validation import check_data  # noqa: E402
from segmentation.model_file import load_model  # noqa: E402
from segmentation.predictor import segment  # noqa: E402
from segmentation.preprocess import choose_device  # noqa: E402

DATA, MODEL, OUTPUT = ROOT / "data", ROOT / "models" / "model.pth", ROOT / "docs" / "images" / "result.jpg"
SHOWN = 3  # images of the validation split
GAP = 4  # pixels between panels


def draw(data: Path, model_file: Path, output: Path) -> None:
    """Write a row for each of the first validation images: image, label, prediction, difference."""
    device = choose_device("cpu")
    model = load_model(model_file, file_sha256(model_file), device)
    rows = []
    for pair in check_data(data, 0, make_split=False, reading=model.reading).split("val")[:SHOWN]:
        image = as_rgb(read_image(pair.image, model.reading))
        label = read_mask(pair.mask, model.classes, model.reading)
        (predicted,) = segment(model, [read_image(pair.image, model.reading)], device)
        panels = [image, overlay(image, label, model.classes), overlay(image, predicted, model.classes)]
        panels.append(difference(image, label, predicted))
        rows.append(np.concatenate([_with_gap(panel) for panel in panels], axis=1))
    output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(output, quality=88, optimize=True)


def _with_gap(
    panel: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return a panel (H,W,3) uint8 with a white margin on the right and below."""
    return np.pad(panel, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)


if __name__ == "__main__":
    draw(DATA, MODEL, OUTPUT)
    print(f"{OUTPUT.relative_to(ROOT)}: {OUTPUT.stat().st_size:,} bytes")
