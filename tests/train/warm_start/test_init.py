"""train.py --init: what is taken over from the model, what is recorded of it, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch

from config import Settings
from core.errors import AppError, UsageError
from core.hashing import file_sha256
from dataset.validation import check_data
from segmentation.model import Model
from segmentation.model_file import load_model
from tests.support.lifecycle import NAME
from tests.support.models import CPU
from tests.support.project import SOURCE, Project, make_project
from tests.support.tampering import changed_cell, flipped_bit
from train.folds import start
from train.warm_start.initial import InitialModel
from train.warm_start.load import load_initial
from train.warm_start.resolve import resolve_initial
from utils import mlflow_utils
from utils.lakefs_client.download import Downloader
from utils.lakefs_utils import LakePath, connect
from utils.lineage import INIT_KEYS
from versioning.provenance.ancestors import ancestors

OPTIONS = ("--epochs", "2", "--batch-size", "4")
WARM = (*OPTIONS, "--init", "champion")
STEPS = 12  # of these trainings


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a champion, and a run that started from it and was not interrupted."""
    project = make_project(tmp_path_factory.mktemp("init"), images=24)
    (project.folder / "tests/support").mkdir(parents=True)
    shutil.copy(SOURCE / "tests/support/kill_training.py", project.folder / "tests/support/kill_training.py")
    for script, *options in (
        ("train.py", *OPTIONS, "--image-size", "48", "48"),
        ("register_model.py",),
        ("train.py", *WARM),
    ):
        done = project.run(script, *options, env={"REGISTER_THRESHOLD": "0"})
        assert done.returncode == 0, done.stdout + done.stderr
    (project.folder / "warm.txt").write_text(done.stdout + done.stderr)
    return project


@pytest.fixture(scope="module")
def champion(project: Project) -> dict[str, str]:
    """Tags of the version that the others start from."""
    return dict(project.mlflow().get_model_version_by_alias(NAME, "champion").tags)


@pytest.fixture(scope="module")
def warm(project: Project, champion: dict[str, str]) -> str:
    """ID of the run that started from the champion."""
    started = (run for run in project.runs() if run.data.params.get("init_run_id") == champion["run_id"])
    return str(next(started).info.run_id)


def settings_of(project: Project, **changes: object) -> Settings:
    folder = project.folder
    settings = Settings(
        mlflow_tracking_uri=f"sqlite:///{folder / 'mlflow.db'}",
        lakefs_local_dir=folder / ".lakefs",
        data_dir=folder / "data",
        model_path=folder / "models/model.pth",
        device="cpu",
    )
    return dataclasses.replace(settings, **changes)  # type: ignore[arg-type]


def resolved(project: Project, **changes: object) -> tuple[Settings, InitialModel]:
    settings = settings_of(project, **changes)
    with connect(settings) as lake:
        settings, initial = resolve_initial(settings, lake)
    assert isinstance(initial, InitialModel)
    return settings, initial


def model_of(project: Project, run_id: str) -> Model:
    run, settings = project.mlflow().get_run(run_id), settings_of(project)
    with connect(settings) as lake:
        path = LakePath.parse_recorded(run.data.params["lakefs_model_path"])
        file = lake.verified_file(path, run.data.tags["model_sha256"], settings.cache_dir)
    return load_model(file, run.data.tags["model_sha256"], CPU)


# --- records ----------------------------------------------------------------------------------------------------------


def test_run_commit_and_model_file_name_the_champion_that_was_started_from(
    project: Project, champion: dict[str, str], warm: str
) -> None:
    expected = {
        "init": champion["lakefs_model_path"],
        "init_sha256": champion["model_sha256"],
        "init_run_id": champion["run_id"],
        "init_data_path": champion["lakefs_data_path"],
    }
    run = project.mlflow().get_run(warm)
    assert {key: run.data.params[key] for key in INIT_KEYS} == expected
    model, settings = model_of(project, warm), settings_of(project)
    assert {key: model.lineage[key] for key in INIT_KEYS} == expected
    with connect(settings) as lake:
        path = LakePath.parse_recorded(run.data.params["lakefs_model_path"])
        metadata = lake.commit_metadata(path.ref, path.repo)
        (parent,) = ancestors(lake, path)
    assert {key: metadata[key] for key in INIT_KEYS} == expected
    assert (parent.reference, str(parent.data_path)) == (expected["init"], expected["init_data_path"])
    assert champion["model_sha256"] in run.data.tags["mlflow.note.content"]


def test_network_input_size_and_normalisation_are_those_of_the_champion(
    project: Project, champion: dict[str, str], warm: str
) -> None:
    parent, child = model_of(project, champion["run_id"]), model_of(project, warm)
    assert child.architecture == parent.architecture == "compact_fpn"
    assert (child.input_size, child.normalisation) == (parent.input_size, parent.normalisation)
    text = (project.folder / "warm.txt").read_text()
    assert "input size: 48 48 (that of the initial model)" in text
    assert "peak learning rate: 0.001 (a third of that from scratch: more destroys what is known)" in text
    assert f"initial model: {champion['lakefs_model_path']} (run {champion['run_id']}" in text


