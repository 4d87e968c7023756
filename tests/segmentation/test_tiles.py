"""Images in tiles: equal to the whole, blended where they cannot be, smaller where memory runs out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import AppError
from core.hashing import file_sha256
from inference import export
from segmentation import preprocess
from segmentation.model_file import load_model, save_model
from segmentation.networks.registry import build_network
from segmentation.predictor import Method, Predictor
from segmentation.preprocess import native_logits
from segmentation.tiles import logits_budget, tiling
from segmentation.tiles.global_pooling import GlobalPoolingOverride
from tests.support.images import noise
from tests.support.models import CPU, make_model


def randomized_network(name: str, num_classes: int = 3) -> nn.Module:
    """Weights and statistics that are far from a fresh network's, so that every layer and every gate matters."""
    torch.manual_seed(1)
    network = build_network(name, num_classes).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_()
        elif isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=(1.4 / module.weight[0].numel()) ** 0.5)
    return network.to(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return randomized_network("compact_unet")


def joined(forward: tiling.Forward, image: Tensor, tile: int, margin: int) -> Tensor:
    with torch.inference_mode():
        bands = list(tiling.predict_bands(forward, image, tile, margin))
    tops = np.cumsum([0, *(band.shape[1] for _, band in bands)])
    assert [top for top, _ in bands] == tops[:-1].tolist()
    return torch.cat([band for _, band in bands], 1)


def test_tiles_equal_the_full_image(network: nn.Module) -> None:
    margin = tiling.measure_receptive_field(network, CPU)
    assert margin == 128
    for height, width in ((512, 420), (390, 470), (200, 482)):
        image = torch.randn(3, height, width)
        with torch.inference_mode():
            whole = network(image[None].contiguous(memory_format=torch.channels_last))[0]
        assert (joined(network, image, 384, margin) - whole).abs().max() < 1e-4
    assert (joined(network, image, 384, 0) - whole).abs().max() > 1e-3, "without the margin they differ"


def test_network_with_unlimited_receptive_field_is_blended_without_seams() -> None:
    def forward(images: Tensor) -> Tensor:
        """Depends on the whole of what it sees."""
        return F.avg_pool2d(images, 1) + images.mean((2, 3), keepdim=True)

    assert tiling.measure_receptive_field(forward, CPU) == 256
    image = torch.linspace(0, 4, 600).expand(3, 200, 600)
    result = joined(forward, image, 256, tiling.limit_margin(256, 256))
    steps = result[0, 100].diff().abs()
    assert steps.max() < 0.2, "no seam"


def test_every_pixel_is_covered_whatever_the_sizes() -> None:
    for length in (1, 127, 128, 129, 500, 1000):
        for tile, wanted in ((128, 128), (256, 64), (256, 0), (512, 128)):
            margin = tiling.limit_margin(tile, wanted)
            result = joined(lambda x: x, torch.ones(1, 16, length), tile, margin)
            assert result.shape == (1, 16, length) and torch.allclose(result, torch.ones(1, 16, length))


def test_an_image_of_the_training_is_the_same_whole_and_with_tiles() -> None:
    model = make_model((384, 480))
    image = noise(384, 480)
    results = []
    for method in (Method(), Method(tile=0), Method(tile=416, probabilities=True)):
        predictor = Predictor(model, CPU, method)
        results.append(predictor.predict([predictor.prepare(image, "")])[0])
    assert np.array_equal(results[0].indices, results[1].indices)
    assert (results[0].indices == results[2].indices).mean() > 0.9999
    assert results[2].probabilities is not None and results[2].probabilities.shape == (2, 384, 480)
    assert np.allclose(results[2].probabilities.sum(0), 1, atol=2e-3)


def test_tiles_keep_the_scale_of_the_training(tmp_path: Path) -> None:
    save_model(tmp_path / "m.pth", replace(make_model(), scale=(0.5, 0.25)))
    model = load_model(tmp_path / "m.pth", file_sha256(tmp_path / "m.pth"), CPU)
    predictor = Predictor(model, CPU, Method(tile=128))
    image = predictor.prepare(noise(301, 400), "")
    assert image.resized.shape == (150, 100, 3)
    assert predictor.predict([image])[0].indices.shape == (301, 400)


def test_the_mirror_image_is_averaged() -> None:
    model, image = make_model(), noise(64, 96)
    twice = Predictor(model, CPU, Method(flip=True, probabilities=True))
    batch = torch.from_numpy(np.stack([image, image[:, ::-1]])).permute(0, 3, 1, 2)
    with torch.inference_mode():
        plain, mirrored = native_logits(model.network, batch, [(64, 96)] * 2, model.normalisation, CPU)
    wanted = ((plain + mirrored.flip(-1)) / 2).softmax(0)
    found = twice.predict([twice.prepare(image, "")])[0].probabilities
    assert found is not None and np.allclose(found, wanted.numpy(), atol=1e-3)


def test_out_of_memory_causes_smaller_tiles_and_batches(capsys: pytest.CaptureFixture[str]) -> None:
    model, most = make_model(), 130 * 130

    def small_machine(images: Tensor) -> Tensor:
        if images.shape[0] * images.shape[2] * images.shape[3] > most:
            raise torch.OutOfMemoryError("out of memory")
        return torch.Tensor(model.network(images))

    image = noise(140, 300)
    predict_bands = Predictor(model, CPU, Method(tile=0), small_machine)
    assert predict_bands.predict([predict_bands.prepare(image, "")])[0].indices.shape == (140, 300)
    assert "continuing with tiles of 128 pixels" in capsys.readouterr().err
    whole = Predictor(model, CPU, None, small_machine)
    assert len(whole.predict([whole.prepare(image, "")] * 4)) == 4, "one after the other"
    most = 100
    for predictor in (predict_bands, whole):
        with pytest.raises(AppError, match="out of memory: use"):
            predictor.predict([predictor.prepare(image, "")])


SMALL_MACHINE = """
import resource, sys
from dataclasses import replace
from pathlib import Path
import torch
from tests.support.models import CPU, make_model
from tests.support.images import noise
from inference.export import onnx_forward
from segmentation.predictor import Method, Predictor
from core.console_reporter import ConsoleReporter
from core.i18n import set_language
from core.reporting import use_reporter

torch.set_num_threads(1)
model = make_model((640, 640))
forward = onnx_forward(Path(sys.argv[1]).read_bytes()) if len(sys.argv) > 1 else None
tiled, whole = (Predictor(model, CPU, Method(tile=tile), forward) for tile in (0, None))
tiled.predict([tiled.prepare(noise(300, 300), "")])  # what is made once is there before memory gets short
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (400 << 20),) * 2)
set_language("en")
use_reporter(ConsoleReporter())
print(len(whole.predict([whole.prepare(noise(64, 64), "")] * 8)))
if not forward:  # what ONNX Runtime keeps after a failure differs from run to run
    print(tiled.predict([tiled.prepare(noise(1500, 2000), "")])[0].indices.shape)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and RLIMIT_AS")
@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_real_memory_limit_causes_smaller_tiles_and_batches(engine: str, tmp_path: Path) -> None:
    if engine == "onnxruntime":
        for package in export.REQUIRED_PACKAGES["onnx"]:
            pytest.importorskip(package)
        export._to_onnx(make_model().network, tmp_path / "model.onnx")
    child = [sys.executable, "-c", SMALL_MACHINE, *map(str, tmp_path.iterdir())]
    environment = os.environ | {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}  # else threads reserve 64 MB each
    done = subprocess.run(
        child, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[2], timeout=300, env=environment
    )
    if engine == "torch":
        assert done.stdout.splitlines() == ["8", "(1500, 2000)"], done.stderr
        assert re.fullmatch("(warning: out of memory: continuing with tiles of [0-9]+ pixels\n)+", done.stderr)
    else:
        assert (done.stdout, done.stderr) == ("8\n", "")


def test_images_at_their_own_size_are_in_memory_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their logits are the largest thing by far: a batch of them in each stream was killed for it."""
    held: list[weakref.ref[Tensor]] = []
    most = 0
    resize = preprocess.resize_logits

    def counted(logits: Tensor, size: tuple[int, int]) -> Tensor:
        nonlocal most
        made = resize(logits, size)
        held.append(weakref.ref(made))
        most = max(most, sum(one() is not None for one in list(held)))
        return made

    monkeypatch.setattr(preprocess, "resize_logits", counted)
    monkeypatch.setattr(logits_budget, "MAX_LOGITS", 1)
    predictor = Predictor(make_model(), CPU)
    batch = [predictor.prepare(noise(200, 300), "")] * 8
    with ThreadPoolExecutor(4) as streams:
        found = list(streams.map(predictor.predict, [batch] * 4))
    assert [len(one) for one in found] == [8] * 4 and len(held) == 32
    assert most == 1


@pytest.mark.parametrize("name", ["compact_fpn", "lraspp_mobilenet_v3_large"])
def test_a_network_that_looks_at_the_full_image_sees_it_in_each_tile(name: str) -> None:
    """One with a mean over the image, and one with nine of which each depends on those before."""
    network = randomized_network(name)
    means = GlobalPoolingOverride(network)
    margin = tiling.measure_receptive_field(means.forward_without_means, CPU, 512)
    tile = 2 * margin + 96
    image = torch.linspace(-2, 2, tile + 128).expand(3, tile + 64, -1) + 0.3 * torch.randn(3, tile + 64, tile + 128)
    with torch.inference_mode():
        whole = network(image[None].contiguous(memory_format=torch.channels_last))[0]
        forward = means.with_means(means.compute_means(image, tile, margin), network)
    assert (joined(forward, image, tile, margin) - whole).abs().max() < 1e-3 * whole.std()
    assert (joined(network, image, tile, margin) - whole).abs().max() > 1e-2 * whole.std(), "each its own mean"
    with torch.inference_mode():
        again = network(image[None].contiguous(memory_format=torch.channels_last))[0]
    assert torch.equal(again, whole), "outside of tiles nothing has changed"


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
@pytest.mark.parametrize("flip", [False, True])
def test_the_default_network_in_tiles_is_equal_to_the_whole(flip: bool, engine: str) -> None:
    """An exported file cannot be told the image's mean: the network itself computes its tiles."""
    model = replace(make_model((600, 720)), network=randomized_network("compact_fpn", 2), architecture="compact_fpn")
    image = noise(600, 720) // 2 + np.linspace(0, 127, 720, dtype=np.uint8)[:, None]
    forward = None if engine == "torch" else (lambda images: torch.zeros(len(images), 2, *images.shape[-2:]))
    methods = (Method(flip=flip, probabilities=True), Method(tile=480, flip=flip, probabilities=True))
    whole, predict_bands = (
        Predictor(model, CPU, method, forward if method.tile else None, engine if method.tile else "torch")
        for method in methods
    )
    expected, found = (one.predict([one.prepare(image, "")])[0].probabilities for one in (whole, predict_bands))
    assert expected is not None and found is not None
    assert np.abs(expected.astype(np.float32) - found.astype(np.float32)).max() < 1e-3
