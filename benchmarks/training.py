"""Compare our training with the alternatives that users would choose, on the same machine in one run.

    python benchmarks/training.py accuracy path/to/data --seconds 480 --seeds 0 1 2
    python benchmarks/training.py speed path/to/data --seconds 30 --rounds 3
    python benchmarks/training.py folds path/to/data --seconds 480 --folds 5    # benchmarks/training_folds.py explains it
    python benchmarks/training.py busy --seconds 8      # beside busy processes; benchmarks/training_busy.py explains it
    python benchmarks/training.py stream path/to/data --seconds 30 --rounds 3   # benchmarks/training_stream.py
    python benchmarks/training.py startup path/to/data --rounds 3               # benchmarks/training_startup.py

The folder holds {train,val}/{images,masks} with class ids as pixel values, and classes.json (CamVid has that shape).

accuracy: mIoU on val, and on test where there is one, at native size after a number of seconds of training. Ours is the
real train.py, once per seed and `--variant` of its settings; the peers, from scratch, are torchvision's LR-ASPP by the
recipe of its references (SGD, poly) and, where it is installed, a U-Net-ResNet18 of segmentation_models.pytorch (Adam,
poly), both with random crops, flips and one worker.

speed: images/s of bare steps on tensors in memory, of our whole loop (data, tracking, progress), and of a plain
loop over the folder with the same augmentation and 0, 1 and 2 workers; and how the time of our loop is
divided. CPU seconds per image, over all threads of the process, vary less than images/s if other programs run.

Every measurement is a process of its own, one after another. Stop other programs first.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


from benchmarks.training_busy import busy
from benchmarks.training_folds import folds
from benchmarks.training_ours import BESIDE, Clock, Figures, call, ours, published
from benchmarks.training_peers import PEER_SIZE, bare, peer, plain
from benchmarks.training_startup import startup
from benchmarks.training_stream import stream
from core.console import format_table


def accuracy(options: argparse.Namespace) -> None:
    """Train each variant of ours and each peer for each time with each seed, in turns; print the means and their ranges."""
    found: dict[tuple[float, str], list[Figures]] = defaultdict(list)
    height, width = options.size
    for seconds in options.times or [options.seconds]:
        for seed in options.seeds:
            for variant in options.variant or [""]:
                settings = [*options.settings, *variant.split()]
                figures = ours(options.data, seconds, seed, options.size, settings)
                report(found, seconds, " ".join([f"ours, {height}x{width}", *settings]), seed, figures)
        for name, seed in itertools.product(options.peers, options.peer_seeds or options.seeds):
            figures = call("peer", options, network=name, seeds=seed, seconds=seconds)
            report(found, seconds, f"{name} {PEER_SIZE[0]}x{PEER_SIZE[1]}", seed, figures)
    rows = []
    for (seconds, label), runs in found.items():
        speed = statistics.mean(figures["images"] / figures["seconds"] for figures in runs)
        splits = (spread([figures[split] for figures in runs]) for split in ("val", "test"))
        rows.append([f"{seconds:.0f}", label, len(runs), f"{speed:.1f}", *splits])
    print(format_table(["seconds", "what", "seeds", "images/s", "val mIoU", "test mIoU"], rows))


def report(
    found: dict[tuple[float, str], list[Figures]], seconds: float, label: str, seed: int, figures: Figures
) -> None:
    """Add the figures of a training, and print them with the IoU of each class on val."""
    found[seconds, label].append(figures)
    classes = "  ".join(f"{name} {iou:.3f}" for name, iou in figures["iou"].items() if iou is not None)
    test = "" if figures["test"] is None else f"  test {figures['test']:.4f}"
    print(f"{seconds:.0f} s  {label}  seed {seed}: val {figures['val']:.4f}{test}  {classes}", flush=True)
    if "parts" in figures:
        passed = {part: spent for part, (spent, _) in figures["parts"].items()}
        beside = sum(passed[part] for part in ("validation", "checkpoints", "tracking"))
        print(f"  validation takes {passed['validation'] / (passed['training'] + beside):.1%} of the time", flush=True)


def spread(values: list[float | None]) -> str:
    """Return mean and range of a metric over the seeds; nothing without a test split."""
    known = [value for value in values if value is not None]
    return f"{statistics.mean(known):.4f} ({min(known):.4f} to {max(known):.4f})" if known else ""


def speed(options: argparse.Namespace) -> None:
    """Time each network in `options.rounds` rounds of bare steps, our loop and the plain loops; print medians and ranges."""
    rows, shares = [], []
    for name in options.networks:
        rounds, parts = zip(*(speed_round(options, name) for _ in range(options.rounds)), strict=True)
        for loop in rounds[0]:
            rows.append([name, loop, *rates([found[loop] for found in rounds], [found[BARE] for found in rounds])])
        shares += shares_of(name, parts)
    head = ["network", "loop", "images/s", "of bare", "CPU ms/image", "of bare"]
    print(format_table(head, rows))
    print("\n" + format_table(["network", "time of ours goes to", "seconds", "share", "of training"], shares))
    print(f"median (least to most) of {options.rounds} rounds of {options.seconds:g} s each")


BARE = "bare steps, before and after ours"


def speed_round(options: argparse.Namespace, name: str) -> tuple[dict[str, Figures], Clock]:
    """Time each loop once, and return how the time of ours is divided."""
    before = bare_of(options, name)
    settings = [f"model={name}", f"batch_size={options.batch}", "augmentation=light"]
    figures = ours(options.data, options.seconds, 0, options.size, settings)
    after, parts, images = bare_of(options, name), figures["parts"], figures["images"]
    passed, cpu = (sum(parts[part][i] for part in ("training", "checkpoints", "tracking")) for i in (0, 1))
    found: dict[str, Figures] = {
        BARE: {key: (before[key] + after[key]) / 2 for key in before},  # the machine's speed may drift
        "ours: data, steps, checkpoints, tracking, progress": {
            "images_per_second": images / passed,
            "cpu_per_image": cpu / images,
        },
    }
    for workers in options.plain:
        plain = call("plain", options, network=name, batch=options.batch, workers=workers)
        if workers:  # their CPU seconds are not counted
            plain["cpu_per_image"] = None
        found[f"plain loop over the folder, {workers} workers"] = plain
    return found, parts


def rates(found: Sequence[Figures], base: Sequence[Figures]) -> list[str]:
    """Return both figures of a loop over the rounds, each with its ratio to the bare steps of the same round."""
    speeds = [own["images_per_second"] for own in found]
    ratios = [speed / bare["images_per_second"] for speed, bare in zip(speeds, base, strict=True)]
    if found[0]["cpu_per_image"] is None:
        return [middle(speeds, 2), middle(ratios, 3), "", ""]
    cpu = [1000 * own["cpu_per_image"] for own in found]
    of_cpu = [1000 * bare["cpu_per_image"] / own for own, bare in zip(cpu, base, strict=True)]
    return [middle(speeds, 2), middle(ratios, 3), middle(cpu, 1), middle(of_cpu, 3)]


def middle(values: Sequence[float], digits: int) -> str:
    """Return median, least and most."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def shares_of(name: str, rounds: Sequence[Clock]) -> list[list[str]]:
    """Return the seconds of each activity (medians of the rounds), their fraction of the whole, and of the training."""
    seconds = {part: statistics.median(clock[part][0] for clock in rounds) for part in rounds[0]}
    training = seconds.pop("training")
    seconds["progress and the rest"] = training - seconds["data"] - seconds["steps"]
    everything = sum(value for part, value in seconds.items() if part != BESIDE)
    return [
        [name, part, f"{value:.2f}", f"{100 * value / everything:.1f} %", f"{100 * value / training:.1f} %"]
        for part, value in seconds.items()
    ]


