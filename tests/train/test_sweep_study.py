"""The study of a sweep: draws do not depend on the process, decisions can be repeated, databases are kept apart."""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path

import pytest

import config
from core.errors import AppError, UsageError
from core.machine.identity import ProcessIdentity
from tests.support.postgres import postgres
from train.sweep.plan import Parameter, SweepPlan
from train.sweep.pruning import Pruner

optuna = pytest.importorskip("optuna")
from optuna.exceptions import UpdateFinishedTrialError  # noqa: E402
from optuna.trial import TrialState  # noqa: E402

from train.sweep.command import _require_progress  # noqa: E402
from train.sweep.sampling import HalvingPruner, draw, make_pruner  # noqa: E402
from train.sweep.storage import FILE, open_storage, require_optuna, storage_url  # noqa: E402
from train.sweep.study import SILENT_S, Owner, SharedStudy  # noqa: E402

SPACE = (
    Parameter("learning_rate", low=1e-4, high=1e-1, log=True),
    Parameter("loss", choices=("ce", "dice")),
    Parameter("batch_size", low=4, high=16, step=4),
)
PLAN = SweepPlan("study", SPACE, {}, 16, None, "best_val_miou", "tpe", Pruner(), 7, b"")


@pytest.fixture
def settings(tmp_path: Path) -> config.Settings:
    return dataclasses.replace(config.load_settings(), model_path=tmp_path / "models/model.pth", optuna_storage=None)


def opened(settings: config.Settings, plan: SweepPlan = PLAN) -> SharedStudy:
    require_optuna()
    return SharedStudy.open(open_storage(settings), plan, settings.model_path.parent)


def score(values: dict[str, object]) -> float:
    return float(str(values["learning_rate"])) + 0.01 * (values["loss"] == "ce")


def test_trials_do_not_depend_on_the_process_that_draws_them(settings: config.Settings, tmp_path: Path) -> None:
    """TPE starts after ten random trials; every trial of the second study is drawn by a new process."""
    one, drawn = opened(settings), []
    while (claimed := one.take()) is not None:
        drawn.append(claimed.values)
        one.tell(claimed, TrialState.COMPLETE, score(claimed.values))
    again = []
    elsewhere = dataclasses.replace(settings, model_path=tmp_path / "other/model.pth")
    while (claimed := (study := opened(elsewhere)).take()) is not None:
        again.append(claimed.values)
        study.tell(claimed, TrialState.COMPLETE, score(claimed.values))
    assert len(drawn) == 16 and drawn == again
    assert one.is_over and one.best() is not None


@pytest.mark.parametrize("parameters", [0, 1, 2])
def test_trial_of_a_killed_process_gets_the_same_values(settings: config.Settings, parameters: int) -> None:
    whole = opened(settings)
    expected = whole.take()
    assert expected is not None
    plan = dataclasses.replace(PLAN, name="killed")
    study = opened(settings, plan)
    trial = study.study.ask()  # the process is killed after some of its parameters, before it could say who it is
    for parameter in SPACE[:parameters]:
        draw(trial, parameter)
    claimed = opened(settings, plan).take()
    assert claimed is not None and (claimed.number, claimed.values) == (1, expected.values)
    assert study.running_elsewhere() == 0


def test_trial_of_a_machine_that_is_gone_is_repeated_with_its_values(settings: config.Settings) -> None:
    study = opened(settings, dataclasses.replace(PLAN, trials=1))
    lost = study.take()
    assert lost is not None and study.take() is None
    away = Owner(ProcessIdentity("boot", "pid:[1]", 7, "9"), "elsewhere", time.time())
    lost.trial.set_user_attr("owner", away.record())
    lost.trial.set_user_attr("run_id", "0" * 32)
    assert study.take() is None and study.running_elsewhere() == 1, "it was heard of a moment ago"
    lost.trial.set_user_attr("owner", {**away.record(), "heard": time.time() - SILENT_S - 1})
    again = study.take()
    assert again is not None and (again.number, again.values, again.run_id) == (2, lost.values, None)
    with pytest.raises(UpdateFinishedTrialError):  # the machine comes back
        study.tell(lost, TrialState.COMPLETE, 0.5, seconds=1.0)
    study.tell(again, TrialState.COMPLETE, 0.5, seconds=1.0)
    assert study.take() is None and study.is_over and len(study.finished()) == 1


def test_of_equal_trials_the_one_whose_model_was_kept_is_the_best(settings: config.Settings) -> None:
    """Another process ended its trial, of the same settings, while an earlier one was still in progress."""
    study = opened(settings)
    slow, fast = study.take(), study.take()
    assert slow is not None and fast is not None
    fast.trial.set_user_attr("kept", True)
    study.tell(fast, TrialState.COMPLETE, 0.5)
    slow.trial.set_user_attr("kept", False)
    study.tell(slow, TrialState.COMPLETE, 0.5)
    best = study.best()
    assert best is not None and best.number == fast.trial.number


