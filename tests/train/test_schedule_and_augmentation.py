"""Learning rate, batch order, augmentation, weight averaging and automatic settings."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from core.errors import AppError
from dataset.classes import IGNORE_INDEX
from segmentation.networks.registry import build_network
from segmentation.preprocess import resize_mask
from train import auto_settings
from train.loading import loader
from train.loading.augmentation import STRENGTHS, augment, resize_crop
from train.optim.ema import AveragedWeights
from train.optim.groups import SHARE, load_optimizer, parameter_groups
from train.optim.optimizer import WEIGHT_DECAY, build_optimizer
from train.optim.schedule import batches_of_step, learning_rate

CPU = torch.device("cpu")


@given(st.integers(2, 5000), st.floats(1e-6, 1))
def test_learning_rate_rises_then_falls_and_stays_positive(steps: int, peak: float) -> None:
    rates = [learning_rate((step + 1) / steps, peak) for step in range(steps)]
    top = rates.index(max(rates))
    assert all(0 < rate <= peak * (1 + 1e-9) for rate in rates)
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert learning_rate(0, peak) > 0 and learning_rate(1.1, peak) == rates[-1] == pytest.approx(peak * 0.01)


@given(st.integers(1, 60), st.integers(1, 9))
def test_each_optimizer_step_weighs_its_batches_to_one(batches: int, accumulate: int) -> None:
    weights = [1 / batches_of_step(batch, batches, accumulate) for batch in range(batches)]
    for start in range(0, batches, accumulate):
        assert sum(weights[start : start + accumulate]) == pytest.approx(1), "also the last, shorter one"


@given(st.integers(1, 200), st.integers(1, 33), st.integers(0, 5), st.integers(0, 5))
def test_epoch_has_every_image_and_no_batch_of_one(count: int, size: int, seed: int, epoch: int) -> None:
    batches = loader.epoch_batches(count, size, seed, epoch)
    shown = [index for batch in batches for index in batch]
    assert set(shown) == set(range(count)) and batches == loader.epoch_batches(count, size, seed, epoch)
    assert all(len(batch) > 1 for batch in batches[-1:])
    if size > 1 and count > 1:
        assert len(shown) == count, "each once"


def test_order_differs_between_epochs_and_global_generator_is_unchanged() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert loader.epoch_batches(50, 8, 0, 0) != loader.epoch_batches(50, 8, 0, 1)
    images, masks = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, 8, 8, dtype=torch.uint8)
    augment(images, masks, STRENGTHS["strong"], (8, 8), np.random.default_rng(0))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("strength", sorted(STRENGTHS))
@pytest.mark.parametrize("size", [(24, 36), (12, 18), (30, 20)])
def test_augmentation_keeps_image_and_mask_aligned(strength: str, size: tuple[int, int]) -> None:
    """The image shows the two classes of the mask, and must still match it after augmentation."""
    masks = torch.zeros(32, 24, 36, dtype=torch.uint8)
    masks[:, :, 20:] = 1
    masks[:, 18:] = IGNORE_INDEX
    images = (masks == 1)[:, None].repeat(1, 3, 1, 1).to(torch.uint8) * 200 + 20
    changed, moved = augment(images, masks, STRENGTHS[strength], size, np.random.default_rng(1))
    again, _ = augment(images, masks, STRENGTHS[strength], size, np.random.default_rng(1))
    assert changed.shape == (32, 3, *size) and moved.shape == (32, *size) and moved.dtype == torch.uint8
    assert torch.equal(changed, again) and set(moved.flatten().tolist()) <= {0, 1, IGNORE_INDEX}
    for image, mask in zip(changed.mean(1), moved, strict=True):
        if (mask == 1).any() and (mask == 0).any():
            middle = (image[mask == 1].mean() + image[mask == 0].mean()) / 2
            assert ((image > middle) == (mask == 1))[mask != IGNORE_INDEX].float().mean() > 0.9
    if size == (24, 36):
        assert torch.equal(moved, masks) == (strength == "none")


@pytest.mark.parametrize("strength", ["light", "strong"])
@pytest.mark.parametrize("size", [(16, 16), (96, 128)])
def test_crops_are_placed_where_labels_are(strength: str, size: tuple[int, int]) -> None:
    """Two labelled pixels among 12,288 in each image; every crop shows one, the same for the same seed."""
    masks = torch.full((20, 96, 128), IGNORE_INDEX, dtype=torch.uint8)
    for number, mask in enumerate(masks):
        mask[3 + 4 * number, 5], mask[90 - 4 * number, 120] = 0, 1
    masks[0] = IGNORE_INDEX
    images = torch.zeros(20, 3, 96, 128, dtype=torch.uint8)
    crops = [
        augment(images, masks, STRENGTHS[strength], size, np.random.default_rng((0, 3)), on_labels=True)[1]
        for _ in range(2)
    ]
    assert torch.equal(*crops)
    labelled = (crops[0] != IGNORE_INDEX).flatten(1).any(1)
    assert labelled[1:].all() and not labelled[0]
    assert set(crops[0].flatten().tolist()) <= {0, 1, IGNORE_INDEX}


def test_crops_with_a_label_stay_where_they_are() -> None:
    masks = torch.randint(0, 3, (8, 24, 36), dtype=torch.uint8)
    images = torch.randint(0, 255, (8, 3, 24, 36), dtype=torch.uint8)
    both = [
        augment(images, masks, STRENGTHS["strong"], (24, 36), np.random.default_rng(1), on_labels=on_labels)
        for on_labels in (True, False)
    ]
    assert torch.equal(both[0][0], both[1][0]) and torch.equal(both[0][1], both[1][1])


def test_scribbles_are_kept_when_masks_are_made_smaller() -> None:
    mask = np.full((400, 600), IGNORE_INDEX, np.uint8)
    mask[7, 11:300], mask[301:380, 503] = 0, 1
    small = resize_mask(mask, (100, 150))
    assert np.unique(small[1, 2:75]).tolist() == [0] and np.unique(small[76:95, 125]).tolist() == [1]
    assert np.count_nonzero(small != IGNORE_INDEX) < 120
    dense = np.where(np.arange(600) % 2, np.uint8(3), np.uint8(IGNORE_INDEX))[None].repeat(400, 0)
    nearest = np.asarray(Image.fromarray(dense).resize((150, 100), Image.Resampling.NEAREST))
    assert np.array_equal(resize_mask(dense, (100, 150)), nearest), "dense labels are not widened"


def test_averaged_weights_follow_over_a_fraction_of_the_steps() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    network = torch.nn.Sequential(layer, torch.nn.BatchNorm1d(1))
    average, weight = AveragedWeights(network, fraction=0.1), layer.weight
    for step in range(1, 201):
        with torch.no_grad():
            weight.fill_(float(step))
        average.update(step)
        if step == 1:
            assert float(average.network[0].weight) == 1  # type: ignore[index]
    assert float(average.network[0].weight) == pytest.approx(200 * 10 / 11, rel=0.01)  # type: ignore[index]


@pytest.mark.parametrize(
    ("images", "batch", "epochs", "reason"),
    [
        (400, 16, 10, "about 250 steps; 400 training images in batches of 16"),
        (5000, 16, 10, "about 3130 steps; 5000 training images in batches of 16"),
        (100, 16, 36, "about 250 steps; 100 training images in batches of 16"),
        (40, 10, 63, "about 250 steps; 40 training images in batches of 10"),
        (16, 4, 63, "about 250 steps; 16 training images in batches of 4"),
        (3, 2, 250, "about 250 steps; 3 training images in batches of 2"),
    ],
)
def test_few_images_are_trained_as_many_steps_as_400_and_in_smaller_batches(
    images: int, batch: int, epochs: int, reason: str
) -> None:
    network = build_network("compact_unet", 3)
    chosen, why = auto_settings.batch_size(None, network, (64, 64), CPU, images)
    assert chosen == batch and ("a quarter of the training images" in why) == (batch < 16)
    per_epoch = len(loader.epoch_batches(images, chosen, 0, 0))
    assert auto_settings.epochs(None, per_epoch, images, chosen) == (epochs, reason)
    assert auto_settings.epochs(7, per_epoch, images, chosen) == (7, "as set")


def test_a_small_batch_has_two_images_for_each_process() -> None:
    network = build_network("compact_unet", 3)
    assert auto_settings.batch_size(None, network, (64, 64), CPU, 8, processes=4)[0] == 8


def test_automatic_settings_depend_on_data_and_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_network("compact_unet", 3)
    small, large = (auto_settings.batch_size(None, network, size, CPU, 400)[0] for size in ((64, 64), (360, 480)))
    assert small == 16 and large == 4, "about the same number of pixels per step"
    one = auto_settings.step_memory(network, (64, 64))
    assert auto_settings.step_memory(network, (128, 128)) == pytest.approx(4 * one, rel=0.1)
    monkeypatch.setattr(auto_settings, "free_memory", lambda _: 6 * one)
    batch, reason = auto_settings.batch_size(None, network, (64, 64), CPU, 400)
    assert batch == 3 and "limited by memory" in reason
    assert auto_settings.batch_size(7, network, (64, 64), CPU, 4)[0] == 7
    assert auto_settings.precision("auto", CPU)[0] == torch.float32
    assert [auto_settings.augmentation("auto", passes)[0] for passes in (1, 29.9, 30)] == ["light", "light", "standard"]
    assert auto_settings.augmentation("strong", 1) == ("strong", "as set")
    assert auto_settings.step_seconds(network, 2, (32, 32), CPU) < auto_settings.step_seconds(
        network, 8, (128, 128), CPU
    )
    assert all(p.grad is None for p in network.parameters()), "measured on a copy"


@pytest.mark.parametrize("strength", ["none", "light", "standard", "strong"])
def test_crops_are_never_shrunk(strength: str) -> None:
    """A step sees objects at the scale of validation, or enlarged as without --crop-size, but never a reduced image."""
    columns = torch.arange(256, dtype=torch.uint8).expand(4, 3, 192, 256)
    limits = dataclasses.replace(STRENGTHS[strength], light=0.0, colour=0.0, flip=0.0)
    masks = torch.zeros(4, 192, 256, dtype=torch.uint8)
    crops, labels = augment(columns, masks, limits, (64, 64), np.random.default_rng(0))
    assert crops.shape == (4, 3, 64, 64) and labels.shape == (4, 64, 64)
    shown = crops[:, 0, 32, -1] - crops[:, 0, 32, 0]  # columns of the image between the first and the last of a crop
    if limits.area == 1:
        assert (shown == 63).all() and len(set(crops[:, 0, 0, 0].tolist())) > 1
    assert (shown <= 63 * limits.aspect**0.5 + 1).all()


def test_a_crop_larger_than_the_image_keeps_proportions() -> None:
    rows = (torch.arange(40, dtype=torch.uint8) * 4)[:, None].expand(3, 40, 80)[None]
    crop, _ = augment(
        rows, torch.zeros(1, 40, 80, dtype=torch.uint8), STRENGTHS["none"], (80, 80), np.random.default_rng(0)
    )
    assert crop.shape == (1, 3, 80, 80) and crop[0, 0, -1, 0] - crop[0, 0, 0, 0] > 150


class Encoded(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 2, 1)


def test_an_encoder_is_a_group_that_learns_at_its_share_of_the_rate() -> None:
    network = Encoded()
    head, encoder = parameter_groups(network, 0.15)
    assert [head[SHARE], encoder[SHARE]] == [1, 0.15]
    assert list(map(id, encoder["params"])) == list(map(id, network.encoder.parameters()))
    assert list(map(id, head["params"])) == list(map(id, network.head.parameters()))
    network.encoder.bias.requires_grad_(False)  # type: ignore[union-attr]
    assert [p.shape for p in parameter_groups(network, 0.15)[1]["params"]] == [network.encoder.weight.shape]
    network.encoder.bias.requires_grad_(True)  # type: ignore[union-attr]
    (everything,) = parameter_groups(network, 1.0)
    assert list(map(id, everything["params"])) == list(map(id, network.parameters()))
    with pytest.raises(ValueError, match="Conv2d has no encoder"):
        parameter_groups(network.encoder, 0.15)


def test_state_of_an_optimizer_with_other_groups_is_refused() -> None:
    network = Encoded()
    earlier = torch.optim.AdamW(network.parameters(), 1e-3)  # without shares, as earlier versions stored it
    whole = torch.optim.AdamW(parameter_groups(network, 1.0), 1e-3)
    load_optimizer(whole, earlier.state_dict())
    assert [group[SHARE] for group in whole.param_groups] == [1]
    parted = torch.optim.AdamW(parameter_groups(network, 0.15), 1e-3)
    with pytest.raises(AppError, match="the checkpoint is of a version that trained these layers differently"):
        load_optimizer(parted, earlier.state_dict())


def test_optimizer_takes_the_steps_of_torch() -> None:
    ours, torchs = Encoded(), Encoded()
    torchs.load_state_dict(ours.state_dict())
    optimizers = (
        build_optimizer(ours, 1e-2, 0.15, CPU),
        torch.optim.AdamW(parameter_groups(torchs, 0.15), 1e-2, weight_decay=WEIGHT_DECAY, fused=True),
    )
    for _ in range(3):
        for network, optimizer in zip((ours, torchs), optimizers, strict=True):
            optimizer.zero_grad(set_to_none=True)
            network.head(network.encoder(torch.ones(1, 3, 5, 5))).square().sum().backward()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), torchs.parameters(), strict=True))
    states = [optimizer.state_dict()["state"] for optimizer in optimizers]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key][name], states[1][key][name]) for key in states[0] for name in states[0][key])


@given(
    st.integers(1, 5), st.booleans(), st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(16, 48), st.integers(16, 48)), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_crop_is_resized_as_by_torchvision(
    channels: int, last: bool, crop: tuple[int, int], size: tuple[int, int], seed: int
) -> None:
    from torchvision.transforms.v2 import functional as F

    pixels = np.random.default_rng(seed).integers(0, 256, (50, 60, channels), np.uint8)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    part = (image if last else image.contiguous())[:, 3 : 3 + crop[0], 7 : 7 + crop[1]]
    assert torch.equal(resize_crop(part, size), F.resize(part, list(size), F.InterpolationMode.BILINEAR))
