"""train.py --folds --init: what any model of the chain was trained on is not held out by a fold that started from it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from core.hashing import file_sha256
from dataset.sources.synthetic import generate_sample
from tests.support.project import Project, make_project
from tests.train.test_folds import newest_parent
from utils.ensemble_file import read_ensemble

OPTIONS = ("--smoke", "--batch-size", "4", "--image-size", "32", "32")
FOLDS = (*OPTIONS, "--folds", "2")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project whose data is made by `data`."""
    project = make_project(tmp_path / "first", images=6)
    for seed, name in enumerate("abc", 1):
        generate_sample(tmp_path / name, seed=seed, count=6)
    return project


def use(project: Project, *sets: str) -> None:
    """Make the data directory of these sets of images."""
    data = project.folder / "data"
    shutil.rmtree(data)
    for name in sets:
        source = project.folder.parent / name
        for file in (path for kind in ("images", "masks") for path in (source / kind).iterdir()):
            target = data / file.parent.name / f"{name}{file.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
        shutil.copy(source / "classes.json", data)


def train(project: Project, *options: str) -> str:
    """Train with these options; return the ID of the run."""
    done = project.run("train.py", "--replace", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(newest_parent(project).info.run_id)


def held_out_sets(project: Project) -> list[set[str]]:
    """Return the image files of each fold of the newest ensemble."""
    names = {file_sha256(path): path.stem for path in (project.folder / "data/images").iterdir()}
    return [
        {names[sha256] for sha256 in member.held_out if sha256 in names}
        for member in read_ensemble(project.folder / "models/ensemble.json").members
    ]


def test_images_of_the_model_that_an_ensemble_started_from_are_not_held_out(project: Project) -> None:
    use(project, "a")
    single = train(project, *OPTIONS)
    use(project, "b")
    ensemble = train(project, *FOLDS, "--init", single)
    use(project, "b", "c")
    further = train(project, *FOLDS, "--init", ensemble)
    use(project, "a", "b", "c")
    for parent in (ensemble, further):
        done = project.run("train.py", "--replace", *FOLDS, "--init", parent)
        assert done.returncode == 2 and "has images that the folds hold out (" in done.stderr, done.stdout + done.stderr
        path = project.mlflow().get_run(single).data.params["lakefs_data_path"]
        assert path in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert newest_parent(project).info.run_id == further, "refused before a run is started"


def test_images_stay_in_the_fold_of_the_ensemble_that_an_ensemble_started_from(project: Project) -> None:
    use(project, "a")
    first = train(project, *FOLDS)
    before = held_out_sets(project)
    use(project, "b", "c")
    second = train(project, *FOLDS, "--init", first, "--seed", "3")
    use(project, "a", "b", "c")
    train(project, *FOLDS, "--init", second, "--seed", "7")
    after = held_out_sets(project)
    assert [{name for name in fold if name.startswith("a")} for fold in after] == before


def test_a_chain_that_cannot_be_read_is_said(project: Project, tmp_path: Path) -> None:
    """The files of an ensemble are taken along to another store: nothing there says what it had started from."""
    use(project, "a")
    train(project, *FOLDS)
    shutil.copytree(project.folder / "models", tmp_path / "taken")
    other = make_project(tmp_path / "other", images=6)
    done = other.run("train.py", *FOLDS, "--init", str(tmp_path / "taken/ensemble.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the training images of fold 1 of run" in done.stderr and "are not known here" in done.stderr
