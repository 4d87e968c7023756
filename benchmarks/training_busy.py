"""Training steps beside busy processes: how much of their fair share of the cores they turn into images.

    python benchmarks/training.py busy --seconds 8 --rounds 5 --loads 0 1 2 4

Two processes train the compact FPN (128x128, batch 16) on tensors in memory, each in turn: "ours" loads torch as every
script of the project does, "bare" with OpenMP's defaults. Both are measured in each round and beside each number of busy
processes, so that a drift of the machine's speed, or programs of others, meet both alike; each figure is the median over
the rounds, with the smallest and largest.

fair share: the images/s of bare steps without load, times what an even division of the cores leaves the training: among
processes (the training is one of them, whatever its number of threads), and among threads (the most that a scheduler
gives threads that never wait for each other; those of a training meet at a barrier after each operation). Both are
meaningful on a machine without other load only; images per CPU second, relative to bare steps without load, are
meaningful anywhere: what is below 1 was spent waiting in loops.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from core.console import format_table
from core.machine.limits import usable_cores
from core.machine.openmp import USER_SETTINGS

SIZE, BATCH, CLASSES = 128, 16, 4
SIDES = ("ours", "bare")
OURS = "import core; from core.machine.heap import keep_freed_memory; keep_freed_memory()"  # as the scripts do
SPIN = "while True: sum(i * i for i in range(10_000))"
Sample = tuple[float, float]  # images/s, images per CPU second


def steps() -> None:
    """Train for as many seconds as each line of standard input says, and print the images and the seconds."""
    import torch  # before the project where the defaults are wanted: OpenMP reads its settings now

    from segmentation.networks.registry import build_network

    torch.manual_seed(0)
    network = build_network("compact_fpn", CLASSES).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, fused=True)
    images = torch.randn(BATCH, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (BATCH, SIZE, SIZE))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        outputs = network(images)
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        torch.nn.functional.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    step()
    print(json.dumps(torch.get_num_threads()), flush=True)
    for line in sys.stdin:
        count, start, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - start < float(line):
            step()
            count += BATCH
        print(json.dumps([count / (time.perf_counter() - start), count / (time.process_time() - cpu)]), flush=True)


class Trainer:
    """A process that trains when it is asked to."""

    def __init__(self, side: str) -> None:
        clean = {name: value for name, value in os.environ.items() if name not in USER_SETTINGS}
        script = Path(__file__).resolve()
        first = OURS if side == "ours" else "import torch"
        code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {first}; import runpy; runpy.run_path({str(script)!r}, run_name='steps')"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], env=clean, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.threads = int(self._answer())

    def train(self, seconds: float) -> Sample:
        """Return the images per second, by the clock and by CPU time of all threads."""
        assert self.process.stdin is not None
        print(seconds, file=self.process.stdin, flush=True)
        clock, cpu = json.loads(self._answer())
        return clock, cpu

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the training process ended")
        return line

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep `count` processes busy for the block."""
    processes = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def process_share(cores: int, threads: int, load: int) -> float:
    """Return the fraction of its speed that a training keeps if the cores are divided evenly among all processes."""
    return min(1.0, cores / (1 + load) / min(threads, cores))


def thread_share(cores: int, threads: int, load: int) -> float:
    """Return the fraction of its speed that a training keeps if the cores are divided evenly among all threads."""
    return min(1.0, cores / (threads + load))


def measure(loads: Sequence[int], rounds: int, seconds: float) -> tuple[dict[tuple[str, int], list[Sample]], int]:
    """Return the samples of each side and load, one per round, and the number of threads of a training."""
    samples: dict[tuple[str, int], list[Sample]] = {(side, load): [] for side in SIDES for load in loads}
    trainers = {side: Trainer(side) for side in SIDES}
    try:
        for number in range(rounds):
            for load in loads:
                with busy_processes(load):
                    for side in SIDES if number % 2 else reversed(SIDES):
                        samples[side, load].append(trainers[side].train(seconds))
        return samples, trainers["ours"].threads
    finally:
        for trainer in trainers.values():
            trainer.close()


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return the median, and the smallest and largest value."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def report(samples: dict[tuple[str, int], list[Sample]], cores: int, threads: int) -> str:
    """Return the table: images/s of both sides, their ratio, and both relative to bare steps without load."""
    loads = sorted({load for _, load in samples})
    alone, alone_cpu = (statistics.median(sample[i] for sample in samples["bare", loads[0]]) for i in (0, 1))
    rows = []
    for load in loads:
        ours, bare = samples["ours", load], samples["bare", load]
        by_process, by_thread = (
            alone * share(cores, threads, load) / share(cores, threads, loads[0])
            for share in (process_share, thread_share)
        )
        rows.append(
            [
                load,
                spread([clock for clock, _ in ours], 0),
                spread([clock for clock, _ in bare], 0),
                spread([a / b for (a, _), (b, _) in zip(ours, bare, strict=True)]),
                spread([clock / by_process for clock, _ in ours]),
                spread([clock / by_process for clock, _ in bare]),
                spread([clock / by_thread for clock, _ in ours]),
                spread([cpu / alone_cpu for _, cpu in ours]),
                spread([cpu / alone_cpu for _, cpu in bare]),
            ]
        )
    headers = [
        "busy",
        "ours images/s",
        "bare",
        "ours/bare",
        "ours/process share",
        "bare/process share",
        "ours/thread share",
        "ours per CPU s",
        "bare per CPU s",
    ]
    return format_table(headers, rows)


def busy(loads: Sequence[int], rounds: int, seconds: float) -> None:
    """Measure, and print the table."""
    cores = usable_cores()
    samples, threads = measure(sorted(loads), rounds, seconds)
    print(f"{cores} cores, {threads} threads, {rounds} rounds of {seconds:g} s; load average {os.getloadavg()[0]:.1f}")
    print(report(samples, cores, threads))


if __name__ == "steps":
    steps()
