"""A project folder left by earlier code, read by the code of now: its run, model, data, registry and predictions.

`fixtures/recorded_run.tar.xz` is such a folder, recorded in /recorded-project: one training, registered as champion, and
its predictions for the training split. Its weights are rounded and mostly zero, so that they pack small. MLflow's database
is of MLflow 3.17: a newer MLflow migrates it here, an older one cannot read it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import tarfile
import tomllib
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.command_line.version import VERSION
from tests.support.project import SOURCE, Project, make_project

ARCHIVE = SOURCE / "tests/fixtures/recorded_run.tar.xz"
RECORDED_IN = "/recorded-project"
PATHS = (("params", "value"),)  # columns of mlflow.db; artifacts are found beside it, wherever it is
# Another CPU or PyTorch rounds differently: with other instruction sets of one CPU the gap was up to 0.0009, which is two
# pixels of the only validation image. Another seed gives a gap of 0.7.
TOLERANCE = 0.02
SAME_PIXELS = 0.99  # of a mask, for the same reason


@dataclass
class Recorded:
    """The unpacked folder under the code of now; `commit` is the Git commit that trained the run."""

    project: Project
    commit: str
    lock: dict[str, Any]

    @property
    def run_id(self) -> str:
        return str(self.lock["mlflow_run_id"])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Unpack the folder, and commit the code of now on top of the recorded commit, as an upgrade would."""
    folder = tmp_path_factory.mktemp("recorded")
    with tarfile.open(ARCHIVE) as archive:
        # Python 3.11 has filters only from 3.11.4 on, and no argument for them before.
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
        archive.extractall(folder)
    move_database(folder)
    project = Project(folder, env={"DEVICE": "cpu"})
    commit = project.git("rev-parse", "HEAD")
    project.git("rm", "--quiet", "-r", ".")
    make_project(folder, images=0, git=False)
    project.git("add", ".")
    project.git("commit", "--quiet", "-m", "upgrade")
    return Recorded(project, commit, json.loads((folder / "lakefs.lock").read_text()))


def move_database(folder: Path) -> None:
    """Put the folder's path into the parameters in mlflow.db, and migrate its schema to the installed MLflow."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        for table, column in PATHS:
            database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (RECORDED_IN, str(folder)))
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{folder / 'mlflow.db'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def masks(folder: Path) -> dict[str, np.ndarray]:
    found = {}
    for path in folder.glob("*.png"):
        with Image.open(path) as mask:
            found[path.name] = np.asarray(mask)
    return found


def require_same_masks(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert expected and found.keys() == expected.keys()
    for name, mask in expected.items():
        assert found[name].shape == mask.shape and np.mean(found[name] == mask) >= SAME_PIXELS, name


def install_metadata(site: Path) -> None:
    """Write the entry points that `pip install -e .` would write, by which MLflow finds lakefs://."""
    content = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]
    info = site / f"{content['name'].replace('-', '_')}-{VERSION}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {content['name']}\nVersion: {VERSION}\n")
    lines = []
    for group, entries in content["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("by_run", [True, False], ids=["run", "champion"])
def test_old_model_predicts_as_it_did(recorded: Recorded, tmp_path: Path, by_run: bool) -> None:
    which = ("--run-id", recorded.run_id) if by_run else ()
    done = recorded.project.run("infer.py", *which, "--split", "train", "--output", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    require_same_masks(masks(tmp_path), masks(recorded.project.folder / "data/predictions"))


def test_old_run_is_reproduced_by_new_code(recorded: Recorded) -> None:
    project = recorded.project
    done = project.run("train.py", "--reproduce", recorded.run_id, "--tolerance", str(TOLERANCE))
    assert done.returncode == 0, done.stdout + done.stderr
    assert recorded.commit[:12] in done.stdout, "by the code that trained it"
    assert project.git("rev-parse", "HEAD^") == recorded.commit and not project.git("status", "--porcelain")


LOAD = """
import json, sys
import mlflow, numpy as np
from PIL import Image
images = [np.asarray(Image.open(path).convert("RGB")) for path in json.loads(sys.argv[2])]
print(json.dumps(mlflow.pyfunc.load_model(sys.argv[1]).predict(np.stack(images)).tolist()))
"""


@pytest.mark.parametrize("model", ["models", "models:/image-segmentation@champion"], ids=["folder", "registry"])
def test_old_model_loads_as_pyfunc(recorded: Recorded, tmp_path: Path, model: str) -> None:
    install_metadata(tmp_path)
    folder = recorded.project.folder
    expected = masks(folder / "data/predictions")
    environment = recorded.project.environment() | {
        "PYTHONPATH": f"{folder}{os.pathsep}{tmp_path}",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
    }
    done = subprocess.run(
        [sys.executable, "-c", LOAD, model, json.dumps([f"data/images/{name}" for name in expected])],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = np.array(json.loads(done.stdout.splitlines()[-1]))
    require_same_masks(dict(zip(expected, found, strict=True)), expected)


@pytest.mark.parametrize(
    "command",
    [
        ("lake.py", "status"),
        ("lake.py", "verify"),
        ("lake.py", "trace", "models/model.pth"),
        ("lake.py", "trace", "image-segmentation@champion"),
        ("lake.py", "trace", "data/predictions/predictions.json"),
        ("register_model.py", "--list"),
    ],
    ids=" ".join,
)
def test_old_record_is_whole_to_new_code(recorded: Recorded, command: tuple[str, ...]) -> None:
    done = recorded.project.run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    if command[0] == "register_model.py":
        assert "champion" in done.stdout, done.stdout


def test_old_lock_restores_data_and_model(recorded: Recorded) -> None:
    folder = recorded.project.folder
    model, image = folder / "models/model.pth", min((folder / "data/images").glob("*.png"))
    content = image.read_bytes()
    model.unlink()
    image.unlink()
    done = recorded.project.run("lake.py", "pull", "lock")
    assert done.returncode == 0, done.stdout + done.stderr
    assert hashlib.sha256(model.read_bytes()).hexdigest() == recorded.lock["model"]["sha256"]
    assert image.read_bytes() == content