def test_every_name_of_a_model_means_the_same_file(project: Project, champion: dict[str, str]) -> None:
    path = champion["lakefs_model_path"]
    file = project.folder / "copy.pth"
    with connect(settings_of(project)) as lake:
        shutil.copy(
            lake.verified_file(LakePath.parse(path), champion["model_sha256"], settings_of(project).cache_dir),
            file,
        )
    names = ("champion", f"models:/{NAME}@champion", f"models:/{NAME}/1", champion["run_id"][:8], "1", path, str(file))
    found = {name: resolved(project, init=name) for name in names}
    assert {(settings.init, settings.init_sha256) for settings, _ in found.values()} == {
        (path, champion["model_sha256"])
    }
    assert {initial.run_id for _, initial in found.values()} == {champion["run_id"]}


def trace(project: Project, target: str) -> tuple[int, list[dict[str, object]]]:
    """Return the exit code of `lake.py trace`, and the links of initial models in its chain."""
    done = project.run("lake.py", "trace", target, "--json")
    links = json.loads(done.stdout)["chains"][0]
    return done.returncode, [link for link in links if link["kind"] == "initial model"]


def test_trace_follows_the_champion_and_verifies_its_file(
    project: Project, champion: dict[str, str], warm: str
) -> None:
    code, (link,) = trace(project, warm)
    assert code == 0 and link["ok"] and link["name"] == champion["lakefs_model_path"]
    with changed_cell(
        project.folder / "mlflow.db", "params.value", lambda _: "0" * 64, key="init_sha256", run_uuid=warm
    ):
        code, (link,) = trace(project, warm)
    assert code == 1 and "SHA-256 expected 0000" in str(link["faults"])
    with flipped_bit(project.folder / ".lakefs/content" / champion["model_sha256"]):
        code, (link,) = trace(project, warm)
    assert code == 1 and f"SHA-256 expected {champion['model_sha256']}" in str(link["faults"])


def test_model_that_was_tampered_with_in_lakefs_starts_nothing(
    project: Project, champion: dict[str, str], warm: str
) -> None:
    before = len(project.runs())
    cache = settings_of(project).cache_dir
    cache.rename(cache.with_name("aside"))
    try:
        with flipped_bit(project.folder / ".lakefs/content" / champion["model_sha256"]):
            started, reproduced = project.run("train.py", *WARM), project.run("train.py", "--reproduce", warm)
    finally:
        shutil.rmtree(cache, ignore_errors=True)
        cache.with_name("aside").rename(cache)
    assert started.returncode == 1 and reproduced.returncode == 2
    assert "what it started from cannot be used" in reproduced.stderr
    for done in (started, reproduced):
        assert "Traceback" not in done.stderr and champion["lakefs_model_path"] in done.stderr, done.stderr
    assert len(project.runs()) == before


def test_reproduction_of_a_warm_start_is_bit_identical(project: Project, warm: str) -> None:
    done = project.run("train.py", "--reproduce", warm)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all metrics are bit-identical." in done.stdout and "initial model: lakefs://" in done.stdout + done.stderr


