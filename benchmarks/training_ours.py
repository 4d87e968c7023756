"""Our training as benchmarks run it: the real jobs in a process of their own, with clocks at the hooks of MlflowTrain."""

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

import config
from core import git as git_utils
from core.threads.background import Background
from dataset.validation import check_data
from train.jobs.job import Job, train_and_publish
from train.mlflow_train import MlflowTrain
from train.tracking.run_tracker import RunFacts
from utils import mlflow_utils
from utils.lakefs_utils import connect

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "benchmarks/training.py"
Figures = dict[str, Any]


def child(command: list[str], environment: dict[str, str] | None = None) -> Figures:
    """Return what a measuring process prints on its last line."""
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def call(what: str, options: argparse.Namespace, **changes: object) -> Figures:
    """Measure in a child process."""
    command = [sys.executable, str(PROGRAM), what, str(options.data)]
    command += ["--seconds", str(options.seconds), "--size", *map(str, options.size)]
    for name, value in changes.items():
        command += [f"--{name}", str(value)]
    return child(command, {**os.environ, "APP_LANG": "en"})


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
        command = [sys.executable, str(PROGRAM), "published", str(data)]
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
        "network": settings.model, "images": images, "seconds": training.trained_seconds, "val": result.val.miou,
        "test": result.test.miou if result.test else None, "accuracy": result.val.accuracy,
        "iou": training.best.val.iou, "parts": parts, "batch": training.setup.batch_size,
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
