"""Commands of a project whose directory this process may not write."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.project import Project

# Runs many commands in one process, as `run_script` would: importing torch and MLflow takes longer than the commands.
_DRIVER = """
import contextlib, importlib.util, io, json, sys
folder = sys.argv[1]
sys.path.insert(0, folder)
from core.process import run_script
results = []
for script, *arguments in json.loads(sys.argv[2]):
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
    sys.argv = [script, *arguments]
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        try:
            spec = importlib.util.spec_from_file_location("script", f"{folder}/{script}")
            module = importlib.util.module_from_spec(spec)  # by its path: train.py lies beside the package train
            spec.loader.exec_module(module)
            run_script(module.main)
        except SystemExit as end:
            code = end.code
        for stream in streams:
            stream.flush()
    results.append([code, *(stream.buffer.getvalue().decode() for stream in streams)])
print(json.dumps(results))
"""


@dataclass(frozen=True)
class Outcome:
    """What a command left."""

    code: int
    out: str
    error: str


def run_read_only(project: Project, commands: Sequence[Sequence[str]], cwd: Path) -> list[Outcome]:
    """Run commands of a project in one process that may read its directory only; return their outcomes.

    Root ignores modes: then the directory is mounted read-only, in a mount namespace of the process.
    """
    command = [sys.executable, "-c", _DRIVER, str(project.folder), json.dumps(commands)]
    if os.geteuid() == 0:
        command = [*_read_only_mount(), str(project.folder), *command]
        done = _run(project, command, cwd)
    else:
        modes = {path: path.stat().st_mode for path in (project.folder, *project.folder.rglob("*"))}
        try:
            for path, mode in modes.items():
                if not path.is_symlink():
                    path.chmod(mode & ~0o222)
            done = _run(project, command, cwd)
        finally:
            for path, mode in modes.items():
                if not path.is_symlink():
                    path.chmod(mode)
    assert done.returncode == 0, done.stderr
    return [Outcome(*each) for each in json.loads(done.stdout.splitlines()[-1])]


def _run(project: Project, command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, env=project.environment(), capture_output=True, text=True, timeout=600, check=False
    )


@functools.cache
def _read_only_mount() -> list[str]:
    """Return a command that makes its first argument read-only and runs the others; skip the test if root may not."""
    inside = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", inside, "sh"]
    if shutil.which("unshare") is None or subprocess.run([*command, "/mnt", "true"], capture_output=True).returncode:
        pytest.skip("root may not mount here")
    return command
