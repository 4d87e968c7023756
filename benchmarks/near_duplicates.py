"""How many planted near-duplicates the check of the data finds, and how many images it takes for one by mistake.

python benchmarks/near_duplicates.py ../shared/camvid     # recall of each kind, false positives between films, seconds

Every image of val is planted once into train as each kind of copy, and the check has to name it. False positives are
counted between images of different films (the stem of their names), because neighbouring frames of one film are
near-duplicates in fact. With --count N, the time of the check is measured on N images (thumbnails of moved noise).
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dataset.classes import UInt8
from dataset.directory import is_image
from dataset.splitting.names import numbers_of
from dataset.splitting.near_duplicates import find_near_duplicates
from dataset.splitting.thumbnails import SIDE, make_thumbnail


def compress(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def crop(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    width, height = image.size
    return image.crop((round(width * left), round(height * top), round(width * right), round(height * bottom)))


def copies(image: Image.Image, rng: np.random.Generator) -> Iterator[tuple[str, Image.Image]]:
    """Yield the kinds of copies."""
    width, height = image.size
    yield "resize 50 %", image.resize((width // 2, height // 2))
    yield "resize 150 %", image.resize((width * 3 // 2, height * 3 // 2))
    yield "JPEG quality 60", compress(image, 60)
    x, y = rng.uniform(0, 0.05, 2)
    yield "crop 5 % (anywhere)", crop(image, x, y, x + 0.95, y + 0.95)
    yield "crop 5 % of each edge", crop(image, 0.05, 0.05, 0.95, 0.95)
    yield "crop 5 % of one edge", crop(image, 0.05, 0, 1, 1)
    yield "flip (mirrored)", ImageOps.mirror(image)
    yield "flip (upside down)", ImageOps.flip(image)
    small = crop(ImageOps.mirror(image), x, y, x + 0.95, y + 0.95).resize((width // 2, height // 2))
    yield "all of these", compress(small, 60)


def read_images(folder: Path) -> dict[str, Image.Image]:
    paths = sorted(path for path in folder.rglob("images/*") if is_image(path.name))
    return {path.stem: Image.open(path).convert("RGB") for path in paths}


def measure_recall(images: dict[str, Image.Image], held_out: list[str]) -> None:
    """Print the fraction of planted copies that are found, each kind planted among all other images."""
    rng = np.random.default_rng(0)
    originals = {name: make_thumbnail(np.asarray(image)) for name, image in images.items()}
    planted: dict[str, dict[str, UInt8]] = {}
    for name in held_out:
        for kind, copy in copies(images[name], rng):
            planted.setdefault(kind, {})[name] = make_thumbnail(np.asarray(copy))
    print(f"{'planted copy':<24}{'found':>8}")
    for kind, thumbnails in planted.items():
        copied = {f"copy of {name}": thumbnail for name, thumbnail in thumbnails.items()}
        splits = dict.fromkeys([*originals, *copied], "train") | dict.fromkeys(held_out, "val")
        pairs = find_near_duplicates({**originals, **copied}, splits)
        found = sum(pair.other == f"copy of {pair.name}" for pair in pairs)
        print(f"{kind:<24}{found / len(thumbnails):>8.1%}")


def measure_false_positives(images: dict[str, Image.Image]) -> None:
    """Print how many images are taken for near-duplicates of an image of another film."""
    thumbnails = {name: make_thumbnail(np.asarray(image)) for name, image in images.items()}
    stems = {name: frame.sequence for name, frame in numbers_of(list(images)).items()}
    found = count = 0
    for stem in sorted(set(stems.values())):
        splits = {name: "val" if stems.get(name) == stem else "train" for name in images}
        found += len({pair.name for pair in find_near_duplicates(thumbnails, splits)})
        count += sum(split == "val" for split in splits.values())
    print(f"\nfalse positives between films: {found} of {count} images ({found / max(1, count):.2%})")


def measure_time(count: int) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.normal(size=(40, 8, 8))
    mixed = np.einsum("nk,kij->nij", rng.normal(size=(count, 40)), coarse)
    noise = np.kron(mixed, np.ones((SIDE // 8, SIDE // 8))) + rng.normal(size=(count, SIDE, SIDE))
    pixels = np.clip(128 + 20 * noise, 0, 255).astype(np.uint8)
    names = [f"n{number}" for number in range(count)]
    splits = {name: "train" if number % 5 else "val" for number, name in enumerate(names)}
    start = time.perf_counter()
    find_near_duplicates(dict(zip(names, pixels, strict=True)), splits)
    print(f"\n{count:,} images, a fifth of them in val: {time.perf_counter() - start:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="directory with images/ anywhere below")
    parser.add_argument("--count", type=int, default=10000, metavar="N", help="images of the measurement of time")
    options = parser.parse_args()
    images = read_images(options.data)
    val = [path.stem for path in sorted((options.data / "val" / "images").glob("*")) if is_image(path.name)]
    measure_recall(images, val or sorted(images)[::5])
    measure_false_positives(images)
    measure_time(options.count)


if __name__ == "__main__":
    main()
