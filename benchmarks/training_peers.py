"""Provide the loops that benchmarks/training.py compares with: torchvision's and SMP's recipes, bare steps, a plain folder loop."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from config import Settings
from core.machine.heap import keep_freed_memory
from dataset.classes import IGNORE_INDEX, ClassMap
from dataset.data import Pair
from dataset.decoding.image import read_image
from dataset.decoding.mask import read_mask
from dataset.decoding.options import DEFAULT_READING
from dataset.validation import check_data
from segmentation.losses import build_loss
from segmentation.metrics import ConfusionMatrix
from segmentation.networks.registry import build_network
from segmentation.preprocess import Normalisation, to_input
from train.optim.ema import AveragedWeights

PEER_SIZE = (240, 320)  # of the peers' crops, as in their figures in README.md
PEER_BATCH = 8
CPU = torch.device("cpu")
IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # as in torchvision's reference scripts
Figures = dict[str, Any]


# --- accuracy ---


class Folder(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Images read from their files each time, as torchvision's reference scripts do; `crops` as its presets have them."""

    def __init__(self, pairs: tuple[Pair, ...], classes: ClassMap, size: tuple[int, int], crops: bool) -> None:
        from torchvision import tv_tensors
        from torchvision.transforms import v2

        aspect = size[1] / size[0]
        crop = v2.RandomResizedCrop(size, scale=(0.25, 1.0), ratio=(0.9 * aspect, 1.1 * aspect))
        types = {tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64}
        self.pairs, self.classes, self.tv = pairs, classes, tv_tensors
        self.change = v2.Compose(
            [
                crop if crops else v2.Resize(size),
                v2.RandomHorizontalFlip(),
                *([] if crops else [v2.ColorJitter(brightness=0.2, contrast=0.2)]),
                v2.ToDtype(types, scale=True),
                v2.Normalize(IMAGENET.mean, IMAGENET.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pair = self.pairs[index]
        mask = torch.from_numpy(read_mask(pair.mask.read_bytes(), self.classes, DEFAULT_READING).copy())
        image: tuple[Tensor, Tensor] = self.change(
            self.tv.Image(Image.open(pair.image).convert("RGB")), self.tv.Mask(mask)
        )
        return image


def peer(options: argparse.Namespace) -> Figures:
    """Train another project's network by its recipe for `seconds`, then measure it at native size; in a child process."""
    torch.manual_seed(options.seeds[0])
    data = check_data(options.data, 0, make_split=False)
    network = build_network(options.network, data.classes.num_classes).train()
    if options.network.startswith("smp:"):
        optimizer: torch.optim.Optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    else:
        optimizer = torch.optim.SGD(network.parameters(), 0.02, momentum=0.9, weight_decay=1e-6)
    dataset = Folder(data.split("train"), data.classes, PEER_SIZE, crops=True)
    loader = torch.utils.data.DataLoader(
        dataset, PEER_BATCH, shuffle=True, drop_last=True, num_workers=1, persistent_workers=True
    )
    peak, start, images, share = optimizer.param_groups[0]["lr"], time.perf_counter(), 0, 0.0
    while share < 1:
        for inputs, labels in loader:
            share = (time.perf_counter() - start) / options.seconds
            if share >= 1:
                break
            optimizer.param_groups[0]["lr"] = peak * (1 - share) ** 0.9
            step(network, optimizer, inputs, labels)
            images += len(inputs)
    seconds = time.perf_counter() - start
    confusion = measure(network.eval(), data.split("val"), data.classes)
    test = measure(network, data.split("test"), data.classes).miou if data.split("test") else None
    return {
        "network": options.network, "images": images, "seconds": seconds, "val": confusion.miou, "test": test,
        "accuracy": confusion.accuracy, "iou": dict(zip(data.classes.names, confusion.iou(), strict=True)),
    }  # fmt: skip


def step(network: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, labels: Tensor) -> None:
    """Do one training step: forward, backward, optimizer."""
    loss = F.cross_entropy(network(inputs), labels, ignore_index=IGNORE_INDEX)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


@torch.inference_mode()
def measure(network: nn.Module, pairs: tuple[Pair, ...], classes: ClassMap) -> ConfusionMatrix:
    """Return the metrics of a split at native size, for a network whose input has PEER_SIZE."""
    confusion = ConfusionMatrix(classes.num_classes)
    for pair in pairs:
        image = torch.from_numpy(read_image(pair.image, DEFAULT_READING).copy()).permute(2, 0, 1)[None]
        small = F.interpolate(image.float(), PEER_SIZE, mode="bilinear", antialias=True)
        logits = F.interpolate(network(to_input(small, IMAGENET, CPU)), image.shape[-2:], mode="bilinear")
        confusion.update(logits[0].argmax(0), torch.from_numpy(read_mask(pair.mask, classes, DEFAULT_READING).copy()))
    return confusion


# --- speed ----------------------------------------------------------------------------------------------------------


def bare(options: argparse.Namespace) -> Figures:
    """Time the steps alone, on tensors in memory, with the settings of our training; in a child process."""
    keep_freed_memory()
    torch.manual_seed(0)
    settings = Settings()
    data = check_data(options.data, 0, make_split=False)
    network = build_network(options.network, data.classes.num_classes).to(memory_format=torch.channels_last).train()
    criterion, _ = build_loss(settings.loss, settings.class_weights, data.pixel_counts["train"])
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, fused=True)
    average = AveragedWeights(network, settings.ema)
    inputs = torch.randn(options.batch, 3, *options.size).to(memory_format=torch.channels_last)
    labels = torch.randint(0, data.classes.num_classes, (options.batch, *options.size), dtype=torch.uint8)

    numbers = itertools.count(1)

    def steps() -> Iterator[int]:
        while True:
            loss, _ = criterion(network(inputs), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)
            optimizer.step()
            average.update(next(numbers))
            yield len(inputs)

    return rate(steps(), options.seconds)


def plain(options: argparse.Namespace) -> Figures:
    """Time a loop over the folder as in torchvision's references, with the augmentation of ours; in a child process."""
    torch.manual_seed(0)
    data = check_data(options.data, 0, make_split=False)
    network = build_network(options.network, data.classes.num_classes).train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    dataset = Folder(data.split("train"), data.classes, tuple(options.size), crops=False)
    loader = torch.utils.data.DataLoader(
        dataset, options.batch, shuffle=True, drop_last=True, num_workers=options.workers,
        persistent_workers=options.workers > 0,
    )  # fmt: skip

    def steps() -> Iterator[int]:
        while True:
            for inputs, labels in loader:
                step(network, optimizer, inputs, labels)
                yield len(inputs)

    return rate(steps(), options.seconds)


def rate(steps: Iterator[int], seconds: float) -> Figures:
    """Return images/s and CPU seconds per image, without the first step."""
    next(steps)
    start, cpu, images = time.perf_counter(), time.process_time(), 0
    for count in steps:
        images += count
        if time.perf_counter() - start >= seconds:
            break
    return {
        "images_per_second": images / (time.perf_counter() - start),
        "cpu_per_image": (time.process_time() - cpu) / images,
    }
