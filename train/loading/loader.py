"""Images at working size for the network, decoded once, in an order that depends on (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from dataset.classes import ClassMap, UInt8
from dataset.data import Pair
from dataset.decoding.options import ReadOptions
from segmentation.preprocess import Normalisation
from train.loading.decoded_cache import Decoded, Split, prepare_files
from train.loading.shared_memory import explain_worker_errors, usable_workers
from train.parallel import distributed

PAGE_BYTES = 4096  # of memory
Sample = tuple[Tensor, Tensor, Tensor]


class SegmentationDataset(Dataset[Sample]):
    """One split: item i is (image (C,H,W) uint8, mask (H,W) uint8 at working size, mask (h,w) uint8 at native size).

    Training needs no native mask: with `native=False` the third is the second. Images are read from their files, each
    verified against its commit, until `attach_decoded_cache` has put them into the cache.
    """

    def __init__(
        self, pairs: Sequence[Pair], classes: ClassMap, size: tuple[int, int], native: bool, reading: ReadOptions
    ) -> None:
        self.pairs, self.split = pairs, Split(pairs, classes, size, native, reading)
        self.decoded: Decoded | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def arrays(self, index: int) -> tuple[UInt8, UInt8, UInt8]:
        """Return image (H,W,C) and mask (H,W) at working size and mask at native size; read-only."""
        return self.split.decode(index) if self.decoded is None else self.decoded[index]

    def __getitem__(self, index: int) -> Sample:
        image, small, mask = self.arrays(index)
        return (
            torch.from_numpy(image.copy()).permute(2, 0, 1),
            torch.from_numpy(small.copy()),
            torch.from_numpy(mask.copy()),
        )


def attach_decoded_cache(folder: Path, limit: float, *images: SegmentationDataset) -> None:
    """Let these splits read from the cache of decoded images in `folder`, if they fit into `limit` bytes.

    The first process of each machine writes and verifies the files; the others wait for it.
    """
    files = distributed.broadcast_on_node(lambda: prepare_files(folder, limit, [split.split for split in images]))
    for split, file in zip(images, files or (), strict=files is not None):
        split.decoded = Decoded(file, split.split)


def epoch_batches(count: int, batch_size: int, seed: int, epoch: int, least: int = 2) -> list[list[int]]:
    """Return the indices of each batch: a shuffle that depends on (seed, epoch) only, so that a resume can be exact.

    Batch normalization needs more than one image: a last batch of fewer than `least` images joins the batch before it,
    and a batch that is still smaller is repeated.
    """
    order = np.random.default_rng((seed, epoch)).permutation(count).tolist()
    batches = [order[i : i + batch_size] for i in range(0, count, batch_size)]
    if len(batches) > 1 and len(batches[-1]) < least:
        last = batches.pop()
        batches[-1] += last
    return [batch * -(-least // len(batch)) for batch in batches]


def _collate(samples: list[Sample]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Stack tensors of equal size; native masks may differ in size and stay a list.

    A worker process moves them to shared memory here, where a failure reaches the training. Otherwise its queue does, in
    a thread that drops the batch and leaves the training waiting for it.
    """
    images, small, native = zip(*samples, strict=True)
    batch = torch.stack(images), torch.stack(small), list(native)
    if get_worker_info() is not None:
        for tensor in (*batch[:2], *batch[2]):
            tensor.share_memory_()
    return batch


def _batch_bytes(images: SegmentationDataset, batches: list[list[int]]) -> int:
    """Return the bytes of shared memory that the largest batch may take; each tensor takes whole pages."""
    (height, width), channels = images.split.size, images.split.reading.channels
    small = height * width
    native = max((p.height * p.width for p in images.pairs), default=0) if images.split.native else small
    return max(map(len, batches), default=0) * ((channels + 1) * small + native + 2 * PAGE_BYTES)


def load(
    images: SegmentationDataset, batches: list[list[int]], workers: int, pinned: bool = False
) -> Iterator[tuple[Tensor, Tensor, list[Tensor]]]:
    """Yield batches in the given order: images (N,C,H,W) uint8, masks (N,H,W) uint8, native masks [(h,w) uint8].

    `pinned`: in page-locked memory, from which a GPU copies asynchronously.
    """
    # Reading decoded images in another process would only add the time to copy them.
    processes = usable_workers(workers, _batch_bytes(images, batches)) if images.decoded is None else 0
    with explain_worker_errors(processes):
        yield from DataLoader(
            images, batch_sampler=batches, num_workers=processes, collate_fn=_collate, pin_memory=pinned
        )


def measure_normalisation(images: SegmentationDataset, limit: int = 512) -> Normalisation:
    """Return mean and standard deviation of each channel over up to `limit` images, evenly taken from the split."""
    chosen = np.linspace(0, len(images) - 1, min(limit, len(images))).round().astype(int)
    channels = images.split.reading.channels
    total, squares, count = np.zeros(channels), np.zeros(channels), 0
    for index in chosen:
        pixels = images.arrays(int(index))[0].reshape(-1, channels).astype(np.float64) / 255
        total, squares, count = total + pixels.sum(0), squares + (pixels**2).sum(0), count + len(pixels)
    mean = total / count
    std = np.sqrt(
        np.maximum(squares / count - mean**2, 1e-4)
    )  # a data set of a single colour must not cause a division by 0
    return Normalisation(tuple(map(float, mean)), tuple(map(float, std)))
