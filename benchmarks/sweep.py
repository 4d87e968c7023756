"""What a sweep costs beside its trainings: the database, the draws, the decisions of the pruner, the parent run.

python benchmarks/sweep.py                          # 4 trials of 20 epochs of sample images
python benchmarks/sweep.py --data ../camvid --trials 4 --seconds 60

The time in the sweep's own code is measured where it runs, so that the figure does not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

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
def counted(owner: Any, names: list[str], spent: dict[str, list[float]]) -> Iterator[None]:
    """Add the seconds of each call of these functions to `spent`."""
    originals = {name: getattr(owner, name) for name in names}

    def wrap(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                spent.setdefault(name, []).append(time.perf_counter() - start)

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
    spent: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(counted(SharedStudy, ["take", "tell"], spent))
        stack.enter_context(counted(trial.TrialObserver, ["ends_after", "keeps"], spent))
        stack.enter_context(counted(trial, ["_record_state"], spent))
        stack.enter_context(counted(command, ["open_storage"], spent))
        command.sweep(load_settings(), {}, options, lambda: None)
    total = time.perf_counter() - start
    print(f"\n{'in the code of the sweep':28}  calls  seconds  mean ms")
    for name, seconds in spent.items():
        print(f"{name:28}  {len(seconds):5}  {sum(seconds):7.3f}  {1000 * sum(seconds) / len(seconds):7.1f}")
    own = sum(map(sum, spent.values()))
    print(f"total {total:.1f} s, of the sweep {own:.2f} s: overhead {own / (total - own):.2%}")


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
