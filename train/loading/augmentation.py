"""Augmentation of a training batch, images and masks alike; the random numbers depend on (seed, epoch, step).

Scaling, cropping and flipping work on uint8, image by image: torch's vectorized uint8 resize takes a fifth of the time of
sampling a float grid for the whole batch. Colour changes run on the whole batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dataset.classes import IGNORE_INDEX
from segmentation.preprocess import SPARSE_SHARE, as_batch, restore_sparse_labels


@dataclass(frozen=True)
class Strength:
    """Limits of the augmentation; the default values change nothing."""

    area: float = 1.0  # smallest fraction of `size` that a crop shows, enlarged to it, 0..1; 1: always at its own scale
    aspect: float = 1.0  # crops are stretched by up to this factor, 1 or more
    flip: float = 0.0  # probability of a horizontal flip
    light: float = 0.0  # brightness and contrast each change by up to this fraction
    colour: float = 0.0  # each channel changes by up to this fraction


STRENGTHS = {
    "none": Strength(),
    "light": Strength(flip=0.5, light=0.2),
    "standard": Strength(area=0.35, aspect=1.15, flip=0.5, light=0.2, colour=0.05),
    "strong": Strength(area=0.15, aspect=1.33, flip=0.5, light=0.4, colour=0.15),
}


def augment(
    images: Tensor,
    masks: Tensor,
    strength: Strength,
    size: tuple[int, int],
    random: np.random.Generator,
    on_labels: bool = False,
) -> tuple[Tensor, Tensor]:
    """Augment images (N,C,H,W) uint8 and masks (N,H,W) uint8 on their device.

    Returns images (N,C,*size) float32 in about 0..255 and masks (N,*size) uint8. Each image is a random crop of `size` at
    the scale of the image, or of at least `strength.area` of that, enlarged to `size`. `on_labels`: a crop without a
    labelled pixel is moved to one, if there is one.
    """
    pairs = [
        _random_crop(image, mask, strength, size, random, on_labels) for image, mask in zip(images, masks, strict=True)
    ]
    small, labels = (torch.stack(tensors) for tensors in zip(*pairs, strict=True))
    return _change_colours(small, strength, random), labels


def _random_crop(
    image: Tensor,
    mask: Tensor,
    strength: Strength,
    size: tuple[int, int],
    random: np.random.Generator,
    on_labels: bool,
) -> tuple[Tensor, Tensor]:
    """Return a random crop of a pair, possibly mirrored, at `size`."""
    height, width = mask.shape
    largest = _largest_crop((height, width), size)
    side = math.sqrt(random.uniform(strength.area, 1.0))
    stretch = strength.aspect ** (random.uniform(-1, 1) / 2)
    h = min(max(round(largest[0] * side * stretch), 1), height)
    w = min(max(round(largest[1] * side / stretch), 1), width)
    top, left = int(random.integers(0, height - h + 1)), int(random.integers(0, width - w + 1))
    mirrored = random.random() < strength.flip
    if on_labels:
        top, left = _move_to_label(mask, (top, left), (h, w), random)
    image, mask = image[:, top : top + h, left : left + w], mask[top : top + h, left : left + w]
    if (h, w) != size:
        image = resize_crop(image, size)
        small = F.interpolate(mask[None, None], size, mode="nearest-exact")[0, 0]
        sparse = on_labels and bool((mask != IGNORE_INDEX).float().mean() < SPARSE_SHARE)
        mask = restore_sparse_labels(small, mask) if sparse else small
    return (image.flip(-1), mask.flip(-1)) if mirrored else (image, mask)


def resize_crop(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Return an image (C,H,W) uint8 at `size`, bilinear with antialiasing, in its memory format.

    What torchvision's `resize` does where the processor has vector instructions, without the two seconds of its import.
    """
    batch = as_batch(image)
    if image.device.type == "cpu":
        return F.interpolate(batch, size, mode="bilinear", antialias=True)[0]
    return F.interpolate(batch.float(), size, mode="bilinear", antialias=True)[0].round_().to(torch.uint8)


def _largest_crop(image: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Return the size of a crop at the scale of the image, which validation sees too; smaller if the image is smaller."""
    enlarged = max(1.0, size[0] / image[0], size[1] / image[1])
    return min(image[0], round(size[0] / enlarged)), min(image[1], round(size[1] / enlarged))


def _move_to_label(
    mask: Tensor, corner: tuple[int, int], size: tuple[int, int], random: np.random.Generator
) -> tuple[int, int]:
    """Return the top left corner of a window of this size that contains a labelled pixel if the mask (H,W) has one.

    A window that has one already stays where it is; another one is placed around a random labelled pixel.
    """
    (top, left), (h, w) = corner, size
    if bool((mask[top : top + h, left : left + w] != IGNORE_INDEX).any()):
        return corner
    labelled = (mask != IGNORE_INDEX).nonzero()
    if not len(labelled):
        return corner
    row, column = labelled[int(random.integers(len(labelled)))].tolist()
    top = int(random.integers(max(0, row - h + 1), min(row, mask.shape[0] - h) + 1))
    left = int(random.integers(max(0, column - w + 1), min(column, mask.shape[1] - w) + 1))
    return top, left


def _change_colours(images: Tensor, strength: Strength, random: np.random.Generator) -> Tensor:
    """Apply one gain and one offset per image and channel: contrast around mid-grey, brightness, and a tint."""
    if not strength.light and not strength.colour:
        return images.float()
    shape = (len(images), 1, 1, 1)
    contrast, light = (1 + strength.light * random.uniform(-1, 1, shape) for _ in range(2))
    tint = 1 + strength.colour * random.uniform(-1, 1, (*images.shape[:2], 1, 1))
    gain, offset = (
        torch.from_numpy(numbers.astype(np.float32)).to(images.device, non_blocking=True)
        for numbers in (contrast * light * tint, 127.5 * (1 - contrast) * light * tint)
    )
    return images.float().mul_(gain).add_(offset)
