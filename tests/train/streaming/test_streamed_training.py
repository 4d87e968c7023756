"""train.py on a commit that is larger than its cache: the limit, bit-identical weights, kills, several processes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from tests.support.project import SOURCE, Project, make_project

LIMIT = 150_000  # bytes: a seventh of the files, a third of the decoded images
OPTIONS = ("--epochs", "2", "--batch-size", "5", "--image-size", "64", "64")
SMALL = {"PICTURE_CACHE_GB": str(LIMIT / 1e9), "CHECKPOINT_MINUTES": "0.0000001"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose data is in lakeFS only."""
    project = make_project(tmp_path_factory.mktemp("streamed"))
    (project.folder / "tests/support").mkdir(parents=True)
    shutil.copy(SOURCE / "tests/support/kill_training.py", project.folder / "tests/support/kill_training.py")
    done = project.run("lake.py", "push", "-m", "data")
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(project.folder / "data")
    shutil.rmtree(project.folder / ".lakefs/cache", ignore_errors=True)
    return project


def weights(project: Project, folder: str = "models") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(project.folder / folder / "model.pth", weights_only=True)["state_dict"]
    return state


@pytest.fixture(scope="module")
def reference(project: Project) -> dict[str, torch.Tensor]:
    """Weights of the training with everything on the disk."""
    done = project.run("train.py", *OPTIONS, "--data-ref", "main", env={"MODEL_PATH": "whole/model.pth"})
    assert done.returncode == 0 and "streaming" not in done.stdout, done.stdout + done.stderr
    shutil.rmtree(project.folder / ".lakefs/cache")
    (project.folder / "lakefs.lock").rename(project.folder / "whole/lakefs.lock")
    return weights(project, "whole")


def is_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def image_files(project: Project) -> dict[tuple[str, int, int], int]:
    """Return the bytes of each file of downloaded and decoded images on the disk, by path, inode and time."""
    found = {}
    for folder, _, names in os.walk(project.folder / ".lakefs/cache"):
        for name in names:
            if Path(folder).name == "running" or name.startswith("files.db") or name.endswith((".json", ".lock")):
                continue
            path = os.path.join(folder, name)
            with suppress(FileNotFoundError):
                status = os.stat(path)
                if "pictures" in folder or name.endswith(".png"):
                    found[path, status.st_ino, status.st_mtime_ns] = status.st_size
    return found


@contextmanager
def watched(project: Project) -> Iterator[list[int]]:
    """Yield the largest number of bytes of images that the cache had within the block, in a list."""
    largest, ended = [0], threading.Event()

    def watch() -> None:
        before = image_files(project)
        while not ended.wait(0.002):
            now = image_files(project)  # what was there at both looks was there between them, all at once
            largest[0] = max(largest[0], sum(now[file] for file in now.keys() & before.keys()))
            before = now

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield largest
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("seed", range(int(os.environ.get("TEST_KILLS", "1"))))
def test_killed_streamed_training_resumes_to_the_same_weights_within_the_limit(
    project: Project, reference: dict[str, torch.Tensor], seed: int
) -> None:
    step = str(random.Random(seed).randrange(2, 10))  # of 10
    with watched(project) as largest:
        killed = project.run(
            "-m", "tests.support.kill_training", "train_step", step, *OPTIONS, "--data-ref", "main", env=SMALL
        )
        assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
        assert "of images from lakefs://" in killed.stdout and "through a cache of" in killed.stdout
        done = project.run("train.py", "--resume", "last", env=SMALL)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "checking data" not in done.stdout
    assert is_equal(weights(project), reference)
    assert LIMIT // 2 < largest[0] <= LIMIT
    assert not list((project.folder / ".lakefs/cache").rglob("*.png")) and not (project.folder / "data").exists()
    locks = [json.loads((project.folder / name).read_text()) for name in ("lakefs.lock", "whole/lakefs.lock")]
    assert locks[0]["data"]["manifest_sha256"] == locks[1]["data"]["manifest_sha256"]


def test_two_trainings_share_one_cache_within_the_limit(project: Project, reference: dict[str, torch.Tensor]) -> None:
    runs = [["--epochs", "2"], ["--epochs", "1", "--augmentation", "none"]]

    def train(number: int) -> str:
        env = SMALL | {"MODEL_PATH": f"both{number}/model.pth"}
        done = project.run("train.py", *OPTIONS[2:], *runs[number], "--data-ref", "main", env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    with watched(project) as largest, ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(train, (0, 1)))
    assert all("of images from lakefs://" in output for output in outputs)
    assert is_equal(weights(project, "both0"), reference) and not is_equal(weights(project, "both1"), reference)
    assert LIMIT // 2 < largest[0] <= LIMIT


def test_decoded_images_are_kept_if_they_fit_where_the_files_do_not(
    project: Project, reference: dict[str, torch.Tensor]
) -> None:
    room = {"PICTURE_CACHE_GB": "0.0008"}
    shutil.rmtree(project.folder / ".lakefs/cache", ignore_errors=True)
    with watched(project) as largest:
        done = project.run("train.py", *OPTIONS, "--data-ref", "main", env=room)
    assert done.returncode == 0 and "of images from lakefs://" in done.stdout, done.stdout + done.stderr
    assert len(list((project.folder / ".lakefs/cache/pictures").glob("*.pictures"))) == 2
    assert 500_000 < largest[0] <= 800_000
    assert is_equal(weights(project), reference)


def test_check_only_streams_and_a_directory_cannot(project: Project, reference: dict[str, torch.Tensor]) -> None:
    assert reference
    done = project.run("train.py", "--check-only", "--data-ref", "main", "--stream", "always", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["faults"] == [], done.stdout + done.stderr
    assert not list((project.folder / ".lakefs/cache/commits").rglob("*.png"))
    done = project.run("train.py", "--stream", "always")
    assert done.returncode == 2 and "--stream: only with --data-ref or --resume or --reproduce" in done.stderr


def test_processes_of_one_training_share_the_cache(project: Project) -> None:
    """Under torchrun, each process reads its own part, over a connection of its own."""
    options = ("--smoke", "--batch-size", "6", "--image-size", "64", "64", "--data-ref", "main")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "train.py", *options]
    shutil.rmtree(project.folder / ".lakefs/cache", ignore_errors=True)  # of a test with a larger limit
    with watched(project) as largest:
        env = project.environment() | SMALL
        done = subprocess.run(command, cwd=project.folder, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.count("of images from lakefs://") == 1, done.stdout + done.stderr
    assert largest[0] <= LIMIT and project.runs()[0].data.params["processes"] == "2"
