"""A colleague's clone: from `git clone` to a reproduced run, by the settings that the first error prints.

One training serves all tests; it is in Korean. The walkthrough runs in both languages, except `train.py --reproduce`,
which costs another training: here in English, in tests/workflow/test_tags.py in both.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.i18n import language_scope, tr
from tests.support import servers
from tests.support.data_directories import write_classes
from tests.support.languages import left_over
from tests.support.project import Project, finish, make_project
from tests.support.servers import Server
from versioning.lockfile import Lock, require_lock

AUTHOR = "김안나"
CAMVID = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
SIDES = (48, 64)  # height and width in pixels
SMALL = ("--epochs", "1", "--batch-size", "4", "--image-size", "32", "32")
SETTING = re.compile(r"(LAKEFS_LOCAL_DIR|MLFLOW_TRACKING_URI)=(.+?)(?= MLFLOW_TRACKING_URI=| \(|$)")


def make_streets(root: Path) -> None:
    """Write frames of two films as CamVid has them: 11 classes, 255 ignored, the splits as directories."""
    random = np.random.default_rng(0)
    rows = np.arange(SIDES[0])[:, None]
    for split, film, count in (("train", "0001TP", 12), ("val", "0016E5", 6)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for number in range(count):
            mask = np.broadcast_to(np.digitize(rows, [14, 28, 36]), SIDES).astype(np.uint8)
            mask = np.choose(mask, [0, 1, 3, 4]).astype(np.uint8)  # sky, building, road, pavement
            left = int(random.integers(0, SIDES[1] - 16))
            for index, value in enumerate((2, 5, 6, 7, 8, 9, 10, 255)):
                mask[20 + index % 4 * 5 :, left + 2 * index : left + 2 * index + 2] = value
            image = np.stack([mask % 16 * 16, mask % 4 * 60, mask % 3 * 80], 2) + random.integers(0, 9, (*SIDES, 3))
            name = f"{film}_{6690 + 30 * number:06d}.png"
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / split / "images" / name)
            Image.fromarray(mask).save(root / split / "masks" / name)
    ignored = {"id": 255, "name": "ignored", "ignore": True}
    write_classes(root, [*({"id": i, "name": name} for i, name in enumerate(CAMVID)), ignored])


@dataclass
class First:
    """The clone that trained and registered a model, with the lock that its Git history has."""

    project: Project
    lock: Lock

    @property
    def settings(self) -> dict[str, str]:
        """The settings with which another clone uses its store."""
        folder = self.project.folder
        return {"LAKEFS_LOCAL_DIR": f"{folder}/.lakefs", "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}

    def clone(self, folder: Path, language: str = "en") -> Project:
        """Clone its Git repository, as a colleague does."""
        subprocess.run(["git", "clone", "--quiet", str(self.project.folder), str(folder)], check=True)
        return Project(folder, {"APP_LANG": language})


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> First:
    project = make_project(tmp_path_factory.mktemp("team") / "first clone", images=0)
    project.env = {"APP_LANG": "ko"}
    make_streets(project.folder / "data")
    outputs = [succeed(project, "train.py", *SMALL)]
    project.git("add", "lakefs.lock")
    project.git("-c", f"user.name={AUTHOR}", "commit", "--quiet", "-F", "models/git_commit_message.txt")
    outputs += [succeed(project, "register_model.py", "--threshold", "0")]
    assert left_over("".join(outputs), "ko") == []
    return First(project, require_lock(project.folder))


def succeed(project: Project, script: str, *arguments: str) -> str:
    done = project.run(script, *arguments)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stdout + done.stderr
    return done.stdout + done.stderr


def refused(project: Project, lock: Lock) -> str:
    """Run the first command of a colleague without settings; return its one line."""
    before = files(project)
    done = project.run("lake.py", "pull", "lock")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stdout == "", done.stdout + done.stderr
    assert lock.data.ref[:12] in done.stderr and lock.model.ref[:12] in done.stderr, "what is missing"
    assert AUTHOR in done.stderr, "who has it"
    assert left_over(done.stderr.replace(AUTHOR, ""), project.env["APP_LANG"]) == []
    assert files(project) == before and project.git("status", "--porcelain") == ""
    return done.stderr


def files(project: Project) -> set[str]:
    """Return the files of a clone, except those of its own store, which Git ignores, and Git's."""
    found = (path.relative_to(project.folder) for path in project.folder.rglob("*"))
    return {path.as_posix() for path in found if path.parts[0] not in (".git", ".lakefs")}


