"""Fixtures of these tests."""

from pathlib import Path

import pytest

from tests.support.project import Project


@pytest.fixture
def repo(tmp_path: Path) -> Project:
    """A Git repository with two files of code."""
    project = Project(tmp_path / "repo")
    project.folder.mkdir()
    (project.folder / "train.py").write_text("import helper\n")
    (project.folder / "helper.py").write_text("".join(f"x{n} = {n}\n" for n in range(40)))
    project.git("init", "--quiet")
    project.git("add", ".")
    project.git("commit", "--quiet", "-m", "first")
    return project
