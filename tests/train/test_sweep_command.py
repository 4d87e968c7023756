"""train.py --sweep: the printed command trains the best model again, settings that are left open included."""

from __future__ import annotations

import itertools
import re
import shlex

import pytest

from tests.support.project import make_project
from tests.train.test_resume import is_identical, weights
from tests.train.test_sweep import run_sweep, write

pytest.importorskip("optuna")

SWEEP = """
trials: 1
settings: {epochs: 2, image_size: 32 32, batch_size: null}
space:
  learning_rate: [null]
  ema: [0.5]
"""


def test_printed_command_leaves_open_what_the_best_trial_left_open(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The machine's .env sets both, which the sweep overrides by null."""
    project = make_project(tmp_path_factory.mktemp("sweep"), images=20)
    (project.folder / ".env").write_text("LEARNING_RATE=0.0001\nBATCH_SIZE=2\n")
    write(project, "open", SWEEP)
    printed = re.search(r"to train with these settings: (.*)", run_sweep(project, "open").stdout)
    trained = weights(project)
    assert printed
    words = shlex.split(printed[1])
    variables = dict(word.split("=", 1) for word in itertools.takewhile(lambda word: word != "python", words))
    assert variables == {"BATCH_SIZE": "", "LEARNING_RATE": ""}
    done = project.run("train.py", *words[words.index("train.py") + 1 :], env=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert is_identical(weights(project), trained)
