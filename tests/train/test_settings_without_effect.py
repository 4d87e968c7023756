"""Settings that do nothing without another one: a run would record them as if they had been used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from config import Settings
from core.errors import UsageError
from tests.support.project import Project, make_project
from train import setup
from train.jobs.request import check_partners, check_request

SHA256 = "a" * 64
SWEEP = "trials: 1\nsettings: {epochs: 1, %s}\nspace: {%s}\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("partners"), images=8)


def refused(project: Project, *options: str, env: Mapping[str, str] | None = None) -> str:
    """Return the line that refuses a command, which must leave nothing behind."""
    done = project.run("train.py", *options, env=env)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stdout + done.stderr
    assert not (project.folder / "mlflow.db").exists() and not (project.folder / "models").exists()
    return done.stderr


@pytest.mark.parametrize(
    ("env", "options", "text"),
    [
        ({"WEIGHTS": "w.pth"}, (), "WEIGHTS='w.pth': has no effect without PRETRAINED"),
        ({"WEIGHTS": "w.pth", "INIT": "champion"}, (), "WEIGHTS='w.pth': has no effect without PRETRAINED"),
        ({"WEIGHTS": "w.pth", "PRETRAINED": "false"}, ("--overfit", "2"), "has no effect without PRETRAINED"),
        ({"PRETRAINED_SHA256": SHA256}, (), "has no effect without PRETRAINED or INIT"),
        ({"INIT_SHA256": SHA256}, ("--smoke",), f"INIT_SHA256='{SHA256}': has no effect without INIT"),
        ({"LOSS": "dice"}, ("--class-weights", "1 2 3 4"), "--class-weights '1 2 3 4': have no effect with LOSS=dice"),
        (
            {"CLASS_WEIGHTS": "1 2 3 4"},
            ("--loss", "lovasz"),
            "CLASS_WEIGHTS='1 2 3 4': have no effect with LOSS=lovasz",
        ),
    ],
)
def test_a_setting_without_effect_is_refused(
    project: Project, env: dict[str, str], options: tuple[str, ...], text: str
) -> None:
    assert text in refused(project, *options, env=env)


def test_the_line_of_env_is_named(project: Project) -> None:
    file = project.folder / ".env"
    file.write_text(f"SEED=1\nINIT_SHA256={SHA256}\n")
    assert f".env, line 2: INIT_SHA256={SHA256}: has no effect" in refused(project)
    file.unlink()


def test_published_weights_of_a_hash_are_not_those_of_a_model(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", images=8)
    assert project.run("train.py", "--smoke", "--image-size", "32", "32").returncode == 0
    before = len(project.runs())
    done = project.run("train.py", "--init", project.runs()[0].info.run_id, env={"PRETRAINED_SHA256": SHA256})
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stdout + done.stderr
    assert f"PRETRAINED_SHA256='{SHA256}': has no effect on --init" in done.stderr and len(project.runs()) == before


@pytest.mark.parametrize(
    ("fixed", "space", "text"),
    [
        ("init_sha256: " + SHA256, "ema: [0.02, 0.1]", "has no effect without INIT"),
        ("loss: dice, class_weights: 1 2 3 4", "ema: [0.02, 0.1]", "have no effect with LOSS=dice"),
        (
            "seed: 1",
            "ema: [0.02, 0.1]}\npruner: {type: median, factor: 3",
            "line 4: pruner.factor: has no effect on the",
        ),
        ("seed: 1", "ema: [0.02, 0.1]}\npruner: {min_epochs: 3", "pruner.min_epochs: has no effect on the pruner none"),
    ],
)
def test_a_sweep_refuses_them_too(project: Project, fixed: str, space: str, text: str) -> None:
    pytest.importorskip("optuna")
    (project.folder / "sweep.yaml").write_text(SWEEP % (fixed, space))
    assert text in refused(project, "--sweep", "sweep.yaml")


def test_a_sweep_may_vary_the_other_setting() -> None:
    check_partners(Settings(pretrained_sha256=SHA256), {"pretrained"})
    check_partners(Settings(class_weights="1 2", loss="dice"), {"loss"})


@pytest.mark.parametrize("count", [1, 2])
def test_batch_normalization_is_synchronized_between_several_processes(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "choose_device", lambda _: torch.device("cuda"))
    monkeypatch.setenv("WORLD_SIZE", str(count))
    settings = Settings(sync_batchnorm=True)
    check_request(settings)
    if count == 2:
        check_partners(settings)
    else:
        with pytest.raises(UsageError, match="SYNC_BATCHNORM=True: has no effect on one process"):
            check_partners(settings)
