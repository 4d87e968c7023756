"""Generate sample data: overlapping textured shapes on a noisy background, the same bytes for the same seed."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from core.errors import UsageError
from core.files import read_regular, write_atomically
from core.i18n import tr
from core.reporting import progress
from dataset.classes import CLASSES_FILE, ClassMap, build_classes
from dataset.directory import SAMPLE_STAGING, SPLITS, data_files, is_empty, move_is_pending
from dataset.splitting.splits import new_split, write_splits

SIDE = 128  # pixels
COUNT = 500  # pairs
NAMES = ("background", "disc", "rectangle", "triangle")
COLORS = ((0, 0, 0), (230, 75, 60), (60, 160, 230), (245, 200, 60))
Plane = npt.NDArray[np.float64]


def generate_sample(root: Path, seed: int, count: int = COUNT) -> None:
    """Make `count` pairs of 128x128 images with classes.json and an 80/10/10 split below `root`.

    Everything is made in a hidden directory first and then moved; a call after an interruption finishes the work.
    Raises UsageError when `root` holds other data or cannot be written.
    """
    fill_folder(root, lambda staging: _build(staging, seed, count))


def fill_folder(root: Path, build: Callable[[Path], None]) -> None:
    """Let `build` make a data set in a hidden directory, then move it to `root`; a call after an interruption finishes it.

    Raises UsageError when `root` holds other data or cannot be written.
    """
    if not is_empty(root):
        raise UsageError(tr("{root}: holds data already", root=root))
    try:
        staging = root / SAMPLE_STAGING
        if not move_is_pending(root):
            shutil.rmtree(staging, ignore_errors=True)
            build(staging)
            write_atomically(staging / "complete", "\n".join(data_files(staging)).encode())
        _check_other_files(root, staging)
        _move(staging, root)
    except OSError as error:
        reason = error.strerror
        raise UsageError(tr("{root}: cannot store the data ({reason})", root=root, reason=reason)) from None


def holds_sample(root: Path, seed: int) -> bool:
    """Return whether `root` has the files of `generate_sample`, of this seed."""
    names = _pair_names(COUNT)
    expected = {f"{part}/{name}.png" for name in names for part in ("images", "masks")}
    expected |= {CLASSES_FILE, *(f"splits/{split}.txt" for split in SPLITS)}
    files = data_files(root)
    if files.keys() != expected:
        return False
    return files[f"images/{names[0]}.png"].read_bytes() == _png(Image.fromarray(draw_pair(seed, 0)[0]))


def _pair_names(count: int) -> list[str]:
    return [f"sample_{number:04d}" for number in range(count)]


def sample_classes() -> ClassMap:
    """Return the four classes of the sample data, with their colours."""
    return build_classes((value, name, COLORS[value], False) for value, name in enumerate(NAMES))


def _build(staging: Path, seed: int, count: int) -> None:
    """Write all pairs, the class list and the split."""
    names = _pair_names(count)
    for part in ("images", "masks"):
        (staging / part).mkdir(parents=True)
    palette = sample_classes().palette()
    title, unit = tr("making sample data"), tr("pairs")
    for number, name in enumerate(progress(names, count, title, unit)):
        image, mask = draw_pair(seed, number)
        (staging / "images" / f"{name}.png").write_bytes(_png(Image.fromarray(image)))
        colored = Image.fromarray(mask)
        colored.putpalette(palette)  # so that a viewer shows classes instead of black
        (staging / "masks" / f"{name}.png").write_bytes(_png(colored))
    entries = [{"id": i, "name": name, "color": COLORS[i]} for i, name in enumerate(NAMES)]
    text = "[\n  " + ",\n  ".join(json.dumps(entry) for entry in entries) + "\n]\n"
    (staging / CLASSES_FILE).write_bytes(text.encode())
    write_splits(staging, new_split(names, seed), seed)


def _check_other_files(root: Path, staging: Path) -> None:
    """Raise UsageError if other files were added after an interruption: what is moved here is never mixed with other data."""
    own = set(read_regular(staging / "complete").decode().splitlines())
    places = ("images/", "masks/", "splits/")
    others = [name for name in data_files(root) if name not in own and name.startswith(places)]
    if others:
        raise UsageError(
            tr(
                "{root}: holds a file that is not part of the interrupted data ({file}): move it, or delete {staging}",
                root=root,
                file=others[0],
                staging=staging,
            )
        )


def _move(staging: Path, root: Path) -> None:
    """Move the remaining files; the marker `complete` is removed last, until then `is_empty` is true and a call resumes."""
    waiting = data_files(staging)
    waiting.pop("complete")
    for name in sorted(waiting, key=lambda name: (name.startswith("splits/"), name)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(waiting[name], root / name)
    (staging / "complete").unlink()
    shutil.rmtree(staging)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


# --- drawing -----------------------------------------------------------------------------------------------


def draw_pair(seed: int, number: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return image (128,128,3) uint8 and mask (128,128) uint8 of class ids; every pixel depends only on (seed, number)."""
    rng = np.random.default_rng([seed, number])
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float64)
    image, mask = _background(rng, y, x), np.zeros((SIDE, SIDE), np.uint8)
    for _ in range(int(rng.integers(2, 5))):
        value = int(rng.integers(1, len(NAMES)))
        interior = _shape(rng, NAMES[value], y, x)
        image[interior] = _textured(rng, value, y, x)[interior]
        mask[interior] = value
    light = 1 + 0.25 * (rng.uniform(-1, 1) * (y / SIDE - 0.5) + rng.uniform(-1, 1) * (x / SIDE - 0.5))
    image = image * light[:, :, None] + rng.normal(0, rng.uniform(3, 9), image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), mask


