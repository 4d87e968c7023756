"""20 photos with folds: train, register, label 5 more, start from the champion, register: the second becomes champion.

No command needs --force, --accept-warnings or --confidence 0. The first training is in Korean, the second in English.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.project import Project, make_project
from utils.ensemble_file import read_ensemble

SIDE = 32  # pixels
MORE = 22  # of 25 photos: three are in test
TRAIN = ("--folds", "3", "--batch-size", "4")


def make_photos(root: Path, numbers: range) -> None:
    """Write photos of one object each on a noisy background: dark ones, and from number 20 on bright ones."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "masks").mkdir(exist_ok=True)
    for number in numbers:
        random = np.random.default_rng(number)
        rows, columns = np.ogrid[:SIDE, :SIDE]
        y, x = random.integers(8, SIDE - 8, 2)
        mask = ((rows - y) ** 2 + (columns - x) ** 2 < random.integers(6, 9) ** 2).astype(np.uint8)
        shade = np.where(mask, 40 if number < 20 else 230, 130)[..., None] + random.normal(0, 25, (SIDE, SIDE, 3))
        Image.fromarray(shade.clip(0, 255).astype(np.uint8)).save(root / f"images/photo{number:02d}.png")
        Image.fromarray(mask).save(root / f"masks/photo{number:02d}.png")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("photos")
    make_photos(folder / "photos", range(20))
    project = make_project(folder / "project", images=0)
    project.env = {"REGISTER_ACCEPT_WARNINGS": "", "DEVICE": "cpu", "DATA_DIR": str(folder / "photos")}
    return project


def run(project: Project, script: str, *arguments: str, language: str, expected: int = 0) -> str:
    """Run a script; return its output."""
    done = project.run(script, *arguments, env={"APP_LANG": language})
    output = done.stdout + done.stderr
    assert done.returncode == expected, output
    return output


def champion(project: Project) -> tuple[str, dict[str, Any]]:
    """Return the number of the champion and its verdict."""
    number = str(project.mlflow().get_registered_model("image-segmentation").aliases["champion"])
    version = project.mlflow().get_model_version("image-segmentation", number)
    return number, json.loads(version.tags["gate"])


def test_a_second_model_of_twenty_photos_becomes_champion_by_plain_commands(project: Project) -> None:
    photos = Path(project.env["DATA_DIR"])
    run(project, "train.py", *TRAIN, "--epochs", "1", language="ko")
    run(project, "register_model.py", language="ko")
    number, verdict = champion(project)
    assert (number, verdict["split"], verdict["pictures"]) == ("1", "train+val", 18), "test has the other two"
    held_out = [set(member.held_out) for member in read_ensemble(project.folder / "models/ensemble.json").members]
    assert sum(map(len, held_out)) == len(set.union(*held_out)) == 18

    make_photos(photos, range(20, 25))
    run(project, "train.py", *TRAIN, "--init", "champion", "--epochs", "12", language="en")
    now = [set(member.held_out) for member in read_ensemble(project.folder / "models/ensemble.json").members]
    assert all(before <= after for before, after in zip(held_out, now, strict=True)) and len(set.union(*now)) == MORE
    output = run(project, "register_model.py", language="en")
    number, verdict = champion(project)
    assert (number, verdict["against"], verdict["compared"], verdict["reasons"]) == ("2", "1", MORE, []), output
    assert verdict["interval"][0] > 0 and "forced" not in verdict and "accepted" not in verdict

    assert f"on the same {MORE} images of train+val (groups: {MORE})" in output

    run(project, "train.py", *TRAIN, "--epochs", "1", language="en")
    refused = run(project, "register_model.py", language="en", expected=3)
    assert "Not promoted because:" in refused and "needed more than 0" in refused
    assert champion(project)[0] == "2", "trained too little, it is worse"

    listed = run(project, "register_model.py", "--list", language="en")
    assert listed.count("fold ") >= 9, "the folds are shown under their versions"
