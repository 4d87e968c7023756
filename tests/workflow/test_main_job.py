"""The complete workflow with the real scripts on one machine: train, register, predict."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import config
from dataset.directory import data_files
from tests.support.project import REPORT, Project, make_project
from utils import local_lakefs
from utils.lakefs_utils import LakeFS


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, str]]:
    """A project after its first `python train.py`, and what that printed."""
    project = make_project(tmp_path_factory.mktemp("job"))
    done = project.run("train.py", "--epochs", "2", "--batch-size", "5", "--lr", "0.003")
    assert done.returncode == 0, done.stdout + done.stderr
    yield project, done.stdout


@pytest.fixture
def lake(trained: tuple[Project, str]) -> Iterator[LakeFS]:
    """A client of the project's embedded store."""
    with local_lakefs.start(trained[0].folder / ".lakefs") as server:
        keys = server.access_key_id, server.secret_access_key
        yield LakeFS(server.endpoint, *keys, "image-segmentation-local-repo", "main")


def test_report_format_and_position(trained: tuple[Project, str]) -> None:
    project, output = trained
    report = REPORT.search(output)
    assert report is not None, output
    run = project.runs()[0]
    assert report[1] == run.data.tags["lakefs_model_commit"]
    assert int(report[2]) == int(run.data.metrics["best_val_accuracy"] * 100 + 1e-9)
    tag = re.search(r'^git tag -a "v1\.0-acc(\d+)" -m "([^"]+)"$', output, re.MULTILINE)
    assert tag is not None and tag[1] == report[2]
    assert run.info.run_id in tag[2] and report[1] in tag[2]
    subject, empty, block = (project.folder / "models/git_commit_message.txt").read_text().split("\n", 2)
    assert subject == f"model: v1.0-acc{tag[1]}, val mIoU {run.data.metrics['best_val_miou']:.4f}"
    assert (empty, block) == ("", report[0] + "\n")


def test_printed_tag_command_works_and_the_next_version_is_higher(trained: tuple[Project, str]) -> None:
    from train.release.tags import next_result_tag

    project, output = trained
    command = re.search(r'^git tag -a "([^"]+)" -m "([^"]+)"$', output, re.MULTILINE)
    assert command is not None
    project.git("tag", "-a", command[1], "-m", command[2])
    assert next_result_tag(project.folder, 90) == "v1.1-acc90"
    project.git("tag", "-d", command[1])


def test_run_records_data_code_and_model(trained: tuple[Project, str], lake: LakeFS) -> None:
    project, _ = trained
    run = project.runs()[0]
    tags, params = run.data.tags, run.data.params
    assert run.info.status == "FINISHED"
    assert tags["git_commit"] == project.git("rev-parse", "HEAD") == tags["mlflow.source.git.commit"]
    assert (tags["git_branch"], tags["git_dirty"]) == ("main", "false")
    assert (tags["lakefs_repo"], tags["lakefs_branch"]) == ("image-segmentation-local-repo", "main")
    assert params["lakefs_data_path"] == f"lakefs://{lake.repo}/{tags['lakefs_data_commit']}/data/"
    assert params["lakefs_model_path"] == f"lakefs://{lake.repo}/{tags['lakefs_model_commit']}/models/model.pth"
    assert (params["epochs"], params["learning_rate"], params["batch_size"]) == ("2", "0.003", "5")
    assert not params.keys() & {name for name, info in config.SETTINGS.items() if info.secret}, "no secret is stored"
    dataset = run.inputs.dataset_inputs[0].dataset
    assert dataset.source_type == "lakefs" and params["lakefs_data_path"] in dataset.source


def test_every_epoch_logs_every_metric(trained: tuple[Project, str]) -> None:
    project, _ = trained
    client, run = project.mlflow(), project.runs()[0]
    names = ["train_loss", "val_loss", "val_accuracy", "val_miou", "images_per_second", "learning_rate"]
    for name in [*names, "val_iou/disc", "val_iou/background"]:
        assert [m.step for m in client.get_metric_history(run.info.run_id, name)] == [1, 2], name
    history = [m.value for m in client.get_metric_history(run.info.run_id, "val_miou")]
    assert run.data.metrics["best_val_miou"] == max(history)
    artifacts = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert artifacts == {
        *("curves.png", "confusion.png", "overlays.png", "worst.png", "report.html", "history.csv", "per_class.csv"),
        *("code", "overlays", "data_warnings.json"),
    }
    overlays = {artifact.path for artifact in client.list_artifacts(run.info.run_id, "overlays")}
    assert overlays == {"overlays/epoch-0001.jpg", "overlays/epoch-0002.jpg"}


