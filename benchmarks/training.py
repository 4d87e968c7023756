"""Compare our training with the alternatives that users would choose, on the same machine in one run.

    python benchmarks/training.py accuracy path/to/data --seconds 480 --seeds 0 1 2
    python benchmarks/training.py speed path/to/data --seconds 60
    python benchmarks/training.py folds path/to/data --seconds 480 --folds 5    # benchmarks/training_folds.py explains it
    python benchmarks/training.py busy --seconds 8      # beside busy processes; benchmarks/training_busy.py explains it
    python benchmarks/training.py stream path/to/data --seconds 30 --rounds 3   # benchmarks/training_stream.py
    python benchmarks/training.py startup path/to/data --rounds 3               # benchmarks/training_startup.py

The folder holds {train,val}/{images,masks} with class ids as pixel values, and classes.json (CamVid has that shape).

accuracy: val mIoU and accuracy at native size after a number of seconds of training from scratch. Ours is the real
train.py, once per seed; the peers are torchvision's LR-ASPP by the recipe of its references (SGD, poly) and, where it is installed,
a U-Net-ResNet18 of segmentation_models.pytorch (Adam, poly), both with random crops, flips and one worker.

speed: images/s of bare steps on tensors in memory, of our whole loop (data, tracking, progress), and of a plain
loop over the folder with the same augmentation and 0, 1 and 2 workers; and how the time of our loop is
divided. CPU seconds per image, over all threads of the process, vary less than images/s if other programs run.

Every measurement is a process of its own, one after another. Stop other programs first.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


import config
from benchmarks.training_busy import busy
from benchmarks.training_folds import folds
from benchmarks.training_peers import PEER_SIZE, Figures, bare, peer, plain
from benchmarks.training_startup import startup
from benchmarks.training_stream import stream
from core import git as git_utils
from core.console import format_table
from core.threads.background import Background
from dataset.validation import check_data
from train.jobs.job import Job, train_and_publish
from train.mlflow_train import MlflowTrain
from train.tracking.run_tracker import RunFacts
from utils import mlflow_utils
from utils.lakefs_utils import connect

# --- ours -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def own_servers() -> Iterator[dict[str, str]]:
    """Return an environment in which the scripts keep everything in a temporary directory."""
    with tempfile.TemporaryDirectory() as folder:
        clean = {
            key: value for key, value in os.environ.items() if not key.startswith(("LAKEFS_", "MINIO_", "MLFLOW_"))
        }
        yield clean | {
            "LAKEFS_LOCAL_DIR": f"{folder}/lakefs",
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
            "MODEL_PATH": f"{folder}/models/model.pth",
            "APP_LANG": "en",
        }


def ours(data: Path, seconds: float, seed: int, size: list[int], extra: list[str]) -> Figures:
    """Run train.py as a user calls it; return the metrics of the published model."""
    with own_servers() as environment:
        command = [sys.executable, str(Path(__file__).resolve()), "published", str(data)]
        command += ["--seconds", str(seconds), "--seeds", str(seed), "--size", *map(str, size)]
        named = (setting.split("=", 1) for setting in extra)
        return child(command, environment | {name.upper(): value for name, value in named})


def published(options: argparse.Namespace) -> Figures:
    """Train as train.py does, with clocks at its hooks; runs in a child process."""
    settings = config.load_settings(
        data_dir=options.data, max_seconds=options.seconds, seed=options.seeds[0], image_size=tuple(options.size)
    )
    clock: Clock = defaultdict(lambda: [0.0, 0.0])
    with connect(settings, create=True) as lake:
        client, git = mlflow_utils.connect(settings), git_utils.read_facts(ROOT)
        data = check_data(settings.data_dir, settings.seed)
        job = Job(data, None, RunFacts(git, lake.repo, lake.branch, None, smoke=False))
        with clocked(clock):
            training, _, result = train_and_publish(settings, lake, client, job)
    images = round(sum(epoch.images_per_second * epoch.seconds for epoch in training.history))
    names = ("training", "data", "steps", "validation", "checkpoints", "tracking", BESIDE)
    parts = {name: clock[name] for name in names}
    return {
        "network": settings.model, "images": images, "seconds": training.trained_seconds, "miou": result.val.miou,
        "accuracy": result.val.accuracy, "iou": training.best.val.iou, "parts": parts, "batch": training.setup.batch_size,
    }  # fmt: skip


BESIDE = "tracking beside the steps (CPU)"
Clock = dict[str, list[float]]  # what -> [seconds that passed, CPU seconds of all threads]


@contextlib.contextmanager
def clocked(clock: Clock) -> Iterator[None]:
    """Let the hooks of MlflowTrain add their seconds to `clock` within the block; nothing else is different.

    "tracking" is what the training waits for; BESIDE is the CPU time of the background thread.
    """

    @contextlib.contextmanager
    def timed(name: str) -> Iterator[None]:
        passed, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            clock[name][0] += time.perf_counter() - passed
            clock[name][1] += time.process_time() - cpu

    def own(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            with timed(name):
                return method(*arguments, **named)

        return call

    real = MlflowTrain.batches

    def batches(self: MlflowTrain) -> Iterator[Any]:
        source = real(self)
        following = own("data", lambda: next(source, None))
        while (batch := following()) is not None:
            yield batch

    enqueue, finish = Background.call, Background.finish

    def call_measured(self: Background, work: Callable[[], Any]) -> None:
        def measured() -> None:
            start = time.thread_time()
            work()
            clock[BESIDE][0] += time.thread_time() - start

        enqueue(self, measured)

    methods = {"train_epoch": "training", "train_step": "steps", "validate": "validation", "on_epoch_end": "tracking",
               "save_best": "checkpoints", "save_checkpoint": "checkpoints"}  # fmt: skip
    with contextlib.ExitStack() as stack:
        for method, name in methods.items():
            stack.enter_context(mock.patch.object(MlflowTrain, method, own(name, getattr(MlflowTrain, method))))
        stack.enter_context(mock.patch.object(MlflowTrain, "batches", batches))
        stack.enter_context(mock.patch.object(Background, "call", call_measured))
        stack.enter_context(mock.patch.object(Background, "finish", own("tracking", finish)))
        yield


# --- the tables -----------------------------------------------------------------------------------------------------


def child(command: list[str], environment: dict[str, str] | None = None) -> Figures:
    """Return what a measuring process prints on its last line."""
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def call(what: str, options: argparse.Namespace, **changes: object) -> Figures:
    """Measure in a child process."""
    command = [sys.executable, str(Path(__file__).resolve()), what, str(options.data)]
    command += ["--seconds", str(options.seconds), "--size", *map(str, options.size)]
    for name, value in changes.items():
        command += [f"--{name}", str(value)]
    return child(command, {**os.environ, "APP_LANG": "en"})


def accuracy(options: argparse.Namespace) -> None:
    rows = []

    def add(label: str, figures: Figures) -> None:
        speed = figures["images"] / figures["seconds"]
        rows.append([label, f"{figures['seconds']:.0f}", figures["images"], f"{speed:.2f}",
                     f"{figures['miou']:.4f}", f"{figures['accuracy']:.4f}"])  # fmt: skip
        print(f"{label}: " + "  ".join(f"{k} {v:.3f}" for k, v in figures["iou"].items() if v is not None), flush=True)

    for seed in options.seeds:
        figures = ours(options.data, options.seconds, seed, options.size, options.settings)
        add(f"ours, {figures['network']} {options.size[0]}x{options.size[1]}, seed {seed}", figures)
    for name in options.peers:
        add(f"{name} {PEER_SIZE[0]}x{PEER_SIZE[1]}, seed 0", call("peer", options, network=name, seeds=0))
    print(format_table(["what", "seconds", "images", "images/s", "val mIoU", "val accuracy"], rows))


def speed(options: argparse.Namespace) -> None:
    rows, shares = [], []
    for name in options.networks:
        before = bare_of(options, name)
        settings = [f"model={name}", f"batch_size={options.batch}", "augmentation=light"]
        figures = ours(options.data, options.seconds, 0, options.size, settings)
        after, parts, images = bare_of(options, name), figures["parts"], figures["images"]
        base = {key: (before[key] + after[key]) / 2 for key in before}  # the machine's speed may drift
        passed, cpu = (sum(parts[part][i] for part in ("training", "checkpoints", "tracking")) for i in (0, 1))
        rows.append([name, *rates(base, base), "bare steps, before and after ours"])
        whole = {"images_per_second": images / passed, "cpu_per_image": cpu / images}
        rows.append([name, *rates(whole, base), "ours: data, steps, checkpoints, tracking, progress"])
        for workers in (0, 1, 2):
            found = call("plain", options, network=name, batch=options.batch, workers=workers)
            if workers:  # their CPU seconds are not counted
                found["cpu_per_image"] = None
            rows.append([name, *rates(found, base), f"plain loop over the folder, {workers} workers"])
        shares += shares_of(name, parts)
    print(format_table(["network", "images/s", "of bare", "CPU ms/image", "of bare", "loop"], rows))
    print("\n" + format_table(["network", "time of ours goes to", "seconds", "share", "of training"], shares))


def rates(found: Figures, base: Figures) -> list[str]:
    """Return both figures of a loop, each with its ratio to the bare steps."""
    speed, cpu = found["images_per_second"], found["cpu_per_image"]
    shown = [f"{1000 * cpu:.1f}", f"{base['cpu_per_image'] / cpu:.3f}"] if cpu else ["", ""]
    return [f"{speed:.2f}", f"{speed / base['images_per_second']:.3f}", *shown]


def shares_of(name: str, parts: Clock) -> list[list[str]]:
    """Return the seconds of each activity, their fraction of the whole, and their fraction of the training."""
    seconds = {part: passed for part, (passed, _) in parts.items()}
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
    parser.add_argument("--rounds", type=int, default=5, help="of busy, startup and stream")
    parser.add_argument("--share", type=float, default=0.25, help="cache of stream, as a part of the files' bytes")
    parser.add_argument("--loads", type=int, nargs="+", default=[0, 1, 2, 4], help="busy processes of busy")
    parser.add_argument("--seconds", type=float, default=480, help="of training, for each row")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folds", type=int, default=5, help="of folds")
    parser.add_argument("--size", type=int, nargs=2, default=[180, 240], metavar=("H", "W"), help="our input size")
    parser.add_argument("--peers", nargs="*", default=["lraspp_mobilenet_v3_large", "smp:unet/resnet18"])
    parser.add_argument("--networks", nargs="+", default=["compact_unet", "compact_fpn", "lraspp_mobilenet_v3_large"])
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