def bare_of(options: argparse.Namespace, name: str) -> Figures:
    return call("bare", options, network=name, batch=options.batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", help="accuracy, speed, startup, folds, busy or stream; the others are their child processes",
                        choices=["accuracy", "speed", "startup", "folds", "busy", "stream",
                                                    "published", "peer", "bare", "plain"])  # fmt: skip
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=3, help="of speed, startup, busy and stream")
    parser.add_argument("--share", type=float, default=0.25, help="cache of stream, as a part of the files' bytes")
    parser.add_argument("--loads", type=int, nargs="+", default=[0, 1, 2, 4], help="busy processes of busy")
    parser.add_argument("--seconds", type=float, default=480, help="of training, for each row")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folds", type=int, default=5, help="of folds")
    parser.add_argument("--times", type=float, nargs="+", help="of accuracy, instead of --seconds: one table for all")
    parser.add_argument(
        "--variant", action="append", metavar="'NAME=VALUE …'", help="settings of one more training of ours"
    )
    parser.add_argument("--peer-seeds", type=int, nargs="+", help="of accuracy; default: --seeds")
    parser.add_argument("--size", type=int, nargs=2, default=[180, 240], metavar=("H", "W"), help="our input size")
    parser.add_argument("--peers", nargs="*", default=["lraspp_mobilenet_v3_large", "smp:unet/resnet18"])
    parser.add_argument("--networks", nargs="+", default=["compact_unet", "compact_fpn", "lraspp_mobilenet_v3_large"])
    parser.add_argument(
        "--plain", type=int, nargs="*", default=[0, 1, 2], metavar="WORKERS", help="plain loops of speed"
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--network", help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, help=argparse.SUPPRESS)
    parser.add_argument(
        "settings", nargs="*", metavar="name=value", help="settings of ours, such as model=compact_unet"
    )
    options = parser.parse_intermixed_args()
    if options.what == "busy":
        return busy(options.loads, options.rounds, options.seconds)
    if options.data is None:
        parser.error("DATA is missing")
    if options.what == "folds":
        return folds(options.data, options.folds, options.seconds, options.seeds, options.size, options.settings)
    tables = {"accuracy": accuracy, "speed": speed, "startup": startup, "stream": stream}
    if options.what in tables:
        return tables[options.what](options)
    measured = {"published": published, "peer": peer, "bare": bare, "plain": plain}[options.what](options)
    print(json.dumps(measured), flush=True)


if __name__ == "__main__":
    main()