def test_the_test_split_is_measured_once_and_reported_beside_val(trained: tuple[Project, str], lake: LakeFS) -> None:
    project, output = trained
    run = project.runs()[0]
    metrics = run.data.metrics
    for name in ("test_miou", "test_accuracy", "test_iou/disc"):
        assert len(project.mlflow().get_metric_history(run.info.run_id, name)) == 1
    for split, prefix in (("val", "best_val"), ("test", "test")):
        accuracy, miou = metrics[f"{prefix}_accuracy"], metrics[f"{prefix}_miou"]
        assert f"\n  {split}: accuracy {accuracy:.4f}, mIoU {miou:.4f}\n" in output
        assert f"{split} accuracy {int(accuracy * 100 + 1e-9)}%, {split} mIoU {miou:.4f}" in output, "the tag command"
        page = (project.folder / "models" / run.info.run_id / "report.html").read_text()
        assert f"{split} mIoU<b>{miou:.4f}</b>" in page
        assert run.data.tags[f"{split}_classes"] == "4/4"
    content = json.loads((project.folder / "models/metrics.json").read_text())
    assert (content["test_miou"], content["test_accuracy"]) == (metrics["test_miou"], metrics["test_accuracy"])
    assert content["test_iou"]["disc"] == metrics["test_iou/disc"] and content["test_classes"] == "4/4"
    metadata = lake.commit_metadata(run.data.tags["lakefs_model_commit"])
    assert float(metadata["test_miou"]) == pytest.approx(metrics["test_miou"], abs=1e-6)
    done = project.run("infer.py", "--run-id", run.info.run_id, "--split", "test", "--output", "measured")
    assert f"test split: accuracy {metrics['test_accuracy']:.4f}, mIoU {metrics['test_miou']:.4f}" in done.stdout


def test_warnings_of_the_data_stay_with_the_model(trained: tuple[Project, str], lake: LakeFS) -> None:
    project, _ = trained
    run = project.runs()[0]
    stored = torch.load(project.folder / "models/model.pth", weights_only=True)["warnings"]
    assert [(row["kind"], row["split"]) for row in stored] == [("small-split", "val"), ("small-split", "test")]
    assert "images in val: 3" in stored[0]["text"]
    assert json.loads(run.data.tags["data_warnings"]) == stored
    assert json.loads((project.folder / "models/metrics.json").read_text())["warnings"] == stored
    metadata = lake.commit_metadata(run.data.tags["lakefs_model_commit"])
    assert metadata["data_warnings"] == "small-split (val), small-split (test)"
    page = (project.folder / "models" / run.info.run_id / "report.html").read_text()
    assert "images in val: 3" in page


