"""The state after a run is interrupted, killed or fails, and the next run after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.project import SIGINT, SIGKILL, SIGTERM, Project, finish, make_project, wait_for_line
from utils import local_lakefs
from utils.lakefs_utils import LakeFS

TRAINING = ("train.py", "--epochs", "200", "--batch-size", "4")


def branch_paths(project: Project) -> tuple[list[str], list[str]]:
    """Return the paths on main and the names of all branches."""
    with local_lakefs.start(project.folder / ".lakefs") as server:
        lake = LakeFS(
            server.endpoint, server.access_key_id, server.secret_access_key, "image-segmentation-local-repo", "main"
        )
        paths = [str(file.path) for file in lake.objects("main", "")]
        return paths, [branch.id for branch in lake.connection.sdk.branches_api.list_branches(lake.repo).results]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("interrupted"))


@pytest.mark.parametrize("signal_number", [SIGINT, SIGTERM])
def test_interrupted_run_is_marked_killed_and_publishes_no_model(project: Project, signal_number: int) -> None:
    process = project.start(*TRAINING)
    wait_for_line(process, lambda line: line.startswith("epoch 2/200"))
    code, output = finish(process, signal_number)
    assert code == 130 and "interrupted." in output and "Traceback" not in output
    run = project.runs()[0]
    assert run.info.status == "KILLED" and "lakefs_model_commit" not in run.data.tags
    paths, branches = branch_paths(project)
    assert branches == ["main"] and not [path for path in paths if path.startswith("models/")]


def test_killed_run_is_closed_by_the_next_run(project: Project) -> None:
    process = project.start(*TRAINING)
    wait_for_line(process, lambda line: line.startswith("epoch 1/200"))
    finish(process, SIGKILL)
    dead = project.runs()[0]
    assert dead.info.status == "RUNNING"
    after = project.run("train.py", "--smoke")
    assert after.returncode == 0, after.stderr
    assert f"an earlier run, {dead.info.run_id}, was interrupted: closed as KILLED" in after.stdout
    assert project.mlflow().get_run(dead.info.run_id).info.status == "KILLED"


def test_upload_resumes_after_a_kill(tmp_path: Path) -> None:
    project = make_project(tmp_path, images=200)
    process = project.start("train.py", "--smoke")
    wait_for_line(process, lambda line: line.startswith("MLflow run:"))
    finish(process, SIGKILL)  # right after the upload has started
    paths, _ = branch_paths(project)
    assert not paths or len(paths) == 404, "all files or none are published"
    after = project.run("train.py", "--smoke")
    assert after.returncode == 0, after.stderr
    paths, branches = branch_paths(project)
    assert len([path for path in paths if path.startswith("data/")]) == 404 and branches == ["main"]


def test_failed_run_is_recorded_in_mlflow(project: Project) -> None:
    done = project.run("train.py", "--epochs", "1", "--lr", "1e30")
    assert done.returncode == 1 and "lower LEARNING_RATE" in done.stderr and "Traceback" not in done.stderr
    run = project.runs()[0]
    assert run.info.status == "FAILED" and "LEARNING_RATE" in run.data.tags["error"]


def test_concurrent_trainings_both_succeed(tmp_path: Path) -> None:
    project = make_project(tmp_path, images=20)
    processes = [project.start("train.py", "--smoke", "--seed", str(seed)) for seed in (1, 2)]
    results = [finish(process) for process in processes]
    assert [code for code, _ in results] == [0, 0], results
    runs = project.runs()
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    paths, branches = branch_paths(project)
    assert branches == ["main"] and "models/model.pth" in paths
    done = project.run("infer.py", "--run-id", runs[0].info.run_id)
    assert done.returncode == 0, done.stderr
    done = project.run("infer.py", "--run-id", runs[1].info.run_id)
    assert done.returncode == 0, done.stderr
