"""A student with 20 photos: check, train, register, train longer, register, with the commands that the scripts print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.project import Project, make_project

SIDE = 32  # pixels
COMMAND = re.compile(r"python (register_model\.py --run-id .+)$", re.MULTILINE)


def make_photos(root: Path, count: int = 20) -> None:
    """Write photos of one dark object each on a bright, noisy background."""
    random = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for number in range(count):
        rows, columns = np.ogrid[:SIDE, :SIDE]
        y, x = random.integers(8, SIDE - 8, 2)
        mask = ((rows - y) ** 2 + (columns - x) ** 2 < random.integers(4, 8) ** 2).astype(np.uint8)
        shade = np.where(mask, 90, 150)[..., None] + random.normal(0, 40, (SIDE, SIDE, 3))
        Image.fromarray(shade.clip(0, 255).astype(np.uint8)).save(root / f"images/photo{number:02d}.png")
        Image.fromarray(mask).save(root / f"masks/photo{number:02d}.png")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project beside a directory of 20 photos, with the settings that a student has: none."""
    folder = tmp_path_factory.mktemp("photos")
    make_photos(folder / "photos")
    project = make_project(folder / "project", images=0)
    project.env = {"REGISTER_ACCEPT_WARNINGS": "", "DEVICE": "cpu", "DATA_DIR": str(folder / "photos")}
    return project


def aliases(project: Project) -> dict[str, str]:
    found = project.mlflow().get_registered_model("image-segmentation").aliases
    return {alias: str(number) for alias, number in found.items()}


def register(project: Project, *arguments: str, language: str = "en") -> tuple[int, str]:
    done = project.run("register_model.py", *arguments, env={"APP_LANG": language})
    return done.returncode, done.stdout + done.stderr


def test_twenty_photos_reach_a_second_champion_by_the_printed_commands(project: Project) -> None:
    check = project.run("train.py", "--check-only")
    assert check.returncode == 0, check.stderr
    assert "images in val: 2, groups among them: 2; register_model.py needs 3" in check.stdout
    assert "register_model.py makes a champion only with --accept-warnings" in check.stdout

    trained = project.run("train.py", "--epochs", "8")
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "batch size: 4 (a quarter of the training images, 16, at most)" in trained.stdout
    assert "needs 3 to tell a better model from chance" in trained.stdout, "as the check has said"
    code, output = register(project, "--threshold", "0.1")
    command = COMMAND.search(output)
    assert code == 3 and command is not None and command[1].endswith("--threshold 0.1 --accept-warnings"), output
    code, output = register(project, *shlex.split(command[1])[1:])
    assert code == 0 and aliases(project)["champion"] == "1", output

    longer = project.run("train.py")
    assert longer.returncode == 0, longer.stdout + longer.stderr
    assert "epochs: 63 (about 250 steps; 16 training images in batches of 4)" in longer.stdout
    code, output = register(project)  # reaches the default threshold
    english = COMMAND.search(output)
    assert code == 3 and english is not None, output
    assert "images: 2, groups: 2 (" in output and aliases(project)["champion"] == "1"
    run_id = shlex.split(english[1])[2]
    code, output = register(project, "--run-id", run_id, language="ko")
    korean = COMMAND.search(output)
    assert code == 3 and korean is not None and korean[1] == english[1], output
    assert korean[1].endswith("--accept-warnings --confidence 0")
    code, output = register(project, *shlex.split(korean[1])[1:], language="ko")
    assert code == 0 and aliases(project)["champion"] == "2", output


def test_the_record_of_a_run_has_the_values_that_were_used(project: Project) -> None:
    """After the walkthrough above: its first run set the epochs, and nothing else of the training."""
    run = project.runs()[-1]
    params, tags = run.data.params, run.data.tags
    assert (params["epochs"], params["batch_size"], params["learning_rate"]) == ("8", "4", "0.003")
    assert (params["augmentation"], params["precision"], params["device"]) == ("light", "float32", "cpu")
    assert params["image_size"] == "32 32" and "None" not in params.values() and "auto" not in params.values()
    assert set(tags["settings_given"].split()) == {"epochs", "device", "data_dir"} | ({"app_lang"} & set(params))
    folder = project.folder / "models" / run.info.run_id
    page = (folder / "report.html").read_text(encoding="utf-8")
    given, rest = page.split("<h3>Set for this run</h3>")[1].split("<details")
    assert "epochs" in given and "batch_size" not in given and "batch_size" in rest and "None" not in rest
    assert (folder / "preview.jpg").stat().st_size > 0
