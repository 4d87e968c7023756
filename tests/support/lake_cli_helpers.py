"""Helpers of the tests that use `lake.py` and `train.py` in a copy of the project."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tests.support.project import Project
from versioning.base import REF_FILE

REPO = "image-segmentation-local-repo"


def run_lake(project: Project, *arguments: str, code: int = 0) -> str:
    """Run `lake.py`, check its exit code, and return the output of both streams."""
    done = project.run("lake.py", *arguments)
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def run_train(project: Project, *arguments: str) -> str:
    done = project.run("train.py", "--batch-size", "4", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def read_data(project: Project) -> dict[str, bytes]:
    """Return the files of data/ without the record of the version that they come from."""
    root = project.folder / "data"
    files = (path for path in root.rglob("*") if path.is_file() and path.name != REF_FILE)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def paint_mask(project: Project, value: int, pixels: int = 10) -> str:
    """Draw a square of one class into the first mask; return its path below data/."""
    mask = min((project.folder / "data/masks").glob("*.png"))
    with Image.open(mask) as image:
        values, palette = np.array(image), image.getpalette()
    values[:pixels, :pixels] = value
    changed = Image.fromarray(values).convert("P")
    changed.putpalette(palette or [])
    changed.save(mask)
    return f"masks/{mask.name}"


def commit_id(output: str) -> str:
    return output.split("data commit: ")[1].split(maxsplit=1)[0]
