"""Model files and checkpoints of strangers: refused with one line or loaded, never executed, no memory that they claim."""

from __future__ import annotations

import ast
import functools
import json
import os
import random
import struct
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import AppError, UsageError
from core.hashing import file_sha256
from segmentation.model_file import load_model, save_model
from segmentation.networks import registry
from segmentation.networks.compact import CompactUNet
from tests.support import hostile_archives
from tests.support.models import CPU, make_model
from tests.support.project import SOURCE
from train.checkpoint import load_checkpoint, save_checkpoint

resource = pytest.importorskip("resource", reason="limits of processes: not on Windows")

MB = 1 << 20


def attack(folder: Path, kind: str) -> dict[str, Any]:
    """Open hostile files in this process; return their number, what went wrong, and by how much memory grew at most."""
    if kind == "mutations":  # which are many, so they are of a small network
        registry.COMPACT["compact_unet"] = functools.partial(CompactUNet, width=4)  # type: ignore[assignment]
    load_good(folder)
    files = list(hostile_archives.hostile_files(folder) if kind == "handmade" else mutations(folder))
    path, problems, slowest = folder / "model.pth", [], 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, content in files:
        path.write_bytes(content)
        start = time.process_time()
        fault = outcome_of(path, allow_loading=kind == "mutations")
        if fault:
            problems.append(f"{name}: {fault}")
        slowest = max(slowest, time.process_time() - start)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"count": len(files), "problems": problems, "grown_mb": grown / 1024, "slowest_s": slowest}


def load_good(folder: Path) -> None:
    """Load a good file, and names of each library, so that the memory of imports is not counted."""
    save_model(folder / "good.pth", make_model())
    load_model(folder / "good.pth", file_sha256(folder / "good.pth"), CPU)
    path = folder / "name.pth"
    for name in ("smp:unet/tu-nothing", "fcn_resnet50"):
        path.write_bytes(hostile_archives.saved(torch.load(folder / "good.pth") | {"architecture": name}))
        outcome_of(path, False)


def outcome_of(path: Path, allow_loading: bool) -> str | None:
    """Return what is wrong with how a file was treated, None if it was refused with one line."""
    try:
        load_model(path, file_sha256(path), CPU)
    except AppError as error:
        return None if str(error).isprintable() and len(str(error)) < 2000 else f"message {str(error)[:200]!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return None if allow_loading else "accepted"


def mutations(folder: Path, count: int = 300) -> Any:
    """Yield good files with a few bytes of the directory, the pickle or the values changed; seeded."""
    valid, draw = (folder / "good.pth").read_bytes(), random.Random(14)
    pickled = valid.index(b"\x80\x02}")
    directory = valid.index(b"PK\x01\x02")
    for number in range(count):
        content = bytearray(valid)
        for _ in range(draw.choice((1, 1, 2, 8))):
            low, high = draw.choice(
                ((0, pickled), (pickled, pickled + 12_000), (directory, len(valid)), (0, len(valid)))
            )
            place = draw.randrange(low, min(high, len(content)))
            action = draw.randrange(4)
            if action == 0:
                content[place] ^= 1 << draw.randrange(8)
            elif action == 1:
                content[place] = draw.choice(b"\x00\xff()]}tuRQqrhj.0X\x8a\x85")
            elif action == 2:
                del content[place : place + draw.randrange(1, 9)]
            else:
                content[place:place] = content[place : place + draw.randrange(1, 9)]
        yield f"mutation {number}", with_right_checksums(bytes(content)) if number % 2 else bytes(content)


def with_right_checksums(content: bytes) -> bytes:
    """Return an archive whose entries have the checksum of their bytes, so that a mutation reaches the pickle."""
    fixed, place = bytearray(content), content.find(b"PK\x01\x02")
    while 0 <= place < len(content) - 46:
        size, name = struct.unpack_from("<I", content, place + 20)[0], struct.unpack_from("<H", content, place + 28)[0]
        (start,) = struct.unpack_from("<I", content, place + 42)
        if start + 30 < len(content):
            start += 30 + sum(struct.unpack_from("<HH", content, start + 26))
            struct.pack_into("<I", fixed, place + 16, zlib.crc32(content[start : start + size]))
        place = content.find(b"PK\x01\x02", place + 46 + name)
    return bytes(fixed)


