"""train.py --sweep: its own data is known by every name, and other data is refused."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.support.project import Project, make_project
from tests.train.test_sweep import run_sweep, runs_of, write

pytest.importorskip("optuna")

SWEEP = """
trials: 1
settings: {epochs: 1, image_size: 32 32, batch_size: 4}
space:
  ema: [0, 0.5]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project with two finished sweeps on the same data; the models of each have moved the branch on."""
    project = make_project(tmp_path_factory.mktemp("sweep"), images=20)
    for name, options in (("of-directory", ()), ("of-branch", ("--data-ref", "main"))):
        write(project, name, SWEEP)
        run_sweep(project, name, *options)
    shutil.copytree(project.folder / "data", project.folder / "copy")
    return project


def commit_of(project: Project, name: str) -> str:
    commit: str = runs_of(project, name)[0].data.tags["lakefs_data_commit"]
    return commit


@pytest.mark.parametrize("name", ["of-directory", "of-branch"])
@pytest.mark.parametrize(
    "options",
    [
        ("--data-ref", "main"),
        ("--data-ref", "{commit}"),
        ("--data-ref", "lakefs://image-segmentation-local-repo/main/data/"),
        ("--data-dir", "data"),
        ("--data-dir", "{folder}/data/../copy"),
    ],
)
def test_a_sweep_knows_its_data_by_every_name(project: Project, name: str, options: tuple[str, ...]) -> None:
    named = [text.format(commit=commit_of(project, name), folder=project.folder) for text in options]
    assert "best: trial 1" in run_sweep(project, name, *named).stdout


@pytest.mark.parametrize("name", ["of-directory", "of-branch"])
def test_other_data_is_refused_under_the_name_of_the_start(project: Project, name: str) -> None:
    first = commit_of(project, name)
    for file in ("images", "masks"):
        next((project.folder / "copy").rglob(f"{file}/*.png")).unlink(missing_ok=True)
    pushed = project.run("lake.py", "push", "--data-dir", "copy", "--replace")
    assert pushed.returncode == 0, pushed.stderr
    for options in (("--data-ref", "main"), ("--data-dir", "copy")):
        done = project.run("train.py", "--sweep", f"{name}.yaml", *options)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stdout + done.stderr
        assert f"{options[0]}: sweep '{name}' was started with lakefs://" in done.stderr and first in done.stderr
    assert "best: trial 1" in run_sweep(project, name).stdout, "without the option, it goes on with its data"


def test_a_sweep_knows_the_model_that_it_starts_from_by_every_name(project: Project) -> None:
    model, other = project.folder / "first.pth", project.folder / "other.pth"
    shutil.copy(project.folder / "models/model.pth", model)
    name = write(project, "start", SWEEP).removesuffix(".yaml")
    run_sweep(project, name, "--init", "first.pth", "--data-ref", commit_of(project, "of-branch"))
    run_id = json.loads((project.folder / "lakefs.lock").read_text())["mlflow_run_id"]
    shutil.copy(project.folder / "models/model.pth", other)
    assert "best: trial 1" in run_sweep(project, name, "--init", str(model)).stdout
    refused = [project.run("train.py", "--sweep", f"{name}.yaml", "--init", text) for text in ("other.pth", run_id)]
    shutil.copy(other, model)
    refused.append(project.run("train.py", "--sweep", f"{name}.yaml", "--init", "first.pth"))
    for done in refused:
        assert done.returncode == 2 and "--init: sweep 'start' was started with" in done.stderr, done.stderr
    assert "best: trial 1" in run_sweep(project, name).stdout
