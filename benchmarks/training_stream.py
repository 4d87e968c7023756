"""Training from a cache that holds a part of the data, next to training with everything on the disk.

    python benchmarks/training.py stream path/to/data --seconds 30 --rounds 3

It publishes the data to the lakeFS of the environment (LAKEFS_ENDPOINT; unset: the embedded store), then trains in
turns with a full cache and with one of a quarter of the files' bytes (`--share`), each in a process of its own and with
a cache directory of its own: what one has downloaded, the other must not find. The time of the training loop counts,
without validation; CPU seconds are those of all threads of the training process.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import config
from core.console import format_table
from core.hashing import file_sha256
from dataset.directory import data_files
from train.audit.predictions import FoldTrain
from train.base_train import EpochResult
from train.setup import prepare_training
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import connect
from versioning.checkout import checked_data
from versioning.streaming.files import StreamedFiles

Figures = dict[str, float]


class Loop(FoldTrain):
    """The training loop alone: no validation, nothing that is written or shown."""

    def on_epoch_end(self, result: EpochResult) -> None:
        pass


def stream(options: argparse.Namespace) -> None:
    """Publish the data, train in turns, and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "store")
        environment = os.environ | {"APP_LANG": "en", "LAKEFS_LOCAL_DIR": str(store)}
        environment |= {"LAKEFS_REPO": f"stream-{int(time.time())}"}
        size = _child("publish", options, environment)
        commit, total = str(size["commit"]), float(size["bytes"])
        kinds = {"full cache": ("never", 1000.0), "streamed": ("always", options.share * total / 1e9)}
        found: dict[str, list[Figures]] = {kind: [] for kind in kinds}
        for kind in kinds:  # the embedded store is in that directory, too
            shutil.copytree(store, Path(folder, kind)) if store.exists() else Path(folder, kind).mkdir()
        for number in range(options.rounds + 1):
            for kind, (how, room) in kinds.items():
                changes = {"STREAM": how, "PICTURE_CACHE_GB": repr(room), "LAKEFS_LOCAL_DIR": str(Path(folder, kind))}
                figures = _child("loop", options, environment | changes, commit)
                if number:  # the first of each downloads, checks and decodes
                    found[kind].append(figures)
    _print(found, total, options.share)


def _print(found: dict[str, list[Figures]], total: float, share: float) -> None:
    rows, full = [], found["full cache"]
    for kind, rounds in found.items():
        speeds, cpu = ([figures[name] for figures in rounds] for name in ("images_per_second", "cpu_ms"))
        ratios = [mine / whole["images_per_second"] for mine, whole in zip(speeds, full, strict=True)]
        of_cpu = [whole["cpu_ms"] / mine for mine, whole in zip(cpu, full, strict=True)]
        received = [figures["received_mb"] for figures in rounds]
        if kind == "streamed" and not all(received):
            sys.exit(
                "a streamed round read nothing from lakeFS: the decoded images fit into the cache, take a larger --size"
            )
        rows.append([kind, *map(_spread, (speeds, ratios, cpu, of_cpu)), _spread(received)])
    ratio = "of the full cache"
    print(format_table(["loop", "images/s", ratio, "CPU ms/image", ratio, "MB from lakeFS"], rows))
    print(
        f"files {total / 1e6:.1f} MB, cache {share:.0%} of them, median (least to most) of {len(full)} rounds in turns"
    )


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _child(what: str, options: argparse.Namespace, environment: dict[str, str], commit: str = "") -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.training_stream", what, str(options.data), commit]
    command += [str(options.seconds), *map(str, options.size)]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, env=environment, cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def publish(data: Path) -> dict[str, Any]:
    """Commit the data; return the commit and the bytes of its files."""
    settings = config.load_settings()
    files = {name: LocalFile(path, file_sha256(path)) for name, path in data_files(data.resolve()).items()}
    with connect(settings, create=True) as lake:
        done = lake.publish(files, "data/", "data", {}, mirror=True)
    return {"commit": done.commit_id, "bytes": sum(file.path.stat().st_size for file in files.values())}


def loop(commit: str, seconds: float, size: tuple[int, int]) -> Figures:
    """Train for some seconds on the commit; return images/s and the CPU time of an image."""
    settings = config.load_settings(max_seconds=seconds, image_size=size, augmentation="light")
    received, receive = [], StreamedFiles.receive

    def counted(files: StreamedFiles, path: Path) -> tuple[bytes, str]:
        content, sha256 = receive(files, path)
        received.append(len(content))
        return content, sha256

    counting = mock.patch.object(StreamedFiles, "receive", counted)
    with counting, connect(settings) as lake, tempfile.TemporaryDirectory() as folder:
        data = checked_data(settings, lake, commit)[1]
        setup = dataclasses.replace(prepare_training(settings, data), test_images=None)
        training = Loop(setup, Path(folder))
        received.clear()
        start = time.process_time()
        training.fit()
        cpu = time.process_time() - start
    images = sum(epoch.images_per_second * epoch.seconds for epoch in training.history)
    return {
        "images_per_second": images / training.trained_seconds,
        "cpu_ms": 1000 * cpu / images,
        "received_mb": sum(received) / 1e6,
    }


def main(arguments: list[str]) -> None:
    """In a child process: print the figures on the last line."""
    what, data, commit, seconds, height, width = arguments
    done = publish(Path(data)) if what == "publish" else loop(commit, float(seconds), (int(height), int(width)))
    print(json.dumps(done), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
