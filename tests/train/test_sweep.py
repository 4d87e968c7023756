"""train.py --sweep: killed and resumed, it ends as if it had not been interrupted; processes share its trials."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.project import SOURCE, Project, make_project
from tests.train.test_resume import EVERY_STEP, is_identical, kill_at_call, recorded_metrics, weights

pytest.importorskip("optuna")

# Trial 2 is the best: its learning rate is the highest. Trial 3 is pruned after its first epoch.
SWEEP = """
trials: 3
seed: 3
pruner: {type: halving, min_epochs: 1, factor: 2}
settings:
  epochs: 2
  batch_size: 4
  image_size: [32, 32]
space:
  learning_rate: {low: 1e-4, high: 3e-2, log: true}
  loss: [ce, ce+dice]
"""
STEPS = 2 * 4  # of a trial


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = make_project(tmp_path_factory.mktemp("sweep"), images=20)
    (project.folder / "tests/support").mkdir(parents=True)
    shutil.copy(SOURCE / "tests/support/kill_training.py", project.folder / "tests/support/kill_training.py")
    return project


def write(project: Project, name: str, text: str = SWEEP) -> str:
    (project.folder / f"{name}.yaml").write_text(text)
    return f"{name}.yaml"


def run_sweep(project: Project, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    done = project.run("train.py", "--sweep", f"{name}.yaml", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def runs_of(project: Project, name: str) -> tuple[Any, list[Any]]:
    """Return the parent run of a sweep, and its trials in their order."""
    runs = [run for run in project.runs() if run.data.tags.get("sweep") == name]
    parent = next(run for run in runs if run.info.run_name == name)
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    return parent, sorted(children, key=lambda run: int(run.data.tags["trial"]))


def drawn(run: Any) -> tuple[str, str]:
    return run.data.params["learning_rate"], run.data.params["loss"]


@pytest.fixture(scope="module")
def reference(project: Project) -> tuple[str, Any]:
    """Output of an uninterrupted sweep, and the weights of its best model."""
    write(project, "reference")
    return run_sweep(project, "reference").stdout, weights(project)


def test_parent_run_records_the_study_and_trials_are_its_children(project: Project, reference: tuple[str, Any]) -> None:
    parent, trials = runs_of(project, "reference")
    assert parent.info.status == "FINISHED" and [run.info.status for run in trials] == ["FINISHED"] * 3
    assert [run.data.tags["trial_state"] for run in trials] == ["complete", "complete", "pruned"]
    params = parent.data.params
    assert params["sweep_seed"] == "3" and json.loads(params["sweep_space"])["loss"]["choices"] == ["ce", "ce+dice"]
    assert params["best_trial"] == "2" and params["best_run_id"] == trials[1].info.run_id
    assert (params["best_learning_rate"], params["best_loss"]) == drawn(trials[1])
    artifacts = {entry.path for entry in project.mlflow().list_artifacts(parent.info.run_id)}
    assert {"sweep.yaml", "trials.csv"} <= artifacts and len(params["sweep_sha256"]) == 64
    assert len({run.data.tags["lakefs_data_commit"] for run in [parent, *trials]}) == 1, "one data commit"
    assert parent.data.metrics["best_val_miou"] == trials[1].data.metrics["best_val_miou"]
    assert not list((project.folder / "models").glob("*/*.pth")), "no checkpoint is left"


def test_only_the_best_so_far_are_committed_and_measured_on_test(project: Project, reference: tuple[str, Any]) -> None:
    _, trials = runs_of(project, "reference")
    assert [("lakefs_model_commit" in run.data.tags) for run in trials] == [True, True, False]
    assert [("test_miou" in run.data.metrics) for run in trials] == [True, True, False]
    lock = json.loads((project.folder / "lakefs.lock").read_text())
    assert lock["mlflow_run_id"] == trials[1].info.run_id
    assert reference[0].count("=== LakeFS 커밋 완료 ===") == 1


def test_best_run_can_be_registered_and_predicts(project: Project, reference: tuple[str, Any]) -> None:
    parent, _ = runs_of(project, "reference")
    best = parent.data.params["best_run_id"]
    done = project.run("register_model.py", "--run-id", best, "--threshold", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    shown = project.run("infer.py", "--model", best)
    assert shown.returncode == 0 and best[:8] in shown.stdout, shown.stdout + shown.stderr


def test_printed_command_trains_the_best_model_again(project: Project, reference: tuple[str, Any]) -> None:
    command = re.search(r"to train with these settings: python train\.py (.*)", reference[0])
    assert command
    done = project.run("train.py", *command[1].split())
    assert done.returncode == 0, done.stdout + done.stderr
    assert is_identical(weights(project), reference[1])


@pytest.mark.parametrize("seed", range(int(os.environ.get("TEST_KILLS", "1"))))
def test_sweep_killed_in_a_trial_ends_bit_identically(project: Project, reference: tuple[str, Any], seed: int) -> None:
    name = write(project, f"killed-{seed}").removesuffix(".yaml")
    step = STEPS + random.Random(seed).randrange(1, STEPS + 1)  # of trial 2
    kill_at_call(project, "train_step", step, "--sweep", f"{name}.yaml", **EVERY_STEP)
    interrupted = runs_of(project, name)[1][1].info.run_id
    refused = project.run("train.py", "--resume", interrupted)
    assert refused.returncode == 2 and f"python train.py --sweep {name}.yaml" in refused.stderr, refused.stderr
    kill_at_call(project, "publish_model", 1, "--sweep", f"{name}.yaml")
    done = run_sweep(project, name)
    assert "trial 1/3" not in done.stdout, "a finished trial is not repeated"
    _, expected = runs_of(project, "reference")
    parent, trials = runs_of(project, name)
    assert trials[1].info.run_id == interrupted and len(trials) == 3 and parent.info.status == "FINISHED"
    assert [drawn(run) for run in trials] == [drawn(run) for run in expected]
    for run, other in zip(trials, expected, strict=True):
        assert recorded_metrics(project, run.info.run_id) == recorded_metrics(project, other.info.run_id)
        assert run.data.tags["trial_state"] == other.data.tags["trial_state"]
    assert is_identical(weights(project), reference[1])


def test_finished_sweep_only_reports_again(project: Project, reference: tuple[str, Any]) -> None:
    before = len(project.runs())
    again = run_sweep(project, "reference")
    assert len(project.runs()) == before and "best: trial 2" in again.stdout
    assert "=== LakeFS" not in again.stdout, "lakefs.lock may name a later result"


def test_changed_sweep_yaml_is_refused_in_one_line(project: Project, reference: tuple[str, Any]) -> None:
    path = project.folder / "reference.yaml"
    path.write_text("# a comment changes nothing\n" + SWEEP)
    run_sweep(project, "reference")
    path.write_text(SWEEP.replace("trials: 3", "trials: 4").replace("high: 3e-2", "high: 0.02"))
    done = project.run("train.py", "--sweep", "reference.yaml")
    path.write_text(SWEEP)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "sweep 'reference' was started with another sweep.yaml (different: space, trials)" in done.stderr
    other = project.run("train.py", "--sweep", "reference.yaml", "--ema", "0.5")
    assert other.returncode == 2 and "--ema: sweep 'reference' was started with 0.02, now 0.5" in other.stderr


@pytest.mark.parametrize("options", [("--data-dir", "elsewhere"), ("--experiment-branch", "other"), ("--sample",)])
def test_a_sweep_is_not_continued_on_other_data_or_another_branch(
    project: Project, reference: tuple[str, Any], options: tuple[str, ...]
) -> None:
    before = len(project.runs())
    done = project.run("train.py", "--sweep", "reference.yaml", *options)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert f"{options[0]}: sweep 'reference' was started with" in done.stderr and "leave the option out" in done.stderr
    assert len(project.runs()) == before


def test_weights_of_all_trials_and_a_choice_of_them_exclude_each_other(project: Project) -> None:
    text = SWEEP.replace("settings:", "settings:\n  model: lite_fpn").replace(
        "space:", "space:\n  pretrained: [false, true]"
    )
    name, before = write(project, "weights", text), len(project.runs())
    done = project.run("train.py", "--sweep", name, env={"WEIGHTS": "a.pth"})
    assert done.returncode == 2 and "space.pretrained varies, but WEIGHTS=" in done.stderr, done.stderr
    assert len(project.runs()) == before


def test_a_time_for_each_trial_excludes_a_choice_of_epochs(project: Project) -> None:
    text = SWEEP.replace("  epochs: 2", "  max_seconds: 5").replace("space:", "space:\n  epochs: {low: 2, high: 9}")
    done = project.run("train.py", "--sweep", write(project, "lengths", text))
    assert done.returncode == 2 and "epochs and max_seconds exclude each other" in done.stderr, done.stderr


def test_the_same_data_directory_may_be_named_again(project: Project, reference: tuple[str, Any]) -> None:
    assert "best: trial 2" in run_sweep(project, "reference", "--data-dir", "data").stdout


def test_two_processes_share_the_trials(project: Project) -> None:
    text = SWEEP.replace("epochs: 2", "epochs: 1").replace("trials: 3", "trials: 4").replace("halving", "none")
    write(project, "shared", text)
    both = [project.start("train.py", "--sweep", "shared.yaml") for _ in range(2)]
    outputs = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], "\n".join(outputs)
    parent, trials = runs_of(project, "shared")
    assert parent.info.status == "FINISHED" and [run.data.tags["trial"] for run in trials] == list("1234")
    assert all(re.search(r"^trial \d/4: learning_rate", output, re.MULTILINE) for output in outputs), "both trained"
    assert sum(output.count("best: trial") for output in outputs) >= 1
    best = max(trials, key=lambda run: run.data.metrics["best_val_miou"])
    assert parent.data.params["best_run_id"] == best.info.run_id
    lock = json.loads((project.folder / "lakefs.lock").read_text())
    assert lock["mlflow_run_id"] == best.info.run_id and "lakefs_model_commit" in best.data.tags


def test_studies_are_in_the_database_that_is_named(project: Project) -> None:
    name = write(project, "elsewhere", SWEEP.replace("trials: 3", "trials: 1").replace("epochs: 2", "epochs: 1"))
    own = project.folder / "models/sweeps.db"
    before = own.read_bytes() if own.exists() else None
    chosen = {"OPTUNA_STORAGE": "sqlite:///studies.db"}
    done = project.run("train.py", "--sweep", name, env=chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (project.folder / "studies.db").exists(), "relative to the project, as all paths of settings"
    assert (own.read_bytes() if own.exists() else None) == before
    again = project.run("train.py", "--sweep", name, env=chosen)
    assert again.returncode == 0 and "best: trial 1" in again.stdout, "the study is found there again"


def test_unusable_database_of_studies_is_refused_before_any_work(project: Project) -> None:
    name, before = write(project, "nowhere"), len(project.runs())
    done = project.run("train.py", "--sweep", name, env={"OPTUNA_STORAGE": "oracle9://user:hush-hush@host/x"})
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "OPTUNA_STORAGE=oracle9://" in done.stderr and "hush" not in done.stdout + done.stderr
    assert len(project.runs()) == before


def test_trial_whose_settings_do_not_fit_fails_and_the_sweep_goes_on(project: Project) -> None:
    text = """