@pytest.fixture(scope="module")
def handmade(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("handmade")
    result = in_other_process(folder, 'dict(claims=claim_5_gb(Path()), **attack(Path(), "handmade"))')
    assert not list(folder.rglob("executed"))
    return result


def test_hostile_files_are_refused_in_bounded_memory(handmade: dict[str, Any]) -> None:
    assert not handmade["problems"] and handmade["count"] >= 250, handmade
    assert handmade["grown_mb"] < 100, "what the files claim was not allocated"


def test_mutated_files_are_refused_or_loaded_in_bounded_memory(tmp_path: Path) -> None:
    result = in_other_process(tmp_path, 'attack(Path(), "mutations")')
    assert not result["problems"] and result["count"] >= 300, result
    assert result["grown_mb"] < 100, result


def test_file_of_6_mb_that_claims_5_gb_takes_less_than_100_mb(handmade: dict[str, Any]) -> None:
    claims = handmade["claims"]
    assert len(claims["errors"]) == 6 and 6 < claims["size_mb"] < 14, claims
    assert claims["grown_mb"] < 100, claims


def in_other_process(folder: Path, expression: str) -> dict[str, Any]:
    """Return the value of an expression of this module, computed in a process of its own, which stands in `folder`."""
    code = f"import json; from pathlib import Path; from {__name__} import *; print(json.dumps({expression}))"
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def claim_5_gb(folder: Path) -> dict[str, Any]:
    """Open files of 6 MB that claim 5 GB as a model and as a checkpoint; return the errors and the memory they took."""
    load_good(folder)
    good = hostile_archives.good_entries(folder) | {"archive/data/0": bytes(6_000_000)}
    path, errors = folder / "claim.pth", []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for value in (
        hostile_archives.call("builtins bytearray", hostile_archives.whole(hostile_archives.GB5)),
        hostile_archives.tensor("0", hostile_archives.GB5 // 4, (hostile_archives.GB5 // 4,), (1,)),
        hostile_archives.tensor("0", 1_500_000, (hostile_archives.GB5 // 4,), (0,)),
    ):
        path.write_bytes(hostile_archives.pack(good | {"archive/data.pkl": hostile_archives.content(value)}))
        for load in (lambda: load_model(path, file_sha256(path), CPU), lambda: load_checkpoint(path)):
            try:
                load()
            except AppError as error:
                errors.append(str(error))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"size_mb": path.stat().st_size / MB, "errors": errors, "grown_mb": grown}


def test_checkpoint_is_restored_with_layout_and_sharing(tmp_path: Path) -> None:
    weights = torch.randn(4, 3, 5, 7).to(memory_format=torch.channels_last)
    first, second = torch.arange(8.0).reshape(2, 4).unbind()
    batch_norm = torch.nn.BatchNorm2d(3).state_dict()
    state = {
        "network": batch_norm,
        "tensors": [weights, first, second, None, torch.tensor(True), torch.zeros(0, 3), torch.tensor(2.5).double()],
        "types": [torch.ones(3, dtype=kind) for kind in (torch.bfloat16, torch.float16, torch.int64, torch.uint8)],
        "optimiser": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"betas": (0.9, 0.999), "lr": 1e-3}]},
        "run": {"name": "한글", "seed": 1 << 40, "limit": -5, "loss": float("nan"), "nothing": None, "flag": False},
    }
    save_checkpoint(tmp_path / "checkpoint.pth", {"state": state})
    found = load_checkpoint(tmp_path / "checkpoint.pth")["state"]
    assert repr(found) == repr({**state, "network": dict(batch_norm)})
    assert found["tensors"][0].stride() == weights.stride() and torch.equal(found["tensors"][0], weights)
    assert found["tensors"][1].untyped_storage().data_ptr() == found["tensors"][2].untyped_storage().data_ptr()


@pytest.mark.parametrize("name", ["compact_fpn", "lraspp_mobilenet_v3_large", "smp:fpn/mit_b0", "smp:unet/tu-resnet18"])
def test_network_of_each_library_is_rebuilt_without_the_network(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name.startswith("smp:"):
        pytest.importorskip("segmentation_models_pytorch")

    def connect(*_: object) -> None:
        raise AssertionError("a model file made a connection")

    monkeypatch.setattr("socket.socket.connect", connect)
    torch.manual_seed(1)
    model = replace(make_model(), network=registry.build_network(name, 2).eval(), architecture=name)
    save_model(tmp_path / "model.pth", model)
    loaded = load_model(tmp_path / "model.pth", file_sha256(tmp_path / "model.pth"), CPU)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(loaded.network(images), model.network(images), atol=1e-5)


@pytest.mark.parametrize(
    "encoder", ["tu-hf-hub:a/b", "tu-hf_hub:a/b", "tu-local-dir:/x", "tu-/x", "tu-..", "hf-hub:a", ""]
)
def test_encoder_on_a_hub_or_in_a_directory_is_refused_in_training_too(encoder: str) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    with pytest.raises(UsageError, match="unknown encoder of smp"):
        registry.check_network(f"smp:unet/{encoder}", pretrained=True)


OPENERS = {
    "torch.load",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "joblib.load",
    "marshal.loads",
}


def test_archives_are_opened_by_one_function() -> None:
    """Infer, register, resume, reproduce, pyfunc, export and the gate all come to load_model or load_checkpoint."""
    found = []
    packages = ("core", "dataset", "inference", "lineage", "registry", "segmentation", "train", "utils", "versioning")
    for path in [*SOURCE.glob("*.py"), *(file for name in packages for file in (SOURCE / name).rglob("*.py"))]:
        relative = path.relative_to(SOURCE)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if name in OPENERS or name.endswith(".read_archive") or name == "read_archive":
                found.append(f"{relative}: {name}")
    assert sorted(set(found)) == [
        "segmentation/model_file.py: read_archive",
        "segmentation/networks/search.py: torch.load",  # published weights, also of older formats: weights_only=True
        "train/checkpoint.py: read_archive",
    ]
