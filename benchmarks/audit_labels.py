"""How many deliberately corrupted masks `train.py --audit-labels` ranks first.

    python benchmarks/audit_labels.py plant ../shared/camvid /tmp/planted            # corrupt 5 % of the masks of a copy
    python train.py --audit-labels --data-dir /tmp/planted/data                      # the real command
    python benchmarks/audit_labels.py score /tmp/planted models/audit/audit.csv      # how many it ranked first

plant: copies the data set (any layout with images/ and masks/), and corrupts a random 5 % of its masks, a third each:
  swap   two classes that each cover at least 1 % of the image change places
  shift  the mask is moved by 5 pixels in a random direction; uncovered pixels repeat the border
  erase  one object (a connected region of a class of `--things`, 0.2 to 10 % of the image) becomes its surroundings
planted.json lists them. Nothing is copied into the project.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

KINDS = ("swap", "shift", "erase")
THINGS = ("car", "pedestrian", "bicyclist", "sign")
SWAP_SHARE, ERASE_SHARE = 0.01, (0.002, 0.1)  # of the image
SHIFT = 5  # pixels
Mask = NDArray[np.uint8]


def swap(mask: Mask, random: np.random.Generator, ignored: set[int]) -> tuple[Mask, str] | None:
    values, counts = np.unique(mask, return_counts=True)
    large = [int(v) for v, n in zip(values, counts, strict=True) if n >= SWAP_SHARE * mask.size and v not in ignored]
    if len(large) < 2:
        return None
    a, b = (int(value) for value in random.choice(large, 2, replace=False))
    return np.where(mask == a, b, np.where(mask == b, a, mask)).astype(np.uint8), f"classes {a} and {b}"


def shift(mask: Mask, random: np.random.Generator) -> tuple[Mask, str]:
    angle = random.uniform(0, 2 * np.pi)
    down, right = round(SHIFT * np.sin(angle)), round(SHIFT * np.cos(angle))
    padded = np.pad(mask, SHIFT, mode="edge")
    height, width = mask.shape
    top, left = SHIFT - down, SHIFT - right
    return padded[top : top + height, left : left + width].copy(), f"{down:+d} down, {right:+d} right"


def erase(mask: Mask, random: np.random.Generator, things: list[int]) -> tuple[Mask, str] | None:
    objects: list[tuple[int, NDArray[np.bool_]]] = []
    for value in things:
        regions, count = ndimage.label(mask == value)
        for number in range(1, count + 1):
            region = regions == number
            if ERASE_SHARE[0] * mask.size <= region.sum() <= ERASE_SHARE[1] * mask.size:
                objects.append((value, region))
    if not objects:
        return None
    value, region = objects[int(random.integers(len(objects)))]
    nearest = ndimage.distance_transform_edt(region, return_distances=False, return_indices=True)
    erased: Mask = mask[tuple(nearest)]
    return erased, f"class {value}, {region.sum()} pixels"


def plant(source: Path, target: Path, seed: int, share: float, thing_names: list[str]) -> None:
    data = target / "data"
    shutil.rmtree(target, ignore_errors=True)
    for part in ("images", "masks"):
        for folder in sorted(source.glob(f"**/{part}")):
            copied = data / folder.relative_to(source)
            copied.mkdir(parents=True)
            for file in folder.iterdir():
                shutil.copyfile(file, copied / file.name)
    shutil.copyfile(source / "classes.json", data / "classes.json")
    entries = json.loads((source / "classes.json").read_text())
    things = [entry["id"] for entry in entries if entry["name"] in thing_names]
    ignored = {entry["id"] for entry in entries if entry.get("ignore")}
    masks = {path.stem: path for path in data.glob("**/masks/*")}
    names = sorted(masks)
    random = np.random.default_rng(seed)
    wanted = round(share * len(names))
    planted: list[dict[str, str]] = []
    for name in random.permutation(names):
        if len(planted) == wanted:
            break
        path, kind = masks[str(name)], KINDS[len(planted) % len(KINDS)]
        mask = np.asarray(Image.open(path))
        match kind:
            case "swap":
                made = swap(mask, random, ignored)
            case "shift":
                made = shift(mask, random)
            case _:
                made = erase(mask, random, things)
        if made is None or np.array_equal(made[0], mask):
            continue
        Image.fromarray(made[0]).save(path)
        planted.append({"name": str(name), "kind": kind, "what": made[1]})
    (target / "planted.json").write_text(json.dumps(planted, indent=1))
    print(f"{len(planted)} of {len(names)} masks corrupted: {target / 'planted.json'}")


def score(target: Path, ranking: Path) -> None:
    planted = {row["name"]: row for row in json.loads((target / "planted.json").read_text())}
    with ranking.open(encoding="utf-8-sig", newline="") as stream:
        order = [row["name"] for row in csv.DictReader(stream)]
    top = round(0.05 * len(order))
    for name, row in planted.items():
        row["rank"] = str(order.index(name) + 1)
    for row in sorted(planted.values(), key=lambda row: int(row["rank"])):
        print(f"{row['rank']:>5}  {row['kind']:5}  {row['name']}  {row['what']}")
    found = Counter(row["kind"] for row in planted.values() if int(row["rank"]) <= top)
    total = Counter(row["kind"] for row in planted.values())
    print(f"top {top} of {len(order)}: {sum(found.values())} of {len(planted)} corrupted masks "
          f"({sum(found.values()) / len(planted):.0%}); " + ", ".join(f"{k} {found[k]}/{total[k]}" for k in KINDS))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    planting = commands.add_parser("plant", help="copy a data set and corrupt some of its masks")
    planting.add_argument("source", type=Path)
    planting.add_argument("target", type=Path)
    planting.add_argument("--seed", type=int, default=0)
    planting.add_argument("--share", type=float, default=0.05)
    planting.add_argument("--things", nargs="+", default=list(THINGS))
    scoring = commands.add_parser("score", help="compare a ranking with planted.json")
    scoring.add_argument("target", type=Path)
    scoring.add_argument("ranking", type=Path)
    options = parser.parse_args()
    if options.command == "plant":
        plant(options.source, options.target, options.seed, options.share, options.things)
    else:
        score(options.target, options.ranking)


if __name__ == "__main__":
    main()
