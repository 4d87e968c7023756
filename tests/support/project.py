"""A copy of the project in a temporary directory whose real scripts run as processes."""

from __future__ import annotations

import atexit
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset.sources.synthetic import generate_sample
from tests.support import preloaded

if TYPE_CHECKING:
    from mlflow import MlflowClient

SOURCE = Path(__file__).resolve().parents[2]
COPIED = (*(marker.parent.name for marker in SOURCE.glob("*/py.typed")), "locale", "_lakefs_actions")
OWN_NAMES = ("LAKEFS_", "MINIO_", "MLFLOW_", "REGISTER", "LAKECTL_", "AWS_")
REPORT = re.compile(
    r"^=== LakeFS 커밋 완료 ===\n"
    r"커밋 ID: ([0-9a-f]{64})\n"
    r"=== Git 커밋 시 추가할 내용 ===\n"
    r"LakeFS 업로드 정보:\n"
    r"- LakeFS 커밋: \1\n"
    r"- 업로드된 파일: models/model\.pth\n"
    r"- 모델 성능: accuracy (\d+)%$",
    re.MULTILINE,
)


def clean_environment() -> dict[str, str]:
    """Return the environment of the tests without the settings of this project."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(OWN_NAMES)}
    return clean | {"PYTHONDONTWRITEBYTECODE": "1"}


@functools.cache
def _preloaded_python() -> tuple[Path, dict[str, str]]:
    """Start the preloaded Python of this test process; return its address and its environment."""
    folder, environment = Path(tempfile.mkdtemp(prefix="python-")), clean_environment()
    server = preloaded.start_server(folder / "socket", environment)
    atexit.register(_end, server, folder)
    return folder / "socket", environment


def _end(server: subprocess.Popen[bytes], folder: Path) -> None:
    server.kill()
    server.wait()
    shutil.rmtree(folder)


@dataclass
class Project:
    """A copy of the project; `env` is added to an environment without the variables of this project."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)

    def command(self, script: str, *arguments: str) -> list[str]:
        target = script if script == "-m" else str(self.folder / script)
        return [sys.executable, target, *arguments]

    def environment(self) -> dict[str, str]:
        own = {"APP_LANG": "en"}
        own["REGISTER_ACCEPT_WARNINGS"] = "true"  # the data of these projects is small
        return clean_environment() | own | self.env

    def environment_with(self, changes: Mapping[str, str | None]) -> dict[str, str]:
        """Return the environment with changes; None removes a variable."""
        return {key: value for key, value in {**self.environment(), **changes}.items() if value is not None}

    def run(
        self,
        script: str,
        *arguments: str,
        answers: str = "",
        cwd: Path | None = None,
        env: Mapping[str, str | None] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a script to its end, in a Python that has the large packages loaded if the environment permits it."""
        environment = self.environment_with(env or {})
        command = self.command(script, *arguments)
        address, server = _preloaded_python()
        if not preloaded.start_differs(environment, server):
            command = [*preloaded.client_command(address), *command[1:]]
        return subprocess.run(
            command,
            cwd=cwd or self.folder,
            env=environment,
            input=answers,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def start(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a script as a process of its own, which a test can send signals to."""
        return subprocess.Popen(
            self.command(script, *arguments),
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
        done = subprocess.run(
            ["git", *identity, *arguments], cwd=self.folder, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def mlflow(self) -> MlflowClient:
        """Return an MLflow client for the runs of the project."""
        import mlflow

        uri = self.env.get("MLFLOW_TRACKING_URI", f"sqlite:///{self.folder / 'mlflow.db'}")
        return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)

    def runs(self) -> list[Any]:
        """Return all runs of the default experiment, newest first."""
        client = self.mlflow()
        experiment = client.get_experiment_by_name("Image Segmentation")
        assert experiment is not None
        return list(client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"]))

    def predictions(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / "data/predictions/predictions.json").read_text())
        return content


def copy_source(target: Path, without: str = "\0") -> None:
    """Copy the files of this checkout that Git does not ignore, uncommitted ones included, `without` those below a path."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=SOURCE, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (SOURCE / name).is_file() and not name.startswith(without):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(SOURCE / name, target / name)


def make_project(folder: Path, images: int = 30, git: bool = True) -> Project:
    """Copy the project to `folder`, commit it to a new Git repository, and generate a small sample data set."""
    folder.mkdir(exist_ok=True)
    for name in ("config.py", "train.py", "register_model.py", "infer.py", "lake.py", ".gitignore"):
        shutil.copy(SOURCE / name, folder / name)
    for name in COPIED:
        shutil.copytree(SOURCE / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    project = Project(folder)
    if images:
        generate_sample(folder / "data", seed=0, count=images)
    if git:
        project.git("init", "--quiet", "--initial-branch=main")
        project.git("add", ".")
        project.git("commit", "--quiet", "-m", "first")
    return project


def wait_for_line(process: subprocess.Popen[str], wanted: Callable[[str], bool], seconds: float = 120) -> list[str]:
    """Read the output of a process until a line is `wanted`; fail with the output on its end or a timeout."""
    lines: list[str] = []
    deadline = time.monotonic() + seconds
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if wanted(line):
            return lines
        assert time.monotonic() < deadline, "".join(lines)
    raise AssertionError("ended early:\n" + "".join(lines))


def finish(process: subprocess.Popen[str], signal_number: int | None = None) -> tuple[int, str]:
    """Return the exit code and the remaining output, after an optional signal."""
    if signal_number is not None:
        process.send_signal(signal_number)
    rest, _ = process.communicate(timeout=120)
    return process.returncode, rest


SIGINT, SIGTERM = signal.SIGINT, signal.SIGTERM
SIGKILL = getattr(signal, "SIGKILL", SIGTERM)  # Windows has none: its SIGTERM ends a process at once
