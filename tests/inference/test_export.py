"""`infer.py --export` and `--engine onnxruntime`: equal logits, or nothing is committed."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from config import Settings
from core.errors import AppError, UsageError
from core.hashing import file_sha256
from inference import export
from segmentation.ensemble.joining import join_models
from segmentation.model_file import load_model, save_model
from tests.support.images import draw
from tests.support.models import lineage, make_model
from tests.support.project import Project
from utils import mlflow_utils
from utils.ensemble_file import Ensemble, Member

pytest.importorskip("onnxruntime")


def test_onnx_runtime_predicts_the_same_masks_as_torch(once_trained: Project, tmp_path: Path) -> None:
    draw(tmp_path / "in", 3)
    arguments = ("infer.py", "--input", str(tmp_path / "in"), "--output")
    client, settings = once_trained.mlflow(), Settings()
    origin = mlflow_utils.run_lineage(once_trained.runs()[0])
    with pytest.raises(UsageError, match=f"has no ONNX file: run infer.py --run-id {origin.run_id} --export onnx"):
        export.fetch_onnx(origin, None, client, settings, tmp_path)  # type: ignore[arg-type]
    done = once_trained.run("infer.py", "--export", "onnx")
    assert done.returncode == 0 and "of the original's" in done.stdout, done.stdout + done.stderr
    run = once_trained.runs()[0]
    place, model = run.data.tags["lakefs_onnx_path"], run.data.tags["model_sha256"]
    assert place.endswith(f"/exports/{model}/model.onnx")
    file = once_trained.folder / "models/exports" / model / "model.onnx"
    assert file_sha256(file) == run.data.tags["onnx_sha256"]
    assert str(once_trained.folder).encode() not in file.read_bytes(), "no path of this machine is in it"
    file.unlink()  # the engine downloads it from lakeFS
    for engine in ("torch", "onnxruntime"):
        made = once_trained.run(*arguments, str(tmp_path / engine), "--engine", engine)
        assert made.returncode == 0, made.stderr
        assert json.loads((tmp_path / engine / "predictions.json").read_text())["engine"] == engine
    for path in (tmp_path / "in").iterdir():
        with Image.open(tmp_path / "torch" / path.name) as one, Image.open(tmp_path / "onnxruntime" / path.name) as two:
            assert np.array_equal(np.asarray(one), np.asarray(two)), path.name
    mixed = once_trained.run("infer.py", "--export", "onnx", "--tta")
    assert mixed.returncode == 2 and "--tta cannot be used with --export" in mixed.stderr
    with pytest.raises(UsageError, match="has no ONNX file"):  # a tag that names another model's file
        export.fetch_onnx(replace(origin, model_sha256="0" * 64), None, client, settings, tmp_path)  # type: ignore[arg-type]


def test_torchscript_returns_the_same_logits_at_any_size(tmp_path: Path) -> None:
    model = make_model()
    export._to_torchscript(model.network, tmp_path / "model.pt")
    exported = export._load_torchscript((tmp_path / "model.pt").read_bytes())
    assert export.largest_difference(model, exported) < 1e-5


def test_the_run_names_its_torchscript_export(once_trained: Project) -> None:
    done = once_trained.run("infer.py", "--export", "torchscript")
    assert done.returncode == 0 and "of the original's" in done.stdout, done.stdout + done.stderr
    tags = once_trained.runs()[0].data.tags
    place = tags["lakefs_torchscript_path"]
    assert re.fullmatch(f"lakefs://[^/]+/[0-9a-f]{{64}}/exports/{tags['model_sha256']}/model.pt", place)
    file = once_trained.folder / "models/exports" / tags["model_sha256"] / "model.pt"
    assert file_sha256(file) == tags["torchscript_sha256"]
    assert torch.jit.load(file)(torch.zeros(1, 3, 70, 50)).shape[2:] == (70, 50)  # type: ignore[no-untyped-call]


def test_an_export_with_other_logits_is_not_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(model_path=tmp_path / "model.pth")

    def attempt() -> None:
        # lakeFS and MLflow are None: the test would fail if they were used
        export.export(make_model(), "torchscript", lineage(), None, None, settings)  # type: ignore[arg-type]

    class WithOffset(nn.Module):
        def __init__(self, network: nn.Module, by: float) -> None:
            super().__init__()
            self.network, self.by = network, by

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(self.network(images) + self.by)

    write = export._to_torchscript
    for by, words in ((2e-4, "0.0002 .*not committed"), (float("nan"), "nan .*not committed")):
        monkeypatch.setattr(
            export, "_to_torchscript", lambda network, file, channels, by=by: write(WithOffset(network, by), file)
        )
        with pytest.raises(AppError, match=words):
            attempt()

    def fail(network: nn.Module, file: Path, channels: int) -> None:
        raise RuntimeError("an operation\nthat nobody knows")

    monkeypatch.setattr(export, "_to_torchscript", fail)
    with pytest.raises(AppError, match=r"compact_unet cannot be exported to torchscript .*an operation that nobody"):
        attempt()


def test_an_export_that_cannot_predict_is_an_error_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporters may fix a size of the input, which the first prediction at another size tells."""
    model = join_models(tmp_path / "ensemble.json", Ensemble((Member("a.pth", "0" * 64),)), [make_model()])

    def at_one_size(images: torch.Tensor) -> torch.Tensor:
        if tuple(images.shape[2:]) != model.input_size:
            raise ValueError("[ONNXRuntimeError] : 2 :\nGot invalid dimensions for input")
        return torch.as_tensor(model.network(images))

    monkeypatch.setattr(export, "_write_and_load", lambda *_: at_one_size)
    settings = Settings(model_path=tmp_path / "model.pth")
    with pytest.raises(AppError, match=r"cannot be exported to onnx \(ValueError: .*Got invalid dimensions") as error:
        export.export(model, "onnx", lineage(), None, None, settings)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    monkeypatch.setattr(export, "_write_and_load", lambda *_: lambda images: model.network(images)[..., 1:])
    with pytest.raises(AppError, match="the exported network's output has shape"):
        export.export(model, "onnx", lineage(), None, None, settings)  # type: ignore[arg-type]


def test_engines_and_tiling_have_the_same_miou(once_trained: Project, tmp_path: Path) -> None:
    """Whole and in tiles, torch and ONNX Runtime: within 1e-3 on images with masks that need tiles."""
    from benchmarks.inference import mious

    run = once_trained.runs()[0]
    model = once_trained.folder / "models/model.pth"
    assert file_sha256(model) == run.data.tags["model_sha256"]
    loaded = load_model(model, file_sha256(model), torch.device("cpu"))
    large = tmp_path / "large.pth"  # the same weights, for images that have to be cut into tiles
    save_model(large, replace(loaded, input_size=(520, 520), scale=(1.0, 1.0)))
    for kind in ("images", "masks"):
        (tmp_path / "val" / kind).mkdir(parents=True)
        for path in sorted((once_trained.folder / "data" / kind).iterdir())[:2]:
            with Image.open(path) as image:
                image.resize((520, 520), Image.Resampling.NEAREST).save(tmp_path / "val" / kind / path.name)
    found = mious(tmp_path / "val", large, [416])
    assert list(found) == [
        f"{engine}, {way}" for engine in ("torch", "onnxruntime") for way in ("whole", "tiles of 416")
    ]
    assert max(found.values()) - min(found.values()) < 1e-3, found


def test_missing_packages_are_named() -> None:
    with pytest.raises(UsageError, match=r"--export onnx needs more packages: pip install no_such_package"):
        export.require_packages("--export onnx", ("json", "no_such_package"))
