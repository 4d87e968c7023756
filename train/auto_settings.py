"""Values for settings that are left open, from the data and the machine; each with its reason, for the record."""

from __future__ import annotations

import copy
import math
import time

import numpy as np
import torch
from torch import nn

from core.console import format_size
from core.i18n import tr, trn
from core.machine.limits import available_memory
from core.settings import InvalidSetting
from dataset.data import SegmentationData
from segmentation.model import SCALES
from segmentation.networks.packages import LITE_FPN
from segmentation.networks.registry import COMPACT

STEPS, EPOCHS = 250, 10  # least optimizer steps and epochs: 400 images in batches of 16 reach both at once
LARGEST_SIDE = 512  # pixels; larger images are scaled down unless IMAGE_SIZE is set
STEP_PIXELS = 350_000  # pixels per step: many small steps learn more from the same images than few large ones
BATCHES = (4, 16)  # smallest and largest batch size that is chosen from the input size
BATCH_SHARE = 4  # parts of the training split: a batch has at most one, so that steps differ and an epoch has several
MANY_EPOCHS = 30  # from here on a network overfits the images without standard augmentation
FROZEN_LEVELS = 2  # measured on CamVid: a third more images/s, and val mIoU 0.671 instead of 0.659 in the same time
ENCODER_SHARE = 0.15  # measured on CamVid: val mIoU 0.62 instead of 0.60 after 30 epochs
VALIDATION_SHARE, VALIDATIONS = 0.1, 5  # most of the time that validation takes; least number of validations
STEP_COST, PIXEL_COST = 3.0, 0.5  # per pixel, of a training step and of the metrics at native size; 1: of the network
MEMORY_SHARE = 0.5  # fraction of the free memory for the activations that a step keeps for its gradients


