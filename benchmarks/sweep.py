"""What a sweep costs beside its trainings: the database, the draws, the decisions of the pruner, the parent run.

python benchmarks/sweep.py                          # 4 trials of 20 epochs of sample images
python benchmarks/sweep.py --data ../camvid --trials 4 --seconds 60

The time in the sweep's own code is measured where it runs. Beside other programs, only the seconds of the CPU say something.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

Seconds = tuple[float, float]  # that passed; of the CPU
PLAN = """
name: overhead
trials: {trials}
pruner: {{type: median, startup_trials: 1}}
settings: {settings}
space:
  learning_rate: {{low: 5e-4, high: 5e-3, log: true}}
  loss: [ce, ce+dice]
"""


@contextlib.contextmanager
def counted(owner: Any, names: list[str], spent: dict[str, list[Seconds]]) -> Iterator[None]:
    """Add the seconds of each call of these functions to `spent`."""
    originals = {name: getattr(owner, name) for name in names}

    def wrap(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter(), time.thread_time()
            try:
                return call(*arguments, **named)
            finally:
                now = time.perf_counter(), time.thread_time()
                spent.setdefault(name, []).append((now[0] - start[0], now[1] - start[1]))

        return timed

    for name, call in originals.items():
        setattr(owner, name, wrap(name, call))
    try:
        yield
    finally:
        for name, call in originals.items():
            setattr(owner, name, call)


def measure(folder: Path, plan: str) -> None:
    """Run a sweep in this process, and print the time in its own code."""
    start = time.perf_counter()

    from config import load_settings
    from train.sweep import command, trial
    from train.sweep.study import SharedStudy

    (folder / "sweep.yaml").write_text(plan)
    options = argparse.Namespace(
        sweep=str(folder / "sweep.yaml"),
        data_ref=None,
        sample=False,
        replace=False,
        experiment_branch=None,
        smoke=False,
    )
    spent: dict[str, list[Seconds]] = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(counted(SharedStudy, ["take", "tell"], spent))
        stack.enter_context(counted(trial.TrialObserver, ["ends_after", "keeps"], spent))
        stack.enter_context(counted(trial, ["_record_state"], spent))
        stack.enter_context(counted(command, ["open_storage"], spent))
        command.sweep(load_settings(), {}, options, lambda: None)
    total, cpu = time.perf_counter() - start, time.process_time()
    print(f"\n{'in the code of the sweep':28}  calls  seconds  CPU s  mean CPU ms")
    for name, calls in spent.items():
        passed, used = (sum(seconds) for seconds in zip(*calls, strict=True))
        print(f"{name:28}  {len(calls):5}  {passed:7.3f}  {used:5.2f}  {1000 * used / len(calls):11.1f}")
    passed, used = (sum(seconds) for seconds in zip(*itertools.chain(*spent.values()), strict=True))
    print(f"in all {total:.1f} s, of the sweep {passed:.2f} s: overhead {passed / (total - passed):.2%}")
    print(f"CPU {cpu:.1f} s, of the sweep {used:.2f} s: overhead {used / (cpu - used):.2%} (also on a busy machine)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="data directory (default: sample images)")
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seconds", type=float, help="of a trial, instead of epochs")
    options = parser.parse_args()
    length = f"max_seconds: {options.seconds}" if options.seconds else f"epochs: {options.epochs}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = options.data
        if data is None:
            from dataset.sources.synthetic import generate_sample

            data = folder / "data"
            generate_sample(data, seed=0, count=60)
        os.environ |= {
            "DATA_DIR": str(data),
            "MODEL_PATH": str(folder / "models/model.pth"),
            "LAKEFS_LOCAL_DIR": str(folder / "lakefs"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
            "APP_LANG": "en",
        }
        measure(folder, PLAN.format(trials=options.trials, settings=f"{{{length}}}"))


if __name__ == "__main__":
    main()