def test_run_directory_contains_report_and_tables_only(trained: tuple[Project, str]) -> None:
    import csv

    project, _ = trained
    run = project.runs()[0]
    folder = project.folder / "models" / run.info.run_id
    assert {file.name for file in folder.iterdir()} == {"report.html", "history.csv", "per_class.csv", "preview.jpg"}
    history = list(csv.DictReader((folder / "history.csv").read_text(encoding="utf-8-sig").splitlines()))
    assert [row["epoch"] for row in history] == ["1", "2"]
    logged = project.mlflow().get_metric_history(run.info.run_id, "val_miou")
    assert [float(row["val_miou"]) for row in history] == [metric.value for metric in logged]
    classes = list(csv.DictReader((folder / "per_class.csv").read_text(encoding="utf-8-sig").splitlines()))
    best = max(history, key=lambda row: float(row["val_miou"]))
    assert [row["iou"] for row in classes] == [best[f"iou/{row['class']}"] for row in classes]
    page = (folder / "report.html").read_text()
    assert run.info.run_id in page and run.data.params["lakefs_model_path"] in page
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:)[a-z]""", page), (
        "the page loads no external resource"
    )


def test_branch_contains_data_and_model_with_their_origin(trained: tuple[Project, str], lake: LakeFS) -> None:
    project, _ = trained
    run = project.runs()[0]
    found: dict[str, str | None] = {file.path: file.sha256 for file in lake.objects("main", "")}
    assert {path for path in found if path.startswith("models/")} == {
        "models/model.pth",
        "models/metrics.json",
        "models/MLmodel",
    }
    assert found["models/model.pth"] == run.data.tags["model_sha256"]
    local = [f"data/{name}" for name in data_files(project.folder / "data")]
    assert sorted(p for p in found if p.startswith("data/")) == local
    metadata = lake.commit_metadata(run.data.tags["lakefs_model_commit"])
    assert metadata["git_commit"] == project.git("rev-parse", "HEAD")
    assert metadata["mlflow_run_id"] == run.info.run_id
    assert metadata["model_sha256"] == run.data.tags["model_sha256"]
    assert float(metadata["best_val_miou"]) == pytest.approx(run.data.metrics["best_val_miou"], abs=1e-6)
    assert [branch.id for branch in lake.connection.sdk.branches_api.list_branches(lake.repo).results] == ["main"]


def test_model_file_is_complete_and_loads_weights_only(trained: tuple[Project, str]) -> None:
    project, _ = trained
    content = torch.load(project.folder / "models/model.pth", weights_only=True)
    run = project.runs()[0]
    assert content["architecture"] == "compact_fpn" and content["input_size"] == [128, 128]
    assert content["classes"]["names"] == ["background", "disc", "rectangle", "triangle"]
    assert content["lineage"]["git_commit"] == project.git("rev-parse", "HEAD")
    assert content["lineage"]["lakefs_data_path"] == run.data.params["lakefs_data_path"]
    assert content["metrics"]["best_val_miou"] == run.data.metrics["best_val_miou"]


def test_unchanged_data_is_not_committed_again(trained: tuple[Project, str]) -> None:
    project, _ = trained
    first = project.runs()[0].data.tags["lakefs_data_commit"]
    again = project.run("train.py", "--smoke")
    assert again.returncode == 0, again.stderr
    assert f"data unchanged: existing commit {first}" in again.stdout
    run = project.runs()[0]
    assert run.data.tags["lakefs_data_commit"] == first and run.data.tags["smoke"] == "true"


def test_register_then_infer(trained: tuple[Project, str]) -> None:
    project, _ = trained
    best = next(run for run in project.runs() if run.data.tags["smoke"] == "false")
    value = best.data.metrics["best_val_miou"]

    refused = project.run("register_model.py", "--threshold", "0.999")
    assert refused.returncode == 3
    assert f"best_val_miou {value:.4f} < threshold 0.9990" in refused.stderr

    unregistered = project.run("infer.py", "--split", "val")
    assert unregistered.returncode == 0, unregistered.stderr
    assert "no registered model: using the best run." in unregistered.stdout

    done = project.run("register_model.py", "--threshold", "0")
    assert done.returncode == 0, done.stderr
    version = project.mlflow().get_model_version_by_alias("image-segmentation", "champion")
    assert version.run_id == best.info.run_id
    assert version.source == best.data.params["lakefs_model_path"].removesuffix("/model.pth")
    assert version.tags["model_sha256"] == best.data.tags["model_sha256"]
    assert version.tags["git_commit"] == best.data.tags["git_commit"]
    again = project.run("register_model.py", "--threshold", "0")
    assert again.returncode == 0 and "already registered: image-segmentation v1" in again.stdout

    inferred = project.run("infer.py", "--split", "val")
    assert inferred.returncode == 0, inferred.stderr
    predictions = project.predictions()
    assert predictions["model_version"] == "image-segmentation v1"
    assert predictions["miou"] == pytest.approx(value, abs=1e-6)
    assert predictions["lakefs_data_path"] == best.data.params["lakefs_data_path"]
    _check_outputs(project.folder / "data/predictions", predictions)

    default = project.run("infer.py")
    assert default.returncode == 0 and "input: test split" in default.stdout
    left = {p.name for p in (project.folder / "data/predictions").iterdir()}
    listed = {r[key] for r in project.predictions()["images"] for key in ("mask", "overlay")}
    assert left == listed | {"predictions.json", "index.html"}, "outputs of the previous call are removed"


def _check_outputs(folder: Path, predictions: dict) -> None:  # type: ignore[type-arg]
    for record in predictions["images"]:
        with Image.open(folder / record["mask"]) as mask:
            assert mask.mode == "P" and mask.size == (record["width"], record["height"])
            shares = np.bincount(np.asarray(mask).ravel(), minlength=4) / mask.width / mask.height
            assert list(record["class_shares"].values()) == pytest.approx(shares.tolist(), abs=1e-5)
            assert mask.text["run_id"] == predictions["run_id"]  # type: ignore[attr-defined]
            assert mask.text["lakefs_data_path"] == predictions["lakefs_data_path"]  # type: ignore[attr-defined]
        with Image.open(folder / record["overlay"]) as overlay:
            assert overlay.size == (record["width"], record["height"])


def test_inference_on_images_of_any_size(trained: tuple[Project, str], tmp_path: Path) -> None:
    project, _ = trained
    (tmp_path / "in/sub").mkdir(parents=True)
    sizes = {"a.png": (37, 90), "a.jpg": (300, 20), "sub/한글 이름.png": (128, 128)}
    for name, size in sizes.items():
        Image.new("RGB", size, (200, 30, 30)).save(tmp_path / "in" / name)
    (tmp_path / "in/broken.png").write_bytes(b"not an image")
    done = project.run("infer.py", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"))
    assert done.returncode == 1 and "broken.png" in done.stderr, "the damaged image is named, the others are predicted"
    for name, size in {"a.png.png": (37, 90), "a.jpg.png": (300, 20), "sub/한글 이름.png": (128, 128)}.items():
        with Image.open(tmp_path / "out" / name) as mask:
            assert mask.size == size
    nothing = project.run("infer.py", "--input", str(tmp_path / "nowhere"))
    assert nothing.returncode == 2 and "no such file or directory" in nothing.stderr
    over = project.run("infer.py", "--input", str(tmp_path / "in/sub"), "--output", str(tmp_path / "in/sub"))
    assert over.returncode == 2 and "that infer.py did not write" in over.stderr


def test_tables_are_valid_for_any_prediction(trained: tuple[Project, str]) -> None:
    project, _ = trained
    ended = project.run("register_model.py", "--manual", "--threshold", "0", answers="")
    assert ended.returncode == 0 and "nothing chosen: nothing registered." in ended.stdout
    chosen = project.run("register_model.py", "--manual", "--threshold", "0", answers="0\n\nzwei\n99\n1\n")
    assert chosen.returncode == 0, chosen.stderr
    for wrong in ("'0'", "''", "'zwei'", "'99'"):
        assert f"{wrong} is not a number from 1 to 1." in chosen.stdout
    assert "registered" in chosen.stdout

    ended = project.run("infer.py", "--interactive", answers="1\n")
    assert ended.returncode == 0 and "nothing chosen." in ended.stdout
    run = next(r for r in project.runs() if r.data.tags["smoke"] == "false")
    picked = project.run("infer.py", "--interactive", answers="x\n1\n7\n1\n")
    assert picked.returncode == 0, picked.stderr
    assert f"MLflow run {run.info.run_id}" in picked.stdout


def test_unknown_names_are_usage_errors(trained: tuple[Project, str]) -> None:
    project, _ = trained
    for arguments, text in (
        (["infer.py", "--run-id", "nope"], "'nope' is not a"),
        (["infer.py", "--model", "image-segmentation@nobody"], "'image-segmentation@nobody' is not a"),
        (["infer.py", "--model", "other/3"], "'other/3' is not a"),
        (["register_model.py", "--run-id", "nope"], "'nope' does not name a run"),
    ):
        done = project.run(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert text in done.stderr and "Traceback" not in done.stderr
    done = project.run("register_model.py", "--metric", "other_miou")
    assert done.returncode == 2 and "no finished run with metric 'other_miou'" in done.stderr
    done = project.run("register_model.py", "--metric", "val_loss")
    assert done.returncode == 2 and "--metric val_loss: expected …miou or …accuracy" in done.stderr


def test_smoke_runs_are_never_registered(trained: tuple[Project, str]) -> None:
    project, _ = trained
    smoke = next((r for r in project.runs() if r.data.tags["smoke"] == "true"), None)
    if smoke is None:
        project.run("train.py", "--smoke")
        smoke = project.runs()[0]
    done = project.run("register_model.py", "--run-id", smoke.info.run_id, "--threshold", "0")
    assert done.returncode == 2 and "is --smoke" in done.stderr


def test_changed_model_file_is_never_opened(trained: tuple[Project, str]) -> None:
    project, _ = trained
    run = next(r for r in project.runs() if r.data.tags["smoke"] == "false")
    project.mlflow().set_tag(run.info.run_id, "model_sha256", "0" * 64)
    done = project.run("infer.py", "--run-id", run.info.run_id)
    project.mlflow().set_tag(run.info.run_id, "model_sha256", run.data.tags["model_sha256"])
    assert done.returncode == 1 and "SHA-256 differs from its record" in done.stderr