@pytest.mark.parametrize("language", ["en", "ko"])
def test_colleague_reproduces_by_the_settings_that_the_error_prints(
    first: First, tmp_path: Path, language: str
) -> None:
    clone, lock = first.clone(tmp_path / "second clone", language), first.lock
    error = refused(clone, lock)
    clone.env |= {key: shlex.split(value)[0] for key, value in SETTING.findall(error)}
    assert clone.env == {"APP_LANG": language} | first.settings

    outputs = [succeed(clone, "lake.py", "pull", "lock"), succeed(clone, "lake.py", "status")]
    assert (clone.folder / "models/model.pth").read_bytes() == (first.project.folder / "models/model.pth").read_bytes()
    outputs.append(succeed(clone, "infer.py"))
    assert clone.predictions()["run_id"] == lock.run_id and "lakefs.lock" not in outputs[-1]
    outputs.append(succeed(clone, "lake.py", "trace", "champion"))
    with language_scope(language):
        assert tr("the code that trained it") in outputs[-1]
        if language == "en":
            outputs.append(succeed(clone, "train.py", "--reproduce", lock.run_id[:8]))
            assert tr("all metrics are bit-identical.") in outputs[-1]
    assert clone.git("status", "--porcelain") == "", "the lock still names the model that was reproduced"
    assert left_over("".join(outputs).replace("/second clone/", "/"), language) == []


@pytest.fixture(params=["embedded", "real"] if servers.real_available() else ["embedded"])
def new_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A lakeFS server without repositories: on that of the session, another test may have made the one of this name."""
    start = servers.embedded if request.param == "embedded" else servers.real
    with start(tmp_path_factory.mktemp("server")) as server:
        yield server


def test_colleague_uses_a_server_that_the_first_clone_was_copied_to(
    first: First, tmp_path: Path, new_server: Server
) -> None:
    """The other way of the error message; the second command of the colleague names a server that has no data yet."""
    names = ("lakefs_endpoint", "lakefs_access_key_id", "lakefs_secret_access_key", "lakefs_storage_namespace")
    server = {name.upper(): str(new_server.settings()[name]) for name in names}
    clone = first.clone(tmp_path / "clone", "ko")
    refused(clone, first.lock)
    clone.env |= server | {"MLFLOW_TRACKING_URI": f"sqlite:///{first.project.folder}/mlflow.db"}
    assert new_server.endpoint in refused(clone, first.lock)
    succeed(Project(first.project.folder, server), "lake.py", "push", "--to", new_server.endpoint)
    for command in (("lake.py", "pull", "lock"), ("lake.py", "status"), ("lake.py", "trace", "champion")):
        succeed(clone, *command)
    assert clone.git("status", "--porcelain") == "" and not (clone.folder / "data/images").exists()


def test_people_use_one_embedded_store_at_the_same_time(first: First, tmp_path: Path) -> None:
    """Train, push twice, register and pull in five processes: all succeed, and nothing is lost."""
    ann, ben, cho = (first.clone(tmp_path / name) for name in ("ann", "ben", "cho"))
    before = {run.info.run_id for run in first.project.runs()}
    for person, name in ((ann, "ann"), (ben, "ben")):
        person.env |= first.settings
        succeed(person, "lake.py", "pull", "lock")
        for kind in ("images", "masks"):
            source = next(iter(sorted((person.folder / "data/train" / kind).iterdir())))
            noise = np.asarray(Image.open(source)).copy()
            noise[0, 0] = len(name) + ord(name[0]) % 3  # the content of no other image
            Image.fromarray(noise).save(person.folder / "data/train" / kind / f"{name}.png")
    cho.env |= first.settings
    started = [
        ann.start("lake.py", "push", "--keep-remote", "-m", "ann"),
        ben.start("lake.py", "push", "--keep-remote", "-m", "ben"),
        first.project.start("train.py", *SMALL, "--seed", "1", "--data-ref", "lock"),
        cho.start("register_model.py", "--run-id", first.lock.run_id, "--force", "again"),
        cho.start("lake.py", "pull", "lock"),
    ]
    outcomes = []
    for process in started:
        code, output = finish(process)
        outcomes.append((code, output))
    assert all(code == 0 and "Traceback" not in output for code, output in outcomes), outcomes
    (trained,) = {run.info.run_id for run in first.project.runs()} - before
    assert first.project.mlflow().get_run(trained).info.status == "FINISHED"
    succeed(cho, "lake.py", "verify")
    succeed(cho, "lake.py", "pull", "main")
    found = {path.stem for path in (cho.folder / "data/train/images").iterdir()}
    assert {"ann", "ben"} < found and len(found) == 14
