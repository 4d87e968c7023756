"""What the settings leave open, from the data and the machine: each with its reason, to be printed and recorded."""

from __future__ import annotations

import copy
import os
import time

import numpy as np
import torch
from torch import nn

from core.console import human_size
from core.i18n import tr
from dataset.layout import SegmentationData
from segmentation.networks import COMPACT

LARGEST_SIDE = 512  # pixels; larger pictures are scaled down unless IMAGE_SIZE says otherwise
STEP_PIXELS = 350_000  # of a step: more small steps learn more from the same pictures than fewer large ones
BATCHES = (4, 16)  # smallest and largest batch that is chosen
MANY_PASSES = 30  # over the training pictures; from here on a network learns them by heart unless they change a lot
MEMORY_SHARE = 0.5  # of the free memory, for the maps that a step keeps for its gradients


def working_size(data: SegmentationData, wanted: tuple[int, int] | None) -> tuple[tuple[int, int], str]:
    """(height, width) in pixels that the network sees, and why."""
    if wanted is not None:
        return wanted, tr("as set")
    heights, widths = zip(*((pair.height, pair.width) for pair in data.pairs), strict=True)
    height, width = float(np.median(heights)), float(np.median(widths))
    scale = min(1.0, LARGEST_SIDE / max(height, width))
    size = (max(16, round(height * scale)), max(16, round(width * scale)))
    if scale < 1:
        return size, tr("median of the data {height:.0f}x{width:.0f}, scaled down", height=height, width=width)
    return size, tr("median of the data")


def working_scale(data: SegmentationData, size: tuple[int, int]) -> tuple[float, float]:
    """Input pixels for each pixel of a picture of the median size, down and across."""
    heights, widths = zip(*((pair.height, pair.width) for pair in data.pairs), strict=True)
    return size[0] / float(np.median(heights)), size[1] / float(np.median(widths))


def batch_size(wanted: int | None, network: nn.Module, size: tuple[int, int], device: torch.device) -> tuple[int, str]:
    """Pictures a step, and why."""
    if wanted is not None:
        return wanted, tr("as set")
    smallest, largest = BATCHES
    batch = max(smallest, min(largest, STEP_PIXELS // (size[0] * size[1])))
    one, free = step_memory(network, size), free_memory(device)
    fitting = max(1, int(free * MEMORY_SHARE / one))
    need = tr("{size} a picture, {size2} free", size=human_size(one), size2=human_size(free))
    if fitting < batch:
        return fitting, tr("what the memory holds: {need}", need=need)
    return batch, tr("from the input size; {need}", need=need)


def step_memory(network: nn.Module, size: tuple[int, int]) -> int:
    """Bytes that a training step keeps for each picture until its gradients: counted in one pass over two empty pictures."""
    kept: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    trial = copy.deepcopy(network).cpu().train()
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        outputs = trial(torch.zeros(2, 3, *size))  # noqa: F841  (it holds what was counted)
    weights = {p.untyped_storage().data_ptr() for p in trial.parameters()}
    return max(1, sum(size for place, size in kept.items() if place not in weights) // 2)


def free_memory(device: torch.device) -> int:
    """Bytes that a program can still take on the device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux: half of what is built in
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def peak_rate(wanted: float | None, model: str, pretrained: bool) -> tuple[float, str]:
    """Peak learning rate of AdamW, and why."""
    if wanted is not None:
        return wanted, tr("as set")
    if pretrained:
        return 3e-4, tr("published weights are to be kept")
    if model in COMPACT:
        return 3e-3, tr("a small network from scratch")
    return 1e-3, tr("a large network from scratch")


def augmentation(wanted: str, passes: float) -> tuple[str, str]:
    """Name of the strength for a training of so many passes over its pictures, and why."""
    if wanted != "auto":
        return wanted, tr("as set")
    if passes < MANY_PASSES:
        return "light", tr("{passes:.0f} passes over the pictures: more would slow the learning", passes=passes)
    return "standard", tr(
        "{passes:.0f} passes over the pictures: less would let them be learnt by heart", passes=passes
    )


def step_seconds(network: nn.Module, batch: int, size: tuple[int, int], device: torch.device) -> float:
    """Seconds of a training step, about: the second of two trial steps on a copy of the network."""
    trial = copy.deepcopy(network).to(memory_format=torch.channels_last).to(device).train()
    images = torch.zeros(batch, 3, *size, device=device).to(memory_format=torch.channels_last)
    for _ in range(2):
        start = time.perf_counter()
        outputs = trial(images)
        (outputs if isinstance(outputs, torch.Tensor) else outputs[0]).square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return time.perf_counter() - start


def precision(wanted: str, device: torch.device) -> tuple[torch.dtype, str]:
    """The number format of a training step, and why. Validation and inference always have float32, so that they agree."""
    if wanted != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[wanted], tr("as set")
    if device.type != "cuda":
        return torch.float32, tr("half precision gains nothing on this device")
    if torch.cuda.get_device_capability(device) >= (8, 0):
        return torch.bfloat16, tr("the tensor cores of the GPU")
    if torch.cuda.get_device_capability(device) >= (7, 0):
        return torch.float16, tr("the tensor cores of the GPU")
    return torch.float32, tr("a GPU without tensor cores")