def _color(rng: np.random.Generator) -> Plane:
    return rng.uniform(20, 235, 3)


def _background(rng: np.random.Generator, y: Plane, x: Plane) -> Plane:
    """Return (128,128,3): a gradient between two colours, blotches, and faint waves that belong to no class."""
    angle = rng.uniform(0, 2 * np.pi)
    ramp = ((np.cos(angle) * x + np.sin(angle) * y) / SIDE + 1.5) / 3
    blotches = np.kron(rng.normal(0, 5, (8, 8)), np.ones((SIDE // 8, SIDE // 8)))
    waves = rng.uniform(0, 8) * np.sin(rng.uniform(0.05, 0.2) * x + rng.uniform(0.05, 0.2) * y)
    first, second = _color(rng), _color(rng)
    base = first + (second - first) * ramp[:, :, None]
    return np.asarray(base + (blotches + waves)[:, :, None], np.float64)


def _rotated(rng: np.random.Generator, y: Plane, x: Plane) -> tuple[Plane, Plane]:
    """Return coordinates around a random centre, rotated by a random angle."""
    center_y, center_x = rng.uniform(0.1 * SIDE, 0.9 * SIDE, 2)
    angle = rng.uniform(0, np.pi)
    dy, dx = y - center_y, x - center_x
    return np.cos(angle) * dy - np.sin(angle) * dx, np.sin(angle) * dy + np.cos(angle) * dx


def _shape(rng: np.random.Generator, name: str, y: Plane, x: Plane) -> npt.NDArray[np.bool_]:
    """Return which pixels the shape covers, (128,128) bool."""
    v, u = _rotated(rng, y, x)
    size = rng.uniform(26, 46)
    if name == "disc":
        return np.asarray(u**2 + v**2 < (0.85 * size) ** 2)
    if name == "rectangle":
        return np.asarray((np.abs(u) < size) & (np.abs(v) < size * rng.uniform(0.45, 0.9)))
    return np.asarray((v > -0.6 * size) & (v + np.sqrt(3) * np.abs(u) < 1.2 * size))


def _stripes(_v: Plane, u: Plane, period: float) -> npt.NDArray[np.bool_]:
    return np.asarray(np.mod(u, period) < period / 2)


def _checks(v: Plane, u: Plane, period: float) -> npt.NDArray[np.bool_]:
    return _stripes(v, u, 2 * period) ^ _stripes(u, v, 2 * period)


def _dots(v: Plane, u: Plane, period: float) -> npt.NDArray[np.bool_]:
    spacing = 1.3 * period
    dv, du = np.mod(v, spacing) - spacing / 2, np.mod(u, spacing) - spacing / 2
    return np.asarray(dv**2 + du**2 < (0.3 * spacing) ** 2)


_TEXTURES: dict[int, Callable[[Plane, Plane, float], npt.NDArray[np.bool_]]] = {1: _stripes, 2: _checks, 3: _dots}


def _textured(rng: np.random.Generator, texture: int, y: Plane, x: Plane) -> Plane:
    """Return (128,128,3): light and dark shades of a random colour in this texture."""
    v, u = _rotated(rng, y, x)
    pattern = _TEXTURES[texture](v, u, rng.uniform(10, 15))
    middle = rng.uniform(60, 195, 3)
    # Either shade may be the pattern; the contrast is what a small network can learn from in 150 steps.
    contrast = rng.choice([-1.0, 1.0]) * rng.uniform(50, 80) * rng.uniform(0.7, 1.3, 3)
    return np.asarray(np.where(pattern[:, :, None], middle + contrast, middle - contrast), np.float64)
