"""Directories whose Git cannot be used: what is reported, once, and how to fix it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from core import git
from core.git import GitFacts, find_problem, read_facts
from core.provenance.patch import read_patch
from tests.support.project import Project


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []
    monkeypatch.setattr(git, "warn", texts.append)
    git._warn_once.cache_clear()
    return texts


def test_directory_ignored_by_an_enclosing_repository_has_no_git(repo: Project, warned: list[str]) -> None:
    (repo.folder / ".gitignore").write_text("project/\n")
    repo.git("add", ".")
    repo.git("commit", "--quiet", "-m", "dotfiles")
    project = repo.folder / "project"
    project.mkdir()
    (project / "train.py").write_text("x = 1\n")
    assert read_facts(project) == GitFacts() and "does not track" in warned[0]


@pytest.mark.parametrize("commits", [True, False])
def test_directory_that_an_enclosing_repository_does_not_track_has_no_git(
    commits: bool, repo: Project, warned: list[str]
) -> None:
    if not commits:
        shutil.rmtree(repo.folder / ".git")
        repo.git("init", "--quiet")
    project = repo.folder / "project"
    project.mkdir()
    (project / "train.py").write_text("x = 1\n")
    assert read_facts(project) == GitFacts() and "does not track" in (find_problem(project) or "") and len(warned) == 1


def test_repository_at_the_top_that_does_not_track_the_project_is_not_its_own(repo: Project, warned: list[str]) -> None:
    repo.git("rm", "--cached", "--quiet", "train.py")
    repo.git("commit", "--quiet", "-m", "dotfiles")
    assert read_facts(repo.folder) == GitFacts() and len(warned) == 1


def test_dubious_ownership_is_a_warning_with_the_words_of_git_and_the_fix(
    repo: Project, monkeypatch: pytest.MonkeyPatch, warned: list[str]
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # of Git's own test suite
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    assert read_facts(repo.folder) == GitFacts() == read_facts(repo.folder)
    assert len(warned) == 1 and "detected dubious ownership" in warned[0], "once"
    assert f"git config --global --add safe.directory {repo.folder}" in warned[0]


def test_missing_git_is_reported_as_such(
    repo: Project, monkeypatch: pytest.MonkeyPatch, warned: list[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert read_facts(repo.folder) == GitFacts() and "Git is not installed" in warned[0]
    assert read_facts(tmp_path) == GitFacts() and len(warned) == 1, "a project without Git needs no warning"


def test_repository_without_a_commit_is_not_a_problem(tmp_path: Path, warned: list[str]) -> None:
    (tmp_path / "train.py").write_text("x\n")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    assert read_facts(tmp_path).dirty == "true" and warned == [] and read_patch(tmp_path, ()) is None
