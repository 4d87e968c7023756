"""--quiet leaves results, warnings and errors; wrong class weights end before anything is recorded; no colours."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import subprocess
import sys

import pytest

from tests.support.project import Project, make_project

COMMIT = r"[0-9a-f]{64}"
TRAINING = ("--epochs", "1", "--batch-size", "5", "--image-size", "64", "64")
COLOR = re.compile(rb"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("quiet") / "project")


def test_wrong_number_of_class_weights_ends_before_run_and_commit(project: Project) -> None:
    done = project.run("train.py", *TRAINING, "--class-weights", "1,2,3")
    assert done.returncode == 2 and "expected one number for each class of the data (4), found 3" in done.stderr
    assert "data commit" not in done.stdout
    with contextlib.closing(sqlite3.connect(project.folder / "mlflow.db")) as database:
        assert database.execute("SELECT count(*) FROM runs").fetchone() == (0,)
    log = project.run("lake.py", "log")
    assert log.returncode == 2 and "has no repository" in log.stderr, "nothing was uploaded"


def test_quiet_scripts_print_only_results(project: Project) -> None:
    folder = re.escape(str(project.folder))
    expected = {  # the whole output of each script
        ("lake.py", "push"): rf"data commit: {COMMIT} \(64 uploaded, 0 removed, 64 files in total\)\n",
        ("train.py", *TRAINING): r"(?s)data unchanged: [^\n]*\n\n=== LakeFS [^\n]* ===\n.*accuracy \d+%\n+",
        (
            "register_model.py",
            "--threshold",
            "0",
            "--accept-warnings",
        ): rf"\S+ v1: best_val_miou [^\n]*{COMMIT}[^\n]*\n",
        ("infer.py",): rf"test split: accuracy [^\n]*\npredicted 3 images: {folder}/data/predictions\n",
        ("lake.py", "pull", "main"): rf"{folder}/data: 64 files of \S+ \(0 written, 0 removed\)\n",
    }
    for arguments, printed in expected.items():
        done = project.run(*arguments, "--quiet")
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(printed, done.stdout), (arguments, done.stdout)
        assert all(line.startswith("warning: ") for line in done.stderr.splitlines() if line), done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_no_colors_on_a_terminal_with_no_color(project: Project) -> None:
    for arguments in (["lake.py", "--help"], ["train.py", "--check-only"], ["lake.py", "nothing"]):
        master, terminal = os.openpty()
        command = [sys.executable, *arguments]
        environment = {**os.environ, "NO_COLOR": "1", "TERM": "xterm-256color"}
        subprocess.run(command, cwd=project.folder, env=environment, stdout=terminal, stderr=terminal, check=False)
        os.set_blocking(master, False)
        shown = os.read(master, 1 << 20)
        os.close(terminal)
        os.close(master)
        assert shown and not COLOR.search(shown), arguments
