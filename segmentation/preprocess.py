"""Turn an image of any size into logits of that size: the path that training, validation and inference share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from core.i18n import tr
from core.settings import InvalidSetting
from dataset.classes import IGNORE_INDEX, UInt8

SPARSE_SHARE = 0.05  # of labelled pixels, below which a mask consists of scribbles or points
EVAL_BATCH = 8  # batch size of validation and inference: the same, so that both give equal metrics


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each channel, in units of 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def resize_image(image: UInt8, size: tuple[int, int]) -> UInt8:
    """Resize (H,W,C) uint8 to `size` (height, width), antialiased; unchanged where it fits already."""
    if image.shape[:2] == size:
        return image
    if image.shape[2] == 3:
        return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))
    # Band by band: Pillow has no mode for most numbers of bands, and weighs the colours of four by the fourth as alpha.
    bands = (Image.fromarray(np.ascontiguousarray(image[..., band])) for band in range(image.shape[2]))
    return np.stack([np.asarray(b.resize((size[1], size[0]), Image.Resampling.BILINEAR)) for b in bands], axis=2)


def resize_mask(mask: UInt8, size: tuple[int, int]) -> UInt8:
    """Resize (H,W) uint8 class indices to `size` by the nearest pixel: no class is invented between two others.

    Sparse labels are kept, see `restore_sparse_labels`.
    """
    if mask.shape == size:
        return mask
    small = np.asarray(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST))
    if np.count_nonzero(mask != IGNORE_INDEX) >= SPARSE_SHARE * mask.size:
        return small
    return restore_sparse_labels(torch.from_numpy(small.copy()), torch.from_numpy(mask.copy())).numpy()


def restore_sparse_labels(small: Tensor, mask: Tensor) -> Tensor:
    """Return a resized mask (h,w) uint8 with the labels of the mask (H,W) uint8 that lie between the nearest pixels.

    A scribble of one pixel would lose most of its labels when the mask is made smaller. Of several classes in one pixel
    the lowest index stays.
    """
    rows, columns = (mask != IGNORE_INDEX).nonzero(as_tuple=True)
    (height, width), (full_height, full_width) = small.shape, mask.shape
    places = rows * height // full_height * width + columns * width // full_width
    labels = torch.full((height * width,), IGNORE_INDEX, dtype=torch.int32, device=small.device)
    labels.scatter_reduce_(0, places, mask[rows, columns].int(), "amin")
    return torch.where(small == IGNORE_INDEX, labels.view(height, width).to(small.dtype), small)


def to_input(images: Tensor, normalisation: Normalisation, device: torch.device) -> Tensor:
    """Convert (N,C,H,W) uint8 to the network's input: float32, normalised, channels_last, on `device`."""
    images = images.to(device, non_blocking=True).float()
    mean = torch.tensor(normalisation.mean, device=device).view(1, -1, 1, 1) * 255
    std = torch.tensor(normalisation.std, device=device).view(1, -1, 1, 1) * 255
    # Converted last: one number for each of three interleaved channels takes a CPU three times as long.
    return (images - mean).div_(std).to(memory_format=torch.channels_last)


def as_batch(item: Tensor) -> Tensor:
    """Return an image, or logits, (C,H,W) as a batch of one (1,C,H,W) of the same memory.

    `item[None]` of a channels_last item, or of a part of one, has a first stride by which torch takes it for another
    format, and copies it (https://github.com/pytorch/pytorch/issues/68430).
    """
    strides = (item.shape[1] * item.stride(1), *item.stride())
    return item.as_strided((1, *item.shape), strides, item.storage_offset())


def resize_logits(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize logits (num_classes,h,w) float32 to `size` (height, width), bilinear; unchanged where they fit already."""
    if logits.shape[-2:] == size:
        return logits
    return F.interpolate(as_batch(logits), size, mode="bilinear", align_corners=False)[0]


def native_logits(
    network: Callable[[Tensor], Tensor],
    images: Tensor,
    sizes: Sequence[tuple[int, int]],
    normalisation: Normalisation,
    device: torch.device,
) -> Iterator[Tensor]:
    """Yield logits (num_classes, height, width) float32 at each image's own size, from a batch (N,C,H,W) uint8.

    One image at a time: logits at native size are by far the largest tensors in memory.
    """
    logits = network(to_input(images, normalisation, device)).float()
    for item, size in zip(logits, sizes, strict=True):
        yield resize_logits(item, size)


def class_indices(logits: Tensor) -> Tensor:
    """Return the class of each pixel (H,W) int64 of logits (num_classes,H,W)."""
    return logits.max(0).indices  # argmax over the first dimension takes five times as long on a CPU


def choose_device(name: str) -> torch.device:
    """Return the device of that name, ready for work; "auto" takes CUDA, else Apple's MPS, else the CPU.

    Raises UsageError if the machine does not have it.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(candidate for candidate in ("cuda", "mps", "cpu") if available[candidate])
    if not available[name]:
        found = ", ".join(device for device, is_available in available.items() if is_available)
        raise InvalidSetting("DEVICE", name, problem=tr("not on this machine (available: {found})", found=found))
    return torch.device(name)
