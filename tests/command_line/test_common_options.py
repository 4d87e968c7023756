"""--version, --quiet, --json, --init-env, Korean texts of argparse, missing packages and old Pythons."""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from core.command_line import argparse_texts, version
from core.command_line.actions import DEFAULT, Actions
from core.command_line.common import make_parser, parse_command_line
from core.command_line.init_env import init_env
from core.errors import UsageError
from tests.support.project import SOURCE, Project, make_project

SCRIPTS = ("train.py", "register_model.py", "infer.py", "lake.py")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("common") / "project", images=0)


def test_new_option_must_be_placed_in_the_table() -> None:
    parser = make_parser("x.py", None)
    parser.add_argument("--new", action="store_true")
    with pytest.raises(ValueError, match="--new"):
        parse_command_line(parser, [], Actions({DEFAULT: ""}))


@pytest.mark.parametrize("script", SCRIPTS)
def test_version_names_the_git_commit(project: Project, script: str) -> None:
    done = project.run(script, "--version")
    commit = project.git("rev-parse", "HEAD")[:12]
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{version.NAME} {version.VERSION} (Git {commit})\n"


def test_version_has_one_place() -> None:
    content = tomllib.loads((SOURCE / "pyproject.toml").read_text(encoding="utf-8"))
    assert content["project"]["dynamic"] == ["version"] and "version" not in content["project"]
    assert content["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "core.command_line.version.VERSION"}


def test_argparse_speaks_the_language_of_the_console(monkeypatch: pytest.MonkeyPatch) -> None:
    translated = {text: f"<{text}>" for text in argparse_texts.TEXTS}
    monkeypatch.setattr(argparse_texts, "tr", lambda text: translated[text])
    parser = make_parser("x.py", None)
    parser.add_argument("--epochs", type=int)
    assert "<usage: >" in parser.format_help() and "<options>" in parser.format_help()
    with pytest.raises(UsageError, match="<argument --epochs: <expected one argument>>"):
        parser.parse(["--epochs"])
    with pytest.raises(UsageError, match="<invalid int value: 'five'>"):
        parser.parse(["--epochs", "five"])


def test_texts_of_argparse_are_those_of_this_python() -> None:
    used = Path(str(argparse.__file__)).read_text(encoding="utf-8")
    for text in ("usage: ", "options", "expected one argument", "the following arguments are required: %s"):
        assert text in argparse_texts.TEXTS and f"_('{text}')" in used


# --- .env ----------------------------------------------------------------------------------------------------------------


def test_init_env_writes_keys_and_nothing_into_comments(tmp_path: Path) -> None:
    (tmp_path / ".env.example").write_text(
        "# a comment=\n#REGISTER_MAX_MB=\nMINIO_ACCESS_KEY=\nSECRET=\nLAKEFS_REPO=x\n"
    )
    target = init_env(tmp_path)
    rows = target.read_text().splitlines()
    assert rows[:2] == ["# a comment=", "#REGISTER_MAX_MB="] and rows[4] == "LAKEFS_REPO=x"
    values = [row.partition("=")[2] for row in rows[2:4]]
    assert all(re.fullmatch("[0-9a-f]{32}", value) for value in values) and values[0] != values[1]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    before = target.read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        init_env(tmp_path)
    assert target.read_bytes() == before


def test_init_env_of_the_real_example_can_be_loaded(project: Project) -> None:
    (project.folder / ".env.example").write_bytes((SOURCE / ".env.example").read_bytes())
    done = project.run("train.py", "--init-env")
    assert done.returncode == 0, done.stderr
    text = (project.folder / ".env").read_text(encoding="utf-8")
    assert "POSTGRES_PASSWORD" in done.stdout and not re.search(r"^#.*=[0-9a-f]{32}$", text, re.MULTILINE)
    assert text.split("MINIO_ACCESS_KEY=")[1][:32] not in done.stdout
    assert project.run("train.py", "--check-only", "--data-dir", "x").stderr.count("no such directory") == 1
    again = project.run("train.py", "--init-env")
    assert again.returncode == 2 and again.stderr.count("\n") == 1
    (project.folder / ".env").unlink()


# --- where the packages are missing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS)
def test_forgotten_environment_is_one_line(project: Project, script: str) -> None:
    arguments = {"lake.py": ["log"], "train.py": ["--smoke"]}.get(script, [])
    command = [sys.executable, "-S", "-E", str(project.folder / script), *arguments]
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=project.folder, env=env, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert "pip install -r requirements.txt" in done.stderr
    help = subprocess.run([*command[:4], "--help"], cwd=project.folder, env=env, capture_output=True, text=True)
    assert help.returncode == 0, help.stderr


def test_old_python_is_one_line(project: Project) -> None:
    code = (
        "import sys, runpy; sys.version_info = (3, 9, 2, 'final', 0); runpy.run_path(sys.argv[1], run_name='__main__')"
    )
    for script in SCRIPTS:
        command = [sys.executable, "-c", code, str(project.folder / script)]
        done = subprocess.run(command, cwd=project.folder, capture_output=True, text=True)
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
        assert "Python 3.11" in done.stderr and "3.9" in done.stderr
        ast.parse((SOURCE / script).read_text(encoding="utf-8"), feature_version=(3, 7))
    ast.parse((SOURCE / "core/__init__.py").read_text(encoding="utf-8"), feature_version=(3, 4))
    ast.parse((SOURCE / "config.py").read_text(encoding="utf-8"), feature_version=(3, 7))


# --- for programs --------------------------------------------------------------------------------------------------------


def json_of(project: Project, *command: str, code: int = 0) -> Any:
    done = project.run(*command, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_every_listing_is_json(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", images=12, git=False)
    pushed = project.run("lake.py", "push", "--quiet")
    assert pushed.returncode == 0, pushed.stderr
    log = json_of(project, "lake.py", "log")
    assert set(log) == {"ref", "commits"} and set(log["commits"][0]) == {"commit", "date", "message", "metadata"}
    newest = log["commits"][0]["commit"]
    assert pushed.stdout.splitlines() == [pushed.stdout.strip()] and newest in pushed.stdout, "only the commit"
    (main,) = json_of(project, "lake.py", "branches")["branches"]
    assert {"name": "main", "commit": newest, "target": True}.items() <= main.items()
    changes = json_of(project, "lake.py", "diff", "main~1", "main")["changes"]
    assert {"path": "data/classes.json", "change": "added"} in changes
    status = json_of(project, "lake.py", "status")
    assert status["ok"] and status["commit"] == newest and status["lock"] is None
    verified = json_of(project, "lake.py", "verify")
    assert verified["ok"] and verified["commits"][0]["broken"] == {}
    assert project.run("lake.py", "tag", "v1", "main~1").returncode == 0
    (tag,) = json_of(project, "lake.py", "tag")["tags"]
    taken = project.run("lake.py", "tag", "v1", "main")
    assert taken.returncode == 2 and tag["commit"] in taken.stderr and "409 Conflict" not in taken.stderr
    listed = json_of(project, "register_model.py", "--list")
    assert listed == {"model": "image-segmentation", "versions": []}


def test_shell_completion_of_options_choices_and_commands(project: Project) -> None:
    """As the shell calls it; argcomplete comes with nox."""
    for line, word in (
        ("train.py --ep", "--epochs"),
        ("train.py --loss foc", "focal"),
        ("lake.py bran", "branches"),
    ):
        script = line.split()[0]
        assert "PYTHON_ARGCOMPLETE_OK" in (project.folder / script).read_text(encoding="utf-8")[:1024]
        env = {
            "_ARGCOMPLETE": "1",
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
            "IFS": "\n",
            "_ARGCOMPLETE_IFS": "\n",
        }
        out = project.folder.parent / "completions"
        env |= {"_ARGCOMPLETE_STDOUT_FILENAME": str(out)}
        done = project.run(script, env=env)
        assert done.returncode == 0 and word in out.read_text(), done.stderr
