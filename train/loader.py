"""Pictures at working size for the network: read once, checked against the commit, in an order made from (seed, epoch)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from train.classes import ClassMap, UInt8
from train.dataset import DataSet, Pair
from train.pictures import read_image, read_mask
from train.preprocess import Normalisation, resize_image, resize_mask
from utils.console import UsageError, progress, t

CACHE_BYTES = 2 << 30  # decoded pictures up to this size stay in memory; beyond it, each epoch reads the files again
LARGEST_DEFAULT_SIDE = 512  # pixels; larger pictures are scaled down unless IMAGE_SIZE says otherwise
Sample = tuple[Tensor, Tensor, Tensor]


class Pictures(Dataset[Sample]):
    """One split: item i is (image (3,H,W) uint8, mask (H,W) uint8 at working size, mask (h,w) uint8 at native size).

    Training needs no native mask: with `native=False` the third is the second. The bytes of every file are compared
    with the hash that was committed, so that what is learnt is what the commit holds. Raises UsageError otherwise.
    """

    def __init__(self, pairs: Sequence[Pair], classes: ClassMap, size: tuple[int, int], native: bool) -> None:
        self.pairs, self.classes, self.size, self.native = pairs, classes, size, native
        pixels = sum(4 * size[0] * size[1] + (pair.height * pair.width if native else 0) for pair in pairs)
        self.cache: list[tuple[UInt8, UInt8, UInt8] | None] | None = None
        if pixels <= CACHE_BYTES:
            self.cache = [None] * len(pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def fill(self, description: str) -> None:
        """Read everything that will be kept in memory now, behind a progress bar."""
        if self.cache is not None:
            for i in progress(range(len(self)), len(self), description, "images"):
                self.cache[i] = self._read(self.pairs[i])

    def _read(self, pair: Pair) -> tuple[UInt8, UInt8, UInt8]:
        mask = read_mask(_checked(pair.mask, pair.mask_sha256), self.classes)
        image = resize_image(read_image(_checked(pair.image, pair.image_sha256)), self.size)
        small = resize_mask(mask, self.size)
        return image, small, mask if self.native else small

    def arrays(self, index: int) -> tuple[UInt8, UInt8, UInt8]:
        """Image (H,W,3) and mask (H,W) at working size, mask at native size, from memory where they are kept."""
        kept = self.cache[index] if self.cache is not None else None
        return kept if kept is not None else self._read(self.pairs[index])

    def __getitem__(self, index: int) -> Sample:
        image, small, mask = self.arrays(index)
        return (
            torch.from_numpy(image.copy()).permute(2, 0, 1),
            torch.from_numpy(small.copy()),
            torch.from_numpy(mask.copy()),
        )


def _checked(path: object, sha256: str) -> bytes:
    """The bytes of a file whose content must not have changed since the check."""
    from pathlib import Path

    content = Path(str(path)).read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UsageError(
            t(
                f"{path}: 커밋한 뒤에 내용이 바뀌었습니다: 다시 실행하세요",
                f"{path}: changed since it was committed: run again",
            )
        )
    return content


def epoch_batches(count: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Indices of each batch: a shuffle made from (seed, epoch) alone, which is what makes an exact resume possible.

    A last batch of one would give batch normalisation a single picture: it joins the batch before it, and a data set
    of a single picture is shown twice.
    """
    order = np.random.default_rng((seed, epoch)).permutation(count).tolist()
    batches = [order[i : i + batch_size] for i in range(0, count, batch_size)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        last = batches.pop()
        batches[-1] += last
    return [batch * 2 if len(batch) == 1 else batch for batch in batches]


def _collate(samples: list[Sample]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Stack what has one size; native masks may differ and stay a list."""
    images, small, native = zip(*samples, strict=True)
    return torch.stack(images), torch.stack(small), list(native)


def load(pictures: Pictures, batches: list[list[int]], workers: int) -> Iterator[tuple[Tensor, Tensor, list[Tensor]]]:
    """Batches in the given order: images (N,3,H,W) uint8, masks (N,H,W) uint8, native masks [(h,w) uint8]."""
    # Pictures in memory need no other process to read them, only the time to copy them over.
    processes = 0 if pictures.cache is not None else workers
    return iter(DataLoader(pictures, batch_sampler=batches, num_workers=processes, collate_fn=_collate))


def augment(images: Tensor, masks: Tensor, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
    """Flip half of the pictures left to right, with their masks, and vary brightness by up to 20 %; from (seed, epoch, step).

    images (N,3,H,W) uint8, masks (N,H,W) uint8; the same shapes and types come back.
    """
    random = np.random.default_rng((seed, epoch, step, 1))
    flip = torch.from_numpy(random.random(len(images)) < 0.5)
    images = torch.where(flip[:, None, None, None], images.flip(-1), images)
    masks = torch.where(flip[:, None, None], masks.flip(-1), masks)
    gain = torch.from_numpy(random.uniform(0.8, 1.2, (len(images), 1, 1, 1)).astype(np.float32))
    return (images * gain).clamp_(0, 255).to(torch.uint8), masks


def working_size(data: DataSet, wanted: tuple[int, int] | None) -> tuple[tuple[int, int], str]:
    """(height, width) in pixels that the network sees, and the reason for it, to be printed."""
    if wanted is not None:
        return wanted, t("설정값", "as set")
    heights, widths = zip(*((pair.height, pair.width) for pair in data.pairs), strict=True)
    height, width = float(np.median(heights)), float(np.median(widths))
    scale = min(1.0, LARGEST_DEFAULT_SIDE / max(height, width))
    size = (max(16, round(height * scale)), max(16, round(width * scale)))
    if scale < 1:
        return size, t(
            f"데이터의 중앙값 {height:.0f}x{width:.0f} 를 축소",
            f"median of the data {height:.0f}x{width:.0f}, scaled down",
        )
    return size, t("데이터의 중앙값", "median of the data")


def measure_normalisation(pictures: Pictures, most: int = 512) -> Normalisation:
    """Mean and standard deviation of R, G, B over up to `most` pictures, evenly taken from the split."""
    chosen = np.linspace(0, len(pictures) - 1, min(most, len(pictures))).round().astype(int)
    total, squares, count = np.zeros(3), np.zeros(3), 0
    for index in chosen:
        pixels = pictures.arrays(int(index))[0].reshape(-1, 3).astype(np.float64) / 255
        total, squares, count = total + pixels.sum(0), squares + (pixels**2).sum(0), count + len(pixels)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1e-4))  # a data set of one colour must not divide by 0
    return Normalisation(tuple(map(float, mean)), tuple(map(float, std)))


def class_weights(pixel_counts: Sequence[int]) -> Tensor:
    """Loss weights (num_classes,) float32 from the share p of each class: 1 / ln(1.1 + p), mean 1 over those present.

    The bounded form of ENet (Paszke et al., 2016, arXiv:1606.02147); a class that never occurs weighs 0.
    """
    counts = torch.tensor(pixel_counts, dtype=torch.float64)
    weights = torch.where(counts > 0, 1 / torch.log(1.1 + counts / counts.sum().clamp_min(1)), 0.0)
    return (weights / weights[counts > 0].mean()).float() if bool((counts > 0).any()) else weights.float()