trials: 2
seed: 2
sampler: random
settings: {epochs: 1, image_size: 32 32, batch_size: 4}
space:
  crop_size: [16 16, 64 64]
"""
    write(project, "unfit", text)
    done = project.run("train.py", "--sweep", "unfit.yaml")
    states = re.findall(r"trial (\d)/2 failed: (.*)", done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(states) == 1 and "larger than the input size 32 32" in states[0][1]
    parent, trials = runs_of(project, "unfit")
    assert len(trials) == 1 and (parent.data.params["trials_failed"], parent.data.params["trials_complete"]) == (
        "1",
        "1",
    )


def test_wrong_file_is_refused_before_any_work(tmp_path: Path) -> None:
    project = make_project(tmp_path, images=0, git=False)
    write(project, "wrong", SWEEP.replace("low: 1e-4", "low: -1"))
    done = project.run("train.py", "--sweep", "wrong.yaml")
    expected = "error: wrong.yaml, line 10: space.learning_rate.low: '-1': expected a number greater than 0"
    assert (done.returncode, done.stderr.strip()) == (2, expected)
    assert not (project.folder / "mlflow.db").exists() and not (project.folder / "models/sweeps.db").exists()
    together = project.run("train.py", "--sweep", "wrong.yaml", "--git-commit")
    assert together.returncode == 2 and "--git-commit" in together.stderr