def epochs(wanted: int | None, steps_per_epoch: int, images: int, batch: int) -> tuple[int, str]:
    """Return the number of epochs, and why: a few images need more epochs for the same number of optimizer steps.

    `images` is the number of the training split.
    """
    if wanted is not None:
        return wanted, tr("as set")
    chosen = max(EPOCHS, -(-STEPS // steps_per_epoch))
    steps = STEPS if chosen > EPOCHS else chosen * steps_per_epoch
    reason = trn(
        "about {steps} steps; {count} training image in batches of {batch}",
        "about {steps} steps; {count} training images in batches of {batch}",
        images,
        steps=steps,
        batch=batch,
    )
    return chosen, reason


def working_size(data: SegmentationData, wanted: tuple[int, int] | None) -> tuple[tuple[int, int], str]:
    """Return the input size (height, width) in pixels, and why. Raises UsageError for one that no model file allows."""
    if wanted is not None:
        if max(working_scale(data, wanted)) > SCALES[1]:
            problem = tr("larger than the images by a factor of more than {factor:g}", factor=SCALES[1])
            raise InvalidSetting("IMAGE_SIZE", wanted, problem=problem)
        return wanted, tr("as set")
    heights, widths = zip(*((pair.height, pair.width) for pair in data.pairs), strict=True)
    height, width = float(np.median(heights)), float(np.median(widths))
    scale = min(1.0, LARGEST_SIDE / max(height, width))
    size = (max(16, round(height * scale)), max(16, round(width * scale)))
    if scale < 1:
        return size, tr("median of the data {height:.0f}x{width:.0f}, scaled down", height=height, width=width)
    return size, tr("median of the data")


def working_scale(data: SegmentationData, size: tuple[int, int]) -> tuple[float, float]:
    """Return input pixels per pixel of an image of the median size, vertically and horizontally."""
    heights, widths = zip(*((pair.height, pair.width) for pair in data.pairs), strict=True)
    return size[0] / float(np.median(heights)), size[1] / float(np.median(widths))


def batch_size(
    wanted: int | None,
    network: nn.Module,
    size: tuple[int, int],
    device: torch.device,
    images: int,
    channels: int = 3,
    processes: int = 1,
) -> tuple[int, str]:
    """Return the batch size of all processes together, and why. `images` is the number of the training split."""
    if wanted is not None:
        return wanted, tr("as set")
    smallest, largest = BATCHES
    batch = max(smallest, min(largest, STEP_PIXELS // (size[0] * size[1])))
    reason = tr("from the input size")
    share = max(images // BATCH_SHARE, 2 * processes)  # batch normalization needs two images per process
    if share < batch:
        batch, reason = share, tr("a quarter of the training images, {count}, at most", count=images)
    one, free = step_memory(network, size, channels), free_memory(device)
    fitting = max(1, int(free * MEMORY_SHARE / one))
    if fitting < batch:
        need = tr("{size} per image, {free} free", size=format_size(one), free=format_size(free))
        return fitting, tr("limited by memory: {need}", need=need)
    return batch, reason


def step_memory(network: nn.Module, size: tuple[int, int], channels: int = 3) -> int:
    """Return the bytes that a training step keeps per image for its gradients, counted in one pass over two empty images."""
    kept: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    trial = copy.deepcopy(network).cpu().train()
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        outputs = trial(torch.zeros(2, channels, *size))  # noqa: F841  (it keeps the counted tensors alive)
    weights = {p.untyped_storage().data_ptr() for p in trial.parameters()}
    return max(1, sum(size for place, size in kept.items() if place not in weights) // 2)


def free_memory(device: torch.device) -> int:
    """Return the free memory of the device in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory()


def peak_rate(wanted: float | None, model: str, pretrained: bool, trained: bool = False) -> tuple[float, str]:
    """Return the peak learning rate of AdamW, and why; `trained`: all weights are those of a trained model.

    Measured on CamVid (benchmarks/warm_start.py, compact_fpn): from the champion, a third of the rate from scratch needs
    the fewest steps until the model is as good again, and gives the best one; the whole rate first destroys what is known.
    """
    if wanted is not None:
        return wanted, tr("as set")
    if trained:
        return (1e-3 if model in COMPACT else 3e-4), tr("a third of that from scratch: more destroys what is known")
    if pretrained and model == LITE_FPN:
        return 3e-3, tr("a new decoder on a small encoder with published weights")
    if pretrained:
        return 3e-4, tr("preserves the published weights")
    if model in COMPACT:
        return 3e-3, tr("a small network from scratch")
    return 1e-3, tr("a large network from scratch")


def encoder_share(model: str, pretrained: bool) -> tuple[float, str]:
    """Return the learning rate of an encoder with published weights, as a part of that of the other layers, and why."""
    if pretrained and model == LITE_FPN:
        return ENCODER_SHARE, tr("keeps the published weights, while the decoder learns at full rate")
    return 1.0, tr("all layers alike")


def frozen_levels(model: str, pretrained: bool, channels: int) -> tuple[int, str]:
    """Return how many levels of an encoder's pyramid, the finest first, keep their published weights, and why.

    An encoder has to learn what bands mean that its published weights do not know.
    """
    if pretrained and model == LITE_FPN and channels == 3:
        return FROZEN_LEVELS, tr(
            "published weights of edges and colours suit other images, too; a step takes three quarters of the time"
        )
    return 0, tr("all layers are trained")


def augmentation(wanted: str, epochs: float) -> tuple[str, str]:
    """Return the name of the augmentation strength for a training of this many epochs, and why."""
    if wanted != "auto":
        return wanted, tr("as set")
    if epochs < MANY_EPOCHS:
        shown = round(epochs)
        reason = trn(
            "{count} epoch: more would slow the training", "{count} epochs: more would slow the training", shown
        )
        return "light", reason
    return "standard", tr("{epochs} epochs: less would lead to overfitting", epochs=round(epochs))


def validation_interval(wanted: int | None, epochs: float, trained: int, validated: tuple[int, int]) -> tuple[int, str]:
    """Return the epochs from one validation to the next, and why.

    `trained`: pixels of an epoch's training steps; `validated`: pixels of a validation at the input size and at native
    size. The pixels decide, not clocks: a resumed training must come to the same result.
    """
    if wanted is not None:
        return wanted, tr("as set")
    inputs, outputs = validated
    cost = (inputs + PIXEL_COST * outputs) / (STEP_COST * max(1, trained))
    wished = math.ceil(cost * (1 - VALIDATION_SHARE) / VALIDATION_SHARE)
    chosen = max(1, min(wished, int(epochs) // VALIDATIONS))
    if chosen == wished:
        return chosen, tr("validation takes at most {share:.0%} of the time", share=VALIDATION_SHARE)
    return chosen, tr("each of few epochs") if chosen == 1 else trn(
        "at least {count} validation", "at least {count} validations", VALIDATIONS
    )


def step_seconds(
    network: nn.Module, batch: int, size: tuple[int, int], device: torch.device, channels: int = 3
) -> float:
    """Return the approximate seconds of a training step: the second of two trial steps on a copy of the network."""
    trial = copy.deepcopy(network).to(memory_format=torch.channels_last).to(device).train()
    images = torch.zeros(batch, channels, *size, device=device).to(memory_format=torch.channels_last)
    for _ in range(2):
        start = time.perf_counter()
        outputs = trial(images)
        (outputs if isinstance(outputs, torch.Tensor) else outputs[0]).square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return time.perf_counter() - start


def precision(wanted: str, device: torch.device) -> tuple[torch.dtype, str]:
    """Return the number format of a training step, and why. Validation and inference always use float32, so they agree."""
    if wanted != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[wanted], tr("as set")
    if device.type != "cuda":
        return torch.float32, tr("half precision has no advantage on this device")
    if torch.cuda.get_device_capability(device) >= (8, 0):
        return torch.bfloat16, tr("the tensor cores of the GPU")
    if torch.cuda.get_device_capability(device) >= (7, 0):
        return torch.float16, tr("the tensor cores of the GPU")
    return torch.float32, tr("a GPU without tensor cores")
