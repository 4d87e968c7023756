"""The tag workflow in a fresh clone, in English and Korean: three tags, then back to the first result by its tag.

Each language has trainings of its own: tags, texts for Git and records are made by them, and nothing could be shared.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass

import pytest

from tests.support.languages import left_over
from tests.support.project import Project, make_project

SMALL = ("--epochs", "1", "--batch-size", "4", "--image-size", "32", "32")


@dataclass
class Tagged:
    """A project with v0.1-initial and two results, of which the first is checked out again; tags and runs in order."""

    project: Project
    tags: list[str]
    runs: list[str]
    outputs: list[str]  # of the two trainings


def succeed(project: Project, script: str, *arguments: str) -> str:
    """Run a script; return its standard output, once all of its output is in the language of the project."""
    done = project.run(script, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert left_over(done.stdout + done.stderr, project.env["APP_LANG"]) == []
    return done.stdout


def tag_by_printed_commands(project: Project, output: str) -> str:
    """Run the commands for Git that train.py printed, in their order; return the tag."""
    commands = [line for line in output.splitlines() if line.startswith("git ")]
    assert [shlex.split(line)[1] for line in commands] == ["add", "tag"]
    for command in commands:
        subprocess.run(command, shell=True, cwd=project.folder, check=True, capture_output=True)
    return str(re.findall(r'git tag -a "([^"]+)"', output)[0])


@pytest.fixture(scope="module", params=["en", "ko"])
def tagged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tagged:
    """Tag the data, train and tag twice (by hand, by --git-tag), and check the first result out again."""
    folder = tmp_path_factory.mktemp("tags")
    make_project(folder / "origin", images=0)
    subprocess.run(["git", "clone", "--quiet", str(folder / "origin"), str(folder / "clone")], check=True)
    project = Project(folder / "clone", {"APP_LANG": request.param})
    project.git("config", "user.name", "Test")
    project.git("config", "user.email", "test@example.org")
    made = make_project(folder / "data", images=20, git=False)
    (made.folder / "data").rename(project.folder / "data")
    project.git("tag", "-a", "v0.1-initial", "-m", "first data")
    succeed(project, "lake.py", "push")
    succeed(project, "lake.py", "tag", "v0.1-initial")
    first = succeed(project, "train.py", *SMALL)
    tags = [tag_by_printed_commands(project, first)]
    second = succeed(project, "train.py", *SMALL, "--seed", "1", "--git-tag")
    tags += [tag for tag in project.git("tag", "--list", "v1.1-*").splitlines()]
    runs = [run.info.run_id for run in reversed(project.runs())]
    project.git("checkout", "--quiet", tags[0])
    succeed(project, "lake.py", "pull", "lock")
    return Tagged(project, tags, runs, [first, second])


def test_old_tag_predicts_with_its_own_model(tagged: Tagged) -> None:
    project, (old, new) = tagged.project, tagged.tags
    assert re.fullmatch(r"v1\.0-acc\d+", old) and re.fullmatch(r"v1\.1-acc\d+", new)
    output = succeed(project, "infer.py")
    predictions = project.predictions()
    assert predictions["run_id"] == tagged.runs[0] and predictions["model_selected_by"] == "lock"
    assert old in output and "lakefs.lock" in output, "it says which model it uses, and why"
    output = succeed(project, "infer.py", "--model", new)
    assert project.predictions()["run_id"] == tagged.runs[1]
    count = len(predictions["images"])
    assert any("data/predictions" in line and f"{count}" in line for line in output.splitlines()), "what it replaced"
    image = next((project.folder / "data/images").iterdir())
    offline = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "LAKEFS_ENDPOINT": "http://127.0.0.1:9"}
    keys = {"LAKEFS_ACCESS_KEY_ID": "a", "LAKEFS_SECRET_ACCESS_KEY": "b"}
    for name in ("lock", "models/model.pth"):
        done = project.run("infer.py", "--model", name, "--input", str(image), env=offline | keys)
        assert done.returncode == 0, done.stdout + done.stderr
        assert project.predictions()["run_id"] == tagged.runs[0]


def test_old_tag_reproduces_and_traces_its_run(tagged: Tagged) -> None:
    output = succeed(tagged.project, "train.py", "--reproduce", tagged.tags[0])
    assert tagged.runs[0] in output
    output = succeed(tagged.project, "lake.py", "trace", "--long", tagged.runs[0][:8])
    assert tagged.runs[0] in output and tagged.runs[1] not in output


def test_released_result_needs_no_more_commands(tagged: Tagged) -> None:
    assert "git tag -a" not in tagged.outputs[1] and "git add" not in tagged.outputs[1]
    project = tagged.project
    assert project.git("status", "--porcelain") == ""
    assert project.git("cat-file", "-t", tagged.tags[1]) == "tag"