def test_halving_decides_the_same_when_asked_again() -> None:
    study = optuna.create_study(direction="maximize", pruner=HalvingPruner(Pruner("halving", min_epochs=1, factor=2)))
    decisions = []
    for value in (0.5, 0.4, 0.6, 0.3, 0.7):
        trial = study.ask()
        trial.report(value, 1)
        decisions.append([trial.should_prune() for _ in range(3)])
        trial.report(value, 3)
        assert not trial.should_prune(), "epoch 3 is no rung: 1, 2, 4, 8"
        study.tell(trial, value)
    assert decisions == [[False] * 3, [True] * 3, [False] * 3, [True] * 3, [False] * 3]


def test_median_prunes_below_the_median_of_finished_trials() -> None:
    study = optuna.create_study(direction="maximize", pruner=make_pruner(Pruner("median", 2, warmup_epochs=2)))
    for value in (0.4, 0.6):
        trial = study.ask()
        for epoch in (1, 2):
            trial.report(value, epoch)
        study.tell(trial, value)
    trial = study.ask()
    trial.report(0.1, 1)
    assert not trial.should_prune(), "warm-up"
    trial.report(0.1, 2)
    assert trial.should_prune()


@pytest.mark.parametrize("failed", [3, 4])
def test_first_trials_that_all_failed_end_the_sweep_also_if_another_process_ended_some(
    settings: config.Settings, failed: int
) -> None:
    """Another process may end its trial between the end of this one's and the question."""
    study = opened(settings)
    for number in range(failed):
        claimed = study.take()
        assert claimed is not None
        study.tell(claimed, TrialState.FAIL, None, error=f"reason {number}")
    with pytest.raises(AppError, match=f"the first {failed} trials failed: reason {failed - 1}"):
        _require_progress(study)


def test_time_limit_starts_no_further_trial(settings: config.Settings) -> None:
    study = opened(settings, dataclasses.replace(PLAN, trials=None, time_limit=10.0))
    for _ in range(2):
        claimed = study.take()
        assert claimed is not None
        study.tell(claimed, TrialState.COMPLETE, 0.5, seconds=5.5)
    assert study.take() is None and study.is_over


def test_storage_is_a_file_beside_the_runs_or_what_the_setting_says(settings: config.Settings) -> None:
    assert storage_url(settings) == f"sqlite:///{settings.model_path.parent / FILE}"
    database = dataclasses.replace(settings, optuna_storage="mlflow", mlflow_tracking_uri="postgresql://u:p@h/mlflow")
    assert storage_url(database) == "postgresql://u:p@h/mlflow"
    server = dataclasses.replace(settings, optuna_storage="mlflow", mlflow_tracking_uri="http://u:pass@h:5000")
    with pytest.raises(UsageError, match="OPTUNA_STORAGE=mlflow: http://h:5000 is a server") as error:
        storage_url(server)
    assert "pass@" not in str(error.value)


@pytest.mark.parametrize("url", ["nonsense", "oracle9://x", "postgresql://user:hush-hush@127.0.0.1:1/x"])
def test_unusable_database_is_one_line_without_its_password(settings: config.Settings, url: str) -> None:
    with pytest.raises(AppError) as error:
        open_storage(dataclasses.replace(settings, optuna_storage=url))
    assert "\n" not in str(error.value) and "hush" not in str(error.value)


def test_database_of_mlflow_holds_studies_in_a_schema_of_their_own(settings: config.Settings) -> None:
    from utils import mlflow_utils

    with postgres() as uri:
        changed = dataclasses.replace(settings, optuna_storage="mlflow", mlflow_tracking_uri=uri)
        client = mlflow_utils.connect(changed)
        first, second = opened(changed), opened(changed)
        claimed = [study.take() for study in (first, second)]
        assert [one.number for one in claimed if one] == [1, 2]
        assert mlflow_utils.get_or_create_experiment(client, changed), "MLflow's tables are as they were"
        mlflow_utils.connect(changed)


def test_file_of_another_program_is_refused(settings: config.Settings, mlflow_database: Path, tmp_path: Path) -> None:
    shutil.copy(mlflow_database, tmp_path / "copy.db")
    with pytest.raises(AppError) as error:
        open_storage(dataclasses.replace(settings, optuna_storage=f"sqlite:///{tmp_path / 'copy.db'}"))
    assert "copy.db: has the tables of another program" in str(error.value)
    mlflow_utils_connects(tmp_path / "copy.db")


def mlflow_utils_connects(database: Path) -> None:
    from utils import mlflow_utils

    mlflow_utils.connect(config.Settings(mlflow_tracking_uri=f"sqlite:///{database}"))
