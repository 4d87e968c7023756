"""A whole training from a working tree and an environment full of secrets: none of them is recorded or printed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from config import load_settings
from tests.safety.planted import PASSWORD, PLANTED, RANDOM, WORDS
from tests.support.project import Project, make_project
from train.tracking.run_tracker import RunTracker
from utils import mlflow_utils

OLD_KEY = "AKIA" + "OLDKEYOLDKEY2345"
ENVIRONMENT = {
    "AWS_SECRET_ACCESS_KEY": RANDOM,
    "MLFLOW_TRACKING_PASSWORD": "m1flow-" + WORDS,
    "SOME_TOKEN": "environment-" + WORDS,
    "HTTP_PROXY": "http://me:pro/xy-" + WORDS + "@127.0.0.1:9",
    "NO_PROXY": "*",
    "MINIO_ENDPOINT": "http://127.0.0.1:9",
    "MINIO_ACCESS_KEY": "minio-access-" + WORDS,
    "MINIO_SECRET_KEY": "minio-secret-" + WORDS,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, str]:
    project = make_project(tmp_path_factory.mktemp("secrets"), images=12)
    folder = project.folder
    notebook = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    for name in ("nb.ipynb", "conf.yaml", "secrets.json", ".netrc", "terraform.tfvars"):
        (folder / name).write_text(json.dumps({**notebook, "api_key": OLD_KEY}) if name == "nb.ipynb" else OLD_KEY)
    project.git("add", "--force", ".")
    project.git("commit", "--quiet", "-m", "second")
    project.git("remote", "add", "origin", f"https://me:{WORDS}/x@example.org/repo.git")
    for name in ("nb.ipynb", "conf.yaml", "secrets.json", ".netrc", "terraform.tfvars"):
        (folder / name).write_text(f"password: {PASSWORD}\n")
    mentioned = ["secret_settings", "keys", "urls", "encoded", *(f"planted_{n}" for n in range(len(PLANTED)))]
    (folder / "secret_settings.py").write_text(f'PASSWORD = "{PASSWORD}"\n')
    (folder / "keys.sh").write_text(f"export API_KEY={PASSWORD}\n")
    (folder / "urls.py").write_text(f"URL = 'postgresql://me:{WORDS}@db'\n")
    (folder / "encoded.py").write_text(f"x = 'environment-{WORDS}'\n")
    for number, (text, _) in enumerate(PLANTED.values()):
        (folder / f"planted_{number}.py").write_text(text + "\n")
    config = folder / "train/optim/schedule.py"
    config.write_text(config.read_text() + "".join(f"# {name}\n" for name in mentioned) + "# harmless change\n")
    done = project.run("train.py", "--smoke", env={**ENVIRONMENT, "LAKEFS_STORAGE_NAMESPACE": "local://own"})
    assert done.returncode == 0, done.stdout + done.stderr
    return project, done.stdout + done.stderr


def test_no_secret_is_recorded_or_printed(trained: tuple[Project, str]) -> None:
    project, output = trained
    secrets = [PASSWORD, WORDS, RANDOM, OLD_KEY, *ENVIRONMENT.values(), *(secret for _, secret in PLANTED.values())]
    secrets = [secret for secret in secrets if secret not in ("*", "http://127.0.0.1:9")]
    places = [project.folder / name for name in ("mlflow.db", "mlartifacts", ".lakefs", "models", "lakefs.lock")]
    files = [file for place in places for file in (place, *place.rglob("*")) if file.is_file()]
    assert len(files) > 10
    found = [(secret, file) for file in files for secret in secrets if secret.encode() in file.read_bytes()]
    assert found == [] and [secret for secret in secrets if secret in output] == []


def test_run_says_what_its_record_lacks(trained: tuple[Project, str]) -> None:
    project, output = trained
    run = project.runs()[0]
    assert run.data.tags["git_dirty"] == "true" and run.data.tags["git_remote"] == "https://example.org/repo.git"
    assert run.data.tags["git_patch"].startswith("incomplete: ") and "keys.sh" in run.data.tags["git_patch"]
    assert "secret_settings.py (contains a secret)" in output
    patch = next(project.folder.glob("mlartifacts/**/changes.patch")).read_text()
    assert "# harmless change" in patch and patch.count("diff --git") == 1
    done = project.run("train.py", "--reproduce", run.info.run_id)
    assert done.returncode == 2 and "incomplete: " in done.stderr and "Traceback" not in done.stderr


def test_database_and_store_are_private(trained: tuple[Project, str]) -> None:
    folder = trained[0].folder
    paths = [folder / ".lakefs", *(folder / ".lakefs").rglob("*"), folder / "mlartifacts", *folder.glob("mlflow.db*")]
    loose = [path for path in map(Path, paths) if path.suffix != ".lock" and path.stat().st_mode & 0o077]
    assert loose == []


def test_link_of_the_run_has_no_credentials_and_mlflow_prints_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", raising=False)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    mlflow_utils.connect(load_settings(mlflow_tracking_uri=uri, lakefs_local_dir=tmp_path / "lake"))
    assert os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] == "true"
    settings = SimpleNamespace(mlflow_tracking_uri="http://alice:p/w@h:5000/")
    tracker: Any = SimpleNamespace(settings=settings, experiment_id="1", run_id="r")
    assert RunTracker.page(tracker) == "http://h:5000/#/experiments/1/runs/r?workflowType=machine_learning"
