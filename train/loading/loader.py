"""Pictures at working size for the network, decoded once, in an order made from (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dataset.classes import ClassMap, UInt8
from dataset.layout import Pair
from segmentation.preprocess import Normalisation
from train.loading.decoded_cache import Decoded, Split, prepare
from train.parallel import distributed

Sample = tuple[Tensor, Tensor, Tensor]


class SegmentationDataset(Dataset[Sample]):
    """One split: item i is (image (3,H,W) uint8, mask (H,W) uint8 at working size, mask (h,w) uint8 at native size).

    Training needs no native mask: with `native=False` the third is the second. Pictures come from their files, each of
    which is compared with its commit, until `decode_once` has put them into the cache.
    """

    def __init__(self, pairs: Sequence[Pair], classes: ClassMap, size: tuple[int, int], native: bool) -> None:
        self.pairs, self.split = pairs, Split(pairs, classes, size, native)
        self.decoded: Decoded | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def arrays(self, index: int) -> tuple[UInt8, UInt8, UInt8]:
        """Image (H,W,3) and mask (H,W) at working size, mask at native size; read-only."""
        return self.split.decode(index) if self.decoded is None else self.decoded[index]

    def __getitem__(self, index: int) -> Sample:
        image, small, mask = self.arrays(index)
        return (
            torch.from_numpy(image.copy()).permute(2, 0, 1),
            torch.from_numpy(small.copy()),
            torch.from_numpy(mask.copy()),
        )


def attach_decoded_cache(folder: Path, limit: float, *pictures: SegmentationDataset) -> None:
    """Let these splits read from the cache of decoded pictures in `folder`, at most `limit` bytes, where they have room.

    The first process of each machine makes and verifies the files; the others wait for it.
    """
    files = distributed.broadcast_on_node(lambda: prepare(folder, limit, [split.split for split in pictures]))
    for split, file in zip(pictures, files or (), strict=files is not None):
        split.decoded = Decoded(file, split.split)


def epoch_batches(count: int, batch_size: int, seed: int, epoch: int, least: int = 2) -> list[list[int]]:
    """Indices of each batch: a shuffle made from (seed, epoch) alone, which is what makes an exact resume possible.

    A last batch of one would give batch normalisation a single picture: one of fewer than `least` joins the batch
    before it, and a batch that is still smaller is shown more than once.
    """
    order = np.random.default_rng((seed, epoch)).permutation(count).tolist()
    batches = [order[i : i + batch_size] for i in range(0, count, batch_size)]
    if len(batches) > 1 and len(batches[-1]) < least:
        last = batches.pop()
        batches[-1] += last
    return [batch * -(-least // len(batch)) for batch in batches]


def _collate(samples: list[Sample]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Stack what has one size; native masks may differ and stay a list."""
    images, small, native = zip(*samples, strict=True)
    return torch.stack(images), torch.stack(small), list(native)


def load(
    pictures: SegmentationDataset, batches: list[list[int]], workers: int, pinned: bool = False
) -> Iterator[tuple[Tensor, Tensor, list[Tensor]]]:
    """Batches in the given order: images (N,3,H,W) uint8, masks (N,H,W) uint8, native masks [(h,w) uint8].

    `pinned`: in memory from which a GPU copies while the CPU goes on.
    """
    # Decoded pictures need no other process to read them, only the time to copy them over.
    processes = workers if pictures.decoded is None else 0
    return iter(
        DataLoader(pictures, batch_sampler=batches, num_workers=processes, collate_fn=_collate, pin_memory=pinned)
    )


def measure_normalisation(pictures: SegmentationDataset, most: int = 512) -> Normalisation:
    """Mean and standard deviation of R, G, B over up to `most` pictures, evenly taken from the split."""
    chosen = np.linspace(0, len(pictures) - 1, min(most, len(pictures))).round().astype(int)
    total, squares, count = np.zeros(3), np.zeros(3), 0
    for index in chosen:
        pixels = pictures.arrays(int(index))[0].reshape(-1, 3).astype(np.float64) / 255
        total, squares, count = total + pixels.sum(0), squares + (pixels**2).sum(0), count + len(pixels)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1e-4))  # a data set of one colour must not divide by 0
    return Normalisation(tuple(map(float, mean)), tuple(map(float, std)))
