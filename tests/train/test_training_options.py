"""Options of train.py that other tests do not give to the script: each has the effect that its help names, and is recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.project import Project, make_project

TRAINING = ("--epochs", "6", "--batch-size", "4", "--image-size", "32", "32", "--lr", "0.01")
ENCODER = "test_resnet.r160_in1k"  # of timm, for tests: 0.5 M parameters


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("options"), images=30)


def trained(project: Project, *options: str) -> Any:
    """Train, and return the run."""
    done = project.run("train.py", *TRAINING, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return project.runs()[0]


@pytest.fixture(scope="module")
def plain(project: Project) -> Any:
    return trained(project)


@pytest.mark.parametrize(
    ("option", "value", "name"),
    [
        ("--clip-norm", "1e-12", "clip_norm"),  # nearly nothing of each gradient is left
        ("--accumulate", "100", "accumulate"),  # one optimizer step for each epoch: at its end
    ],
)
def test_option_that_slows_the_learning_does(project: Project, plain: Any, option: str, value: str, name: str) -> None:
    run = trained(project, option, value)
    assert float(run.data.params[name]) == float(value) != float(plain.data.params[name])
    assert run.data.metrics["train_loss"] > 1.15 * plain.data.metrics["train_loss"]


def test_any_encoder_of_timm_is_trained_registered_and_applied(project: Project) -> None:
    pytest.importorskip("timm")
    model = f"fpn/{ENCODER}"
    run = trained(project, "--model", model)  # a name with a dot, as most of timm's have
    assert run.data.params["model"] == model
    registered = project.run("register_model.py", "--run-id", run.info.run_id, "--threshold", "0")
    assert registered.returncode == 0, registered.stdout + registered.stderr
    applied = project.run("infer.py", "--model", run.info.run_id)
    assert applied.returncode == 0, applied.stdout + applied.stderr
    assert f"{run.data.metrics['test_miou']:.4f}" in applied.stdout, "the same network, with the same weights"


@pytest.mark.parametrize("model", ["smp:unet/tu-swin_tiny_patch4_window7_224", "smp:unet/tu-vit_tiny_patch16_224"])
def test_encoder_for_images_of_one_size_is_refused_before_anything_is_created(tmp_path: Path, model: str) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    project = make_project(tmp_path / "project", images=8)
    before = {path.name for path in project.folder.iterdir()}
    done = project.run("train.py", "--smoke", "--model", model)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stdout + done.stderr
    assert f"model '{model}': expected a network that takes images of any size, found '" in done.stderr
    assert {path.name for path in project.folder.iterdir()} == before


@pytest.mark.parametrize(
    ("sides", "size"),
    [((2048, 32), (3 * 32, 6 * 2048)), ((32, 2048), (3 * 2048, 6 * 32)), ((8192, 16), (16, 16_384))],
)
def test_training_on_long_images_is_completed_with_a_sheet_that_viewers_open(
    tmp_path: Path, sides: tuple[int, int], size: tuple[int, int]
) -> None:
    """Six rows of three: neither enlarged beyond the longest JPEG nor, for the longest images, larger than viewers take."""
    project = make_project(tmp_path / "project", images=60)
    done = project.run("train.py", "--smoke", "--batch-size", "2", "--image-size", *map(str, sides))
    assert done.returncode == 0, done.stdout + done.stderr
    with Image.open(project.folder / "models" / project.runs()[0].info.run_id / "preview.jpg") as sheet:
        assert sheet.size == pytest.approx(size, abs=3)


def test_prediction_of_an_image_that_is_longer_than_any_jpeg_has_a_reduced_overlay(project: Project) -> None:
    trained(project)
    Image.new("RGB", (66_000, 20)).save(project.folder / "strip.png")
    done = project.run("infer.py", "--input", "strip.png", "--output", "strip")
    assert done.returncode == 0, done.stdout + done.stderr
    with (
        Image.open(project.folder / "strip/strip.png") as mask,
        Image.open(project.folder / "strip/strip_overlay.jpg") as drawn,
    ):
        assert mask.size == (66_000, 20) and drawn.size == (65_500, 20)
    named = str(Path("strip/strip_overlay.jpg"))
    assert f"{named}: reduced to 65500x20: no side of a JPEG is longer than 65,500" in done.stdout + done.stderr


def test_gpu_option_is_refused_without_a_gpu(project: Project) -> None:
    before = len(project.runs())
    done = project.run("train.py", *TRAINING, "--device", "cpu", env={"SYNC_BATCHNORM": "true"})
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "SYNC_BATCHNORM" in done.stderr and "works on GPUs only" in done.stderr
    assert len(project.runs()) == before
