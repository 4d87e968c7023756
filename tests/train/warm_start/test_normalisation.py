"""Published weights of each mean and standard deviation that timm has: training, validation and prediction use them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import config
from core.errors import UsageError
from core.hashing import file_sha256
from dataset.sources.synthetic import generate_sample
from dataset.validation import check_data
from segmentation.model_file import load_model
from segmentation.networks.registry import build_pretrained
from segmentation.networks.search import Places
from segmentation.networks.trial import check_new_network
from segmentation.predictor import segment
from segmentation.preprocess import Normalisation, to_input
from tests.support.models import CPU
from train import model_train
from train.model_train import ModelTrain
from train.setup import prepare_training

SIZE = 64, 64
# The smallest encoder of each pair of values: of ImageNet, Inception, CLIP, DPN, and of none.
ENCODERS = {
    "resnet18.a1_in1k": Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "test_resnet.r160_in1k": Normalisation((0.5,) * 3, (0.5,) * 3),
    "resnet50_clip_gap.openai": Normalisation(
        (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    ),
    "dpn68.mx_in1k": Normalisation((124 / 255, 117 / 255, 104 / 255), (1 / (0.0167 * 255),) * 3),
    "mobilevitv2_050.cvnets_in1k": Normalisation((0.0,) * 3, (1.0,) * 3),
}
# Of satellite images: only transformers that have no pyramid of feature maps.
WITHOUT_PYRAMID = {"vit_large_patch16_dinov3.sat493m": Normalisation((0.43, 0.411, 0.296), (0.213, 0.156, 0.143))}


def test_every_pair_of_values_of_timm_is_tested() -> None:
    timm = pytest.importorskip("timm")
    configurations = [timm.get_pretrained_cfg(name) for name in timm.list_models(pretrained=True)]
    found = {Normalisation(tuple(c.mean), tuple(c.std)) for c in configurations}
    assert found == {*ENCODERS.values(), *WITHOUT_PYRAMID.values()}
    for name in WITHOUT_PYRAMID:
        with pytest.raises(UsageError, match="has no pyramid of feature maps"):
            check_new_network(f"fpn/{name}", pretrained=True)


@pytest.fixture
def weights(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a WEIGHTS_DIR with random weights in the place of the published ones of an encoder."""
    timm = pytest.importorskip("timm")
    folder = tmp_path / "weights"
    folder.mkdir()
    torch.save(timm.create_model(request.param, pretrained=False).state_dict(), folder / f"{request.param}.pth")
    return folder


@pytest.mark.parametrize(("weights", "encoder"), [(name, name) for name in ENCODERS], indirect=["weights"])
def test_values_of_the_weights_reach_training_and_prediction(
    weights: Path, encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, used = ENCODERS[encoder], list[Normalisation]()

    def spy(images: torch.Tensor, normalisation: Normalisation, device: torch.device) -> torch.Tensor:
        used.append(normalisation)
        return to_input(images, normalisation, device)

    monkeypatch.setattr(model_train, "to_input", spy)
    generate_sample(tmp_path / "data", seed=0, count=12)
    settings = config.load_settings(
        model=f"fpn/{encoder}",
        pretrained=True,
        weights_dir=weights,
        image_size=SIZE,
        batch_size=4,
        device="cpu",
        model_path=tmp_path / "m.pth",
        lakefs_local_dir=tmp_path / "lakefs",
    )
    training = ModelTrain(prepare_training(settings, check_data(tmp_path / "data", 0), smoke=True), tmp_path)
    training.fit()
    assert used and set(used) == {expected}, "each step of the training"
    model = load_model(training.best_file, file_sha256(training.best_file), CPU)
    assert model.normalisation == expected

    seen = list[torch.Tensor]()
    model.network.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    segment(model, [image], CPU)
    wanted = (image / 255 - np.array(expected.mean)) / np.array(expected.std)
    assert np.allclose(seen[0][0].permute(1, 2, 0).numpy(), wanted, atol=1e-4), "what the network predicts from"


@pytest.mark.parametrize(("weights", "encoder"), [(name, name) for name in ENCODERS], indirect=["weights"])
def test_encoder_in_a_network_of_smp_has_the_same_values(weights: Path, encoder: str) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    published = build_pretrained(f"smp:unet/tu-{encoder}", 2, 3, Places(directory=weights))[1]
    assert published.normalisation == ENCODERS[encoder]