@pytest.mark.parametrize("seed", range(int(os.environ.get("TEST_KILLS", "1"))))
def test_warm_start_that_is_killed_resumes_bit_identically(project: Project, warm: str, seed: int) -> None:
    before = {run.info.run_id for run in project.runs()}
    step = str(random.Random(seed).randrange(1, STEPS + 1))
    killed = project.run("-m", "tests.support.kill_training", "train_step", step, *WARM)
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    done = project.run("train.py", "--resume", "last", env={"CHECKPOINT_MINUTES": "0.0000001"})
    assert done.returncode == 0, done.stdout + done.stderr
    (run_id,) = {run.info.run_id for run in project.runs()} - before
    resumed, whole = (project.mlflow().get_run(key).data for key in (run_id, warm))
    assert all(resumed.params[key] == whole.params[key] for key in INIT_KEYS)
    states = [model_of(project, key).network.state_dict() for key in (run_id, warm)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


# --- other classes and bands ------------------------------------------------------------------------------------------


def test_new_data_with_other_classes_keeps_the_rows_of_known_names(
    project: Project, champion: dict[str, str], warm: str, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(project.folder / "data", data)
    listed = json.loads((data / "classes.json").read_text())
    names = [entry["name"] for entry in listed]
    renamed = [*names[1:-1], "bus", names[0]]  # in another order, one that is new, and without the last one
    for entry, name in zip(listed, renamed, strict=True):
        entry["name"] = name
    (data / "classes.json").write_text(json.dumps(listed))
    done = project.run("train.py", *OPTIONS, "--init", warm[:8], "--lr", "1e-9", "--data-dir", str(data), "--replace")
    assert done.returncode == 0, done.stdout + done.stderr
    kept = ", ".join(name for name in renamed if name in names)
    assert (
        f"classes of the initial model: kept {kept}; new bus; no longer predicted {names[-1]}"
        in done.stderr + done.stdout
    )
    run_id = project.runs()[0].info.run_id
    parent, child = model_of(project, warm), model_of(project, run_id)
    rows, own = parent.network.state_dict()["head.weight"], child.network.state_dict()["head.weight"]
    for row, name in enumerate(renamed):
        if name in names:
            assert torch.allclose(own[row], rows[names.index(name)], atol=1e-5)
    code, links = trace(project, run_id)
    assert code == 0 and [link["ok"] for link in links] == [True, True], "the parent, and the champion before it"
    assert links[1]["name"] == champion["lakefs_model_path"]


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--init", "champion", "--model", "compact_unet"),
            r"do not fit compact_unet: tensor \S+: expected .*leave out --model",
        ),
        (("--init", "champion", "--pretrained"), "--pretrained cannot be used with --init"),
        (("--init", "chmpion"), r"'chmpion' is not a model: did you mean champion\?"),
        (("--init", "no.pth"), r"no\.pth: no such file"),
        (("--model", "lite_fpn", "--pretrained", "no.pth"), r"--pretrained .*no\.pth: No such file or directory"),
        (("--init", "package:nothing"), r"expected the installed package nothing, found none"),
        (("--init", "champion", "--resume", "last"), r"--init"),
        (("--init", "champion", "--audit-labels"), r"--init"),
    ],
)
def test_what_cannot_be_started_from_is_refused_in_one_line(
    project: Project, options: tuple[str, ...], message: str
) -> None:
    before = len(project.runs())
    done = project.run("train.py", *options)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert re.search(message, done.stderr) and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert len(project.runs()) == before


def test_damaged_model_file_is_not_opened(project: Project, tmp_path: Path) -> None:
    content = (project.folder / "models/model.pth").read_bytes()
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(content[: len(content) // 2])
    with pytest.raises(AppError, match=r"damaged\.pth: not a model file of this project"):
        resolved(project, init=str(damaged))
    damaged.write_bytes(content)
    with pytest.raises(UsageError, match="but INIT_SHA256 is 0000"):
        resolved(project, init=str(damaged), init_sha256="0" * 64)


def test_file_that_changed_since_its_record_is_not_loaded(
    project: Project, champion: dict[str, str], tmp_path: Path
) -> None:
    stray = tmp_path / "stray.pth"
    stray.write_bytes((project.folder / "models/model.pth").read_bytes())
    sha256 = file_sha256(stray)
    stray.write_bytes(stray.read_bytes() + b" ")
    settings = settings_of(project, init=str(stray), init_sha256=sha256, lakefs_local_dir=project.folder / ".lakefs")
    with connect(settings) as lake:
        with pytest.raises(AppError, match="SHA-256 differs from its record"):
            load_initial(settings, lake)
        other = dataclasses.replace(settings, init=champion["lakefs_model_path"], init_sha256="0" * 64)
        with pytest.raises(AppError, match="SHA-256 differs from its record"):
            load_initial(other, lake)
        gone = dataclasses.replace(settings, init=champion["lakefs_model_path"].replace("model.pth", "no.pth"))
        with pytest.raises(AppError, match="no such file"):
            load_initial(gone, lake)


def refuse(*_: object, **__: object) -> None:
    raise AppError("the server does not answer")


@pytest.mark.parametrize(("owner", "method"), [(Downloader, "verified_file"), (mlflow_utils, "get_run")])
def test_server_that_does_not_answer_is_not_a_missing_record(
    project: Project, monkeypatch: pytest.MonkeyPatch, owner: object, method: str
) -> None:
    monkeypatch.setattr(owner, method, refuse)
    with pytest.raises(AppError, match="does not answer"):
        resolved(project, init=str(project.folder / "models/model.pth"))


def test_folds_refuse_seen_images_also_where_other_data_is_unknown(
    project: Project, warm: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, initial = resolved(project, init=warm, folds=3)
    data = check_data(settings.data_dir, settings.seed)
    nowhere = LakePath.parse_recorded(initial.data_path.replace(LakePath.parse(initial.data_path).ref, "f" * 64))
    foreign = dataclasses.replace(initial, data_path=str(nowhere))
    with connect(settings) as lake:
        with pytest.raises(UsageError, match="has images that the folds hold out"):  # those of the champion
            start.divide_unseen(settings, lake, data, foreign, store=False)
        start.divide_unseen(settings, lake, data, dataclasses.replace(foreign, reference="elsewhere.pth"), store=False)
        assert "the training images of elsewhere.pth are not known here" in capsys.readouterr().err
        monkeypatch.setattr(lake, "objects", refuse)
        with pytest.raises(AppError, match="does not answer"):
            start.divide_unseen(settings, lake, data, foreign, store=False)
