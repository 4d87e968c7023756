"""Too little shared memory for --workers, and workers that are killed: fewer workers or one line, never a hang."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from core.errors import AppError
from dataset.decoding.options import DEFAULT_READING
from dataset.validation import check_data
from tests.support.data_directories import put_pair
from tests.support.project import SOURCE
from tests.support.special_files import limited_time
from train.loading import shared_memory
from train.loading.loader import SegmentationDataset, load
from train.loading.shared_memory import usable_workers
from train.loading.split import Arrays

MB = 1 << 20


def images_of(folder: Path, side: int, native: bool = False) -> SegmentationDataset:
    for number in range(16):
        put_pair(folder, f"a{number:02}")
    data = check_data(folder, 0)
    return SegmentationDataset(data.pairs, data.classes, (side, side), native, DEFAULT_READING)


@pytest.mark.parametrize(
    ("free_mb", "batch_mb", "workers", "usable"),
    [(1000, 10, 8, 8), (64, 10, 8, 1), (64, 10, 1, 1), (64, 2, 8, 8), (10, 10, 4, 0), (0, 1, 4, 0), (64, 10, 0, 0)],
)
def test_number_of_workers_follows_the_free_shared_memory(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    free_mb: int,
    batch_mb: int,
    workers: int,
    usable: int,
) -> None:
    monkeypatch.setattr(shared_memory, "_free_bytes", lambda: free_mb * MB)
    shared_memory._warn_once.cache_clear()
    assert usable_workers(workers, batch_mb * MB) == usable_workers(workers, batch_mb * MB) == usable
    errors = capsys.readouterr().err
    assert errors.count("warning: ") == (usable < workers), "once"
    if usable < workers:
        assert f"--workers {workers} needs" in errors and f"using {usable}" in errors and "--shm-size" in errors


def test_systems_without_a_limit_keep_the_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shared_memory, "SHARED_MEMORY", tmp_path / "missing")
    assert usable_workers(64, 1 << 50) == 64


def test_batches_of_workers_equal_those_without(tmp_path: Path) -> None:
    images = images_of(tmp_path, 32, native=True)
    batches = [[0, 1, 2], [3, 4, 5]]
    with limited_time():
        for (a, b, c), (d, e, f) in zip(load(images, batches, 0), load(images, batches, 1), strict=True):
            assert torch.equal(a, d) and torch.equal(b, e) and all(map(torch.equal, c, f))


class Dying(SegmentationDataset):
    """Images at whose reading a worker is killed, as the kernel does when the memory is full."""

    signal_number = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has neither of the two

    def __getitem__(self, index: int) -> Arrays:
        os.kill(os.getpid(), self.signal_number)
        raise AssertionError


@pytest.mark.parametrize("signal_number", [getattr(signal, name, 0) for name in ("SIGKILL", "SIGBUS")])
def test_killed_worker_ends_in_one_line(tmp_path: Path, signal_number: signal.Signals) -> None:
    images = images_of(tmp_path, 32)
    images.__class__ = Dying
    images.signal_number = signal_number  # type: ignore[attr-defined]
    with limited_time(), pytest.raises(AppError, match="--workers 1") as caught:
        list(load(images, [[0, 1]], 1))
    assert "\n" not in str(caught.value) and "fewer --workers" in str(caught.value)


SCRIPT = """
import sys
from pathlib import Path
from core.console_reporter import ConsoleReporter
from core.errors import AppError
from core.reporting import use_reporter
from tests.train.test_shared_memory import images_of
from train.loading import loader
use_reporter(ConsoleReporter())
images, batches = images_of(Path(sys.argv[1]), 512), [list(range(8)), list(range(8, 16))]
print("batches", len(list(loader.load(images, batches, 2))), flush=True)
loader.usable_workers = lambda workers, _: workers  # another program fills the memory after the check
try:
    list(loader.load(images, batches, 2))
except AppError as error:
    print("error", error, flush=True)
"""


def test_small_shared_memory_of_a_container_does_not_hang(tmp_path: Path) -> None:
    inside = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", inside, "sh"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("no mounts here")
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "APP_LANG": "en"}
    done = subprocess.run(
        [*command, sys.executable, "-c", SCRIPT, str(tmp_path)],
        cwd=SOURCE, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "batches 2" in done.stdout and "using 0" in done.stderr
    assert "error the processes of --workers 2 found no room in /dev/shm" in done.stdout
