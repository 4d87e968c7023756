"""A data directory inside the project: Git must not take what lakeFS versions, and one line says how."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from config import Settings
from tests.support.project import Project
from versioning import data_directory


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = Project(tmp_path / "project")
    project.folder.mkdir()
    (project.folder / "train.py").write_text("")
    (project.folder / ".gitignore").write_text("/data/**")
    project.git("init", "--quiet")
    project.git("add", ".")
    project.git("commit", "--quiet", "-m", "first")
    monkeypatch.setattr(data_directory, "ROOT", project.folder)
    return project


@pytest.mark.parametrize("name", ["mydata", "sets/first one", "odd[1]*"])
def test_the_printed_command_keeps_the_data_out_of_git(
    project: Project, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (project.folder / ".gitignore").write_text("/data/**\n")
    root = project.folder / name / "images"
    root.mkdir(parents=True)
    (root / "a.png").write_bytes(b"png")
    settings = Settings(data_dir=project.folder / name)
    data_directory.advise_ignoring(settings)
    (line,) = capsys.readouterr().out.splitlines()
    subprocess.run(line.split("keep it out of Git: ")[1], shell=True, check=True)
    assert "a.png" not in project.git("status", "--porcelain", "--untracked-files=all")
    data_directory.advise_ignoring(settings)
    assert capsys.readouterr().out == "", "said once"


def test_nothing_is_said_of_data_that_git_does_not_see(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (project.folder / "data", project.folder.parent / "elsewhere"):
        data_directory.advise_ignoring(Settings(data_dir=folder))
    assert capsys.readouterr().out == ""
