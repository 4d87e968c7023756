"""startup: the time from `python train.py` to its first training step, next to reading every file once.

    python benchmarks/training.py startup path/to/data --rounds 3 --size 240 320

"first" is a training in an empty store: the data is checked, hashed, committed to the embedded lakeFS and decoded, and
the MLflow database is made. "again" is the next one on the same data. "reading" is a Python process that imports torch
and decodes every image and mask once, with a thread for each core. All are timed from the start of their process, in turns.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import runpy
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

from core.console import format_table

ROOT = Path(__file__).resolve().parent.parent


def startup(options: argparse.Namespace) -> None:
    """Measure in turns and print the table."""
    from benchmarks.training_ours import own_servers  # here: the measured processes must not import what it needs

    found: dict[str, list[float]] = defaultdict(list)
    size = tuple(map(str, options.size))
    for _ in range(options.rounds):
        found["reading"].append(_seconds(dict(os.environ), "read", str(options.data)))
        with own_servers() as own:
            for kind in ("first", "again"):
                found[kind].append(_seconds(own, "train", "--data-dir", str(options.data), "--image-size", *size))
    read, rows = found["reading"], []
    for kind, values in found.items():
        ratios = [value / base for value, base in zip(values, read, strict=True)]
        rows.append([kind, _spread(values), _spread(ratios)])
    print(format_table(["from the start of the process", "seconds", "of reading"], rows))
    print(f"median (least to most) of {options.rounds} rounds in turns")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _seconds(environment: dict[str, str], what: str, *arguments: str) -> float:
    """Return the seconds from the start of a process to what it does first, or to its end."""
    command = [sys.executable, "-m", "benchmarks.training_startup", what, *arguments]
    start = time.time()
    done = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])) - start


def train(arguments: list[str]) -> None:
    """Run train.py up to its first step, and print the time of day."""
    from train.mlflow_train import MlflowTrain

    out = sys.stdout

    def first_step(*_: object) -> None:
        print(json.dumps(time.time()), file=out, flush=True)
        os._exit(0)

    sys.argv = ["train.py", *arguments]
    with mock.patch.object(MlflowTrain, "train_step", first_step), contextlib.redirect_stdout(sys.stderr):
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")


def read(folder: Path) -> None:
    """Decode every image and mask once, and print the time of day."""
    import torch  # noqa: F401  (what any training imports)
    from PIL import Image

    def decode(file: Path) -> None:
        with Image.open(file) as image:
            image.load()

    files = [file for kind in ("images", "masks") for file in sorted(folder.glob(f"**/{kind}/*"))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(decode, files))
    print(json.dumps(time.time()), flush=True)


if __name__ == "__main__":
    train(sys.argv[2:]) if sys.argv[1] == "train" else read(Path(sys.argv[2]))
