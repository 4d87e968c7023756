"""The model file: it rebuilds its model, and anything else is refused without executing it."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from core.errors import AppError
from core.hashing import file_sha256
from dataset.classes import ClassMap
from segmentation.model import Model
from segmentation.model_file import load_model, save_model
from segmentation.networks.registry import build_network
from segmentation.preprocess import Normalisation, native_logits, to_input

CPU = torch.device("cpu")
CLASSES = ClassMap((0, 1, 2), ("a", "b", "c"), ((0, 0, 0), (255, 0, 0), (0, 255, 0)))


def make_model(**changes: object) -> Model:
    torch.manual_seed(0)
    values: dict[str, object] = {
        "network": build_network("compact_unet", 3).eval(),
        "architecture": "compact_unet",
        "classes": CLASSES,
        "input_size": (32, 48),
        "normalisation": Normalisation((0.5, 0.5, 0.5), (0.2, 0.2, 0.2)),
        "metrics": {"best_val_miou": 0.5},
        "lineage": {"run_id": "r"},
    }
    return Model(**{**values, **changes})  # type: ignore[arg-type]


def test_model_file_rebuilds_its_model_without_options(tmp_path: Path) -> None:
    model = make_model()
    save_model(tmp_path / "new/model.pth", model)
    loaded = load_model(tmp_path / "new/model.pth", file_sha256(tmp_path / "new/model.pth"), CPU)
    assert (loaded.classes, loaded.input_size, loaded.normalisation) == (model.classes, (32, 48), model.normalisation)
    assert (loaded.metrics, loaded.lineage) == (model.metrics, model.lineage)
    images = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    sizes = [(32, 48), (64, 10)]
    with torch.inference_mode():
        first = list(native_logits(model.network, images, sizes, model.normalisation, CPU))
        second = list(native_logits(loaded.network, images, sizes, loaded.normalisation, CPU))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(first, second, strict=True))
    assert [tuple(one.shape) for one in second] == [(3, 32, 48), (3, 64, 10)]


class Payload:
    """Payload that creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_file_that_is_not_a_model_is_refused_without_executing_it(tmp_path: Path) -> None:
    path, trap = tmp_path / "model.pth", tmp_path / "executed"
    contents = [b"", b"junk", pickle.dumps(Payload(trap))]
    save_model(path, make_model())
    valid = path.read_bytes()
    contents += [valid[: len(valid) // 2], valid[:2000] + b"\0" * 500 + valid[2500:]]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(AppError, match="not a model file of this project"):
            load_model(path, file_sha256(path), CPU)
    torch.save({"format": 1, "architecture": Payload(trap)}, path)
    with pytest.raises(AppError, match="not a model file of this project"):
        load_model(path, file_sha256(path), CPU)
    assert not trap.exists()
    torch.save({"format": 99}, path)
    with pytest.raises(AppError, match="format 99, expected 1, 2"):
        load_model(path, file_sha256(path), CPU)
    with pytest.raises(AppError, match="SHA-256 differs"):
        load_model(path, "0" * 64, CPU)


def test_input_is_normalised() -> None:
    images = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    out = to_input(images, Normalisation((0.5, 0.0, 1.0), (0.5, 1.0, 0.25)), CPU)
    assert out[0, :, 0, 0].tolist() == pytest.approx([1.0, 1.0, 0.0])
