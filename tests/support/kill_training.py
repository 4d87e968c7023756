"""Run train.py and kill its process (SIGKILL) during a step: python -m tests.support.kill_training METHOD NUMBER arguments...

METHOD is a method of MlflowTrain, Publication or RecordedFolds; the process is killed when call NUMBER has done its work but not returned.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from typing import Any


def main() -> None:
    place, number = sys.argv[1], int(sys.argv[2])
    sys.argv = ["train.py", *sys.argv[3:]]
    sys.path.insert(0, os.getcwd())
    from train.folds.recorded import RecordedFolds
    from train.mlflow_train import MlflowTrain
    from train.tracking.publication import Publication

    owners: tuple[type, ...] = (MlflowTrain, Publication, RecordedFolds)
    owner: Any = next(one for one in owners if hasattr(one, place))
    work, calls = getattr(owner, place), 0

    def killed(self: Any, *arguments: Any) -> Any:
        nonlocal calls
        result = work(self, *arguments)
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, place, killed)
    runpy.run_path("train.py", run_name="__main__")


if __name__ == "__main__":
    main()
