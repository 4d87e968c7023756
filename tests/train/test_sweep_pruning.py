"""train.py --sweep: trials of different lengths are compared at the same progress, not at the same epoch."""

from __future__ import annotations

import shutil
import sqlite3
from types import SimpleNamespace
from typing import Any

import pytest

import config
from tests.support.project import SOURCE, Project, make_project
from tests.train.test_resume import kill_at_call
from tests.train.test_sweep import run_sweep, runs_of, write
from train.base_train import EpochResult
from train.sweep.plan import Parameter, SweepPlan
from train.sweep.pruning import EPOCH, PERCENT, Pruner

optuna = pytest.importorskip("optuna")
from train.sweep.sampling import make_pruner  # noqa: E402
from train.sweep.trial import percents  # noqa: E402

# Trial 1 has two epochs, trial 2 eight: after two of them it is behind trial 1, whose learning rate has fallen to its end.
SWEEP = """
trials: 2
seed: 6
sampler: random
pruner: {type: median, startup_trials: 1}
settings: {batch_size: 4, image_size: 32 32, learning_rate: 0.01, loss: ce, ema: 0}
space:
  epochs: [2, 8]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = make_project(tmp_path_factory.mktemp("sweep"), images=20)
    (project.folder / "tests/support").mkdir(parents=True)
    shutil.copy(SOURCE / "tests/support/kill_training.py", project.folder / "tests/support/kill_training.py")
    return project


def study_of(project: Project, name: str) -> Any:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{project.folder / 'models/sweeps.db'}")


def test_a_longer_trial_is_not_given_up_at_an_epoch_where_a_shorter_one_is_done(project: Project) -> None:
    write(project, "lengths", SWEEP)
    run_sweep(project, "lengths")
    _, trials = runs_of(project, "lengths")
    assert [run.data.params["epochs"] for run in trials] == ["2", "8"]
    assert [run.data.tags["trial_state"] for run in trials] == ["complete", "complete"]
    values = [trial.intermediate_values for trial in study_of(project, "lengths").trials]
    assert [list(steps) for steps in values] == [[50, 100], [12, 25, 37, 50, 62, 75, 87, 100]]
    assert values[1][25] < values[0][100], "at the same epoch, it would have been given up"


def test_a_sweep_of_an_earlier_version_keeps_comparing_epochs_and_says_so(project: Project) -> None:
    name = write(project, "earlier", SWEEP).removesuffix(".yaml")
    kill_at_call(project, "train_step", 2 * 4 + 1, "--sweep", f"{name}.yaml")
    with sqlite3.connect(project.folder / "models/sweeps.db") as database:
        study = "(SELECT study_id FROM studies WHERE study_name = 'earlier')"
        database.execute(f"DELETE FROM study_user_attributes WHERE key = 'compared_by' AND study_id = {study}")
        of_study = f"trial_id IN (SELECT trial_id FROM trials WHERE study_id = {study})"
        database.execute(f"UPDATE trial_intermediate_values SET step = step / 50 WHERE {of_study}")
    done = run_sweep(project, name)
    assert "sweep 'earlier' was started by an earlier version: trials of different lengths" in done.stderr
    _, trials = runs_of(project, name)
    assert [run.data.tags["trial_state"] for run in trials] == ["complete", "pruned"]
    assert [sorted(trial.intermediate_values) for trial in study_of(project, name).trials] == [[1, 2], [1]]


def test_trials_of_equal_length_are_compared_at_epochs_as_before(project: Project) -> None:
    name = write(
        project, "equal", SWEEP.replace("  epochs: [2, 8]", "  ema: [0, 0.5]").replace(", ema: 0}", ", epochs: 2}")
    )
    run_sweep(project, name.removesuffix(".yaml"))
    assert [sorted(trial.intermediate_values) for trial in study_of(project, "equal").trials] == [[1, 2], [1, 2]]


def plan(pruner: Pruner, *varied: str) -> SweepPlan:
    return SweepPlan("x", tuple(map(Parameter, varied)), {}, 9, None, "best_val_miou", "random", pruner, 0, b"")


def test_the_unit_of_steps_is_one_that_means_the_same_for_all_trials() -> None:
    assert plan(Pruner(), "loss").compared_by(10) == EPOCH
    assert plan(Pruner(), "loss", "epochs").compared_by(10) == PERCENT
    assert plan(Pruner(), "batch_size").compared_by(None) == PERCENT, "the batch size, or the speed, decides the epochs"


def test_progress_is_that_of_the_trials_own_length() -> None:
    history = [EpochResult(epoch, 1.0, None, 2.0, 9.0, 0.1, False) for epoch in range(4)]
    timed: Any = SimpleNamespace(settings=config.Settings(max_seconds=7.0), epochs=10)
    assert percents(timed, history) == [28, 57, 85, 100]
    counted: Any = SimpleNamespace(settings=config.Settings(), epochs=12)
    assert percents(counted, history) == [8, 16, 25, 33]


def test_halving_compares_after_fractions_of_the_length_and_own_epochs() -> None:
    def asked(pruner: Pruner, *steps: int) -> list[int]:
        return [s for e, (b, s) in enumerate(zip((0, *steps), steps, strict=False), 1) if pruner.asks_after(e, b, s)]

    assert asked(Pruner("halving"), *range(1, 101)) == [11, 33]
    assert asked(Pruner("halving"), 5, 20, 30, 40, 100) == [20, 40]
    assert asked(Pruner("halving", factor=2, min_epochs=3), *range(10, 101, 10)) == [30, 50]
    assert asked(Pruner("halving", factor=20), *range(1, 101)) == [5]
    assert asked(Pruner("median", warmup_epochs=3), 5, 20, 20, 21, 99, 100) == [21, 99]
    assert asked(Pruner(), *range(1, 101)) == []


@pytest.mark.parametrize("kind", ["median", "halving"])
def test_others_count_with_what_they_had_reached_by_then(kind: str) -> None:
    pruner = make_pruner(Pruner(kind, startup_trials=2, factor=2), PERCENT)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    for steps in ({10: 0.1, 50: 0.4, 100: 0.9}, {20: 0.2, 40: 0.5, 100: 0.8}):
        trial = study.ask()
        for step, value in steps.items():
            trial.report(value, step)
        study.tell(trial, max(steps.values()))
    decisions = []
    for value, step in ((0.3, 25), (0.05, 45), (0.46, 60), (0.05, 9)):
        trial = study.ask()
        trial.report(value, step)
        decisions.append([trial.should_prune() for _ in range(2)])
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    assert decisions == [[False] * 2, [True] * 2, [kind == "halving"] * 2, [False] * 2], "at 60 %, 0.4 and 0.5 count"
