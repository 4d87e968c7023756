"""A student with 20 photos: check, train, register, train longer, register, with the commands that the scripts print.

The languages take turns: the first training and its registration are in Korean, the longer one in English. The data
check and the refusals, which are cheap and change nothing, run in both, and print the same commands.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.languages import left_over
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


def run(project: Project, script: str, *arguments: str, language: str, stored_in: str | None = None) -> tuple[int, str]:
    """Run a script; return its exit code and its output, which is all in one language.

    The warnings of a data check stay with the model, in the language that it was trained in: with `stored_in`, only the
    other lines are compared.
    """
    done = project.run(script, *arguments, env={"APP_LANG": language})
    output = done.stdout + done.stderr
    lines = [line for line in output.splitlines(keepends=True) if stored_in is None or "--accept-warnings" not in line]
    assert left_over("".join(lines), language) == [], output
    return done.returncode, output


def printed(outcome: tuple[int, str]) -> list[str]:
    """Return the command that promotes a model all the same, which a refusal prints."""
    code, output = outcome
    found = COMMAND.search(output)
    assert code == 3 and found is not None, output
    return shlex.split(found[1])


def test_twenty_photos_reach_a_second_champion_by_the_printed_commands(project: Project) -> None:
    for language, promised in (
        ("ko", "그룹 2개"),
        ("en", "images in val: 2, groups among them: 2; register_model.py needs 3"),
    ):
        code, check = run(project, "train.py", "--check-only", language=language)
        assert code == 0 and promised in check and "--accept-warnings" in check, check

    code, trained = run(project, "train.py", "--epochs", "8", language="ko")
    assert code == 0 and "배치 크기: 4 (" in trained, trained
    refused = run(project, "register_model.py", "--threshold", "0.1", language="ko")
    command = printed(refused)
    assert command[-3:] == ["--threshold", "0.1", "--accept-warnings"]
    assert command == printed(run(project, *command[:-1], language="en", stored_in="ko"))
    code, output = run(project, *command, language="ko")
    assert code == 0 and aliases(project)["champion"] == "1", output

    code, longer = run(project, "train.py", language="en")
    assert code == 0, longer
    assert "batch size: 4 (a quarter of the training images, 16, at most)" in longer
    assert "needs 3 to tell a better model from chance" in longer, "as the check has said"
    assert "epochs: 63 (about 250 steps; 16 training images in batches of 4)" in longer
    refused = run(project, "register_model.py", language="en")  # reaches the default threshold
    assert "images: 2, groups: 2 (" in refused[1] and aliases(project)["champion"] == "1"
    command = printed(refused)
    assert command == printed(run(project, *command[:3], language="ko", stored_in="en"))
    assert command[-3:] == ["--accept-warnings", "--confidence", "0"]
    code, output = run(project, *command, language="en")
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
    given, rest = page.split("<h3>이 실행에서 지정한 설정</h3>")[1].split("<details")
    assert "epochs" in given and "batch_size" not in given and "batch_size" in rest and "None" not in rest
    assert (folder / "preview.jpg").stat().st_size > 0
