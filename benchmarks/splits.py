"""How many held-out images are frames beside training frames: of the split by groups, and of a split by hash alone.

python benchmarks/splits.py ../shared/camvid              # pools the names of all splits, seeds 0 to 4
python benchmarks/splits.py DIR --frames 30 --seeds 10

Only names are read. An image of val or test counts if a training image of the same film has a number at most 30 away.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dataset.directory import SPLITS, is_image
from dataset.splitting.films import films_of
from dataset.splitting.group_splits import split_by_groups
from dataset.splitting.groups import Groups, detect_groups
from dataset.splitting.splits import new_split


def count_near(groups: Groups, splits: Mapping[str, str], distance: float) -> int:
    """Return how many images of val and test have a training frame of their film within the distance."""
    near = 0
    for film in films_of({name: frame for name, frame in groups.frames.items() if name in splits}).values():
        trained = [position for position, name in film if splits[name] == "train"]
        held_out = [position for position, name in film if splits[name] != "train"]
        near += sum(any(abs(position - other) <= distance for other in trained) for position in held_out)
    return near


def describe(groups: Groups, splits: Mapping[str, str], distance: float) -> str:
    counts = Counter(splits.values())
    held_out = counts["val"] + counts["test"]
    sizes = ", ".join(f"{split} {counts[split]:>3} ({counts[split] / len(groups.of):.1%})" for split in SPLITS)
    return f"{sizes}, left out {len(groups.of) - len(splits):>2}; near: {count_near(groups, splits, distance):>2} of {held_out}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="directory with images/ anywhere below")
    parser.add_argument("--frames", type=float, default=30, metavar="N", help="distance of frames (default: 30)")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="number of seeds (default: 5)")
    options = parser.parse_args()
    names = sorted({path.stem for path in options.data.rglob("images/*") if is_image(path.name)})
    groups = detect_groups(names)
    print(f"{len(names)} names; {groups.rule}: {groups.reason}")
    for seed in range(options.seeds):
        print(f"seed {seed} by groups: {describe(groups, split_by_groups(groups, {}, seed), options.frames)}")
        print(f"seed {seed} by hash:   {describe(groups, new_split(names, seed), options.frames)}")


if __name__ == "__main__":
    main()
