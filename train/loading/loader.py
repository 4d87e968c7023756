"""Images at working size for the network, decoded once, in an order that depends on (seed, epoch)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from core.files import write_atomically
from core.machine.limits import usable_cores
from dataset.classes import ClassMap
from dataset.data import Pair, SegmentationData
from dataset.decoding.options import ReadOptions
from dataset.sources.files import LOCAL_FILES, FileSource
from segmentation.preprocess import Normalisation
from train.loading.decoded_cache import Decoded, open_decoded
from train.loading.prefetch import decode_ahead
from train.loading.shared_memory import explain_worker_errors, usable_workers
from train.loading.split import Arrays, Split
from train.parallel import distributed
from versioning.streaming.files import StreamedFiles

PAGE_BYTES = 4096  # of memory
Batch = tuple[Tensor, Tensor, list[Tensor]]


class SegmentationDataset(Dataset[Arrays]):
    """One split: item i is (image (H,W,C), mask (H,W), both at working size, mask (h,w) at native size), uint8.

    Training needs no native mask: with `native=False` the third is the second. Images are read from their files, each
    verified against its commit, until `attach_decoded_cache` has put them into the cache.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        classes: ClassMap,
        size: tuple[int, int],
        native: bool,
        reading: ReadOptions,
        source: FileSource = LOCAL_FILES,
    ) -> None:
        self.pairs, self.split = pairs, Split(pairs, classes, size, native, reading, source)
        self.decoded: Decoded | None = None
        self.next_uses: Sequence[int] | None = None  # of each pair, while files are streamed: see `plan_reads`

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def streamed(self) -> bool:
        """Whether each epoch reads the images from a server."""
        return self.decoded is None and self.split.source.streamed

    def ahead(self, indices: Iterable[int], threads: int = 0) -> Iterator[Arrays]:
        """Yield what `arrays` returns for these indices, in their order; those that follow are read meanwhile."""
        if self.decoded is not None:
            return (self.decoded[index] for index in indices)
        return decode_ahead(self.split, indices, self.next_uses, threads)

    def arrays(self, index: int) -> Arrays:
        """Return image (H,W,C) and mask (H,W) at working size and mask at native size; read-only."""
        return self.split.decode(index) if self.decoded is None else self.decoded[index]

    def __getitem__(self, index: int) -> Arrays:
        return self.arrays(index)


def plan_reads(
    train: SegmentationDataset, val: SegmentationDataset, epoch: int, orders: Sequence[Sequence[int]]
) -> None:
    """Tell the cache of streamed files when each pair will be read again; `orders`: of this epoch and of the next one.

    Time counts the pairs that are read: in each epoch those of train in its order, then those of val. At the first call
    the cache learns of this epoch, too: files from an earlier run or the data check stay if they are used soon.
    """
    length, source = len(train) + len(val), train.split.source
    if not (train.streamed and isinstance(source, StreamedFiles)):
        return
    times = [epoch * length + np.argsort(order) for order in orders]  # positions of pairs 0, 1, ...
    if train.next_uses is None:
        first = [*zip(train.pairs, times[0].tolist(), strict=True)]
        first += zip(val.pairs, itertools.count(epoch * length + len(train)), strict=False)
        source.plan((sha256, when) for pair, when in first for sha256 in (pair.image_sha256, pair.mask_sha256))
    train.next_uses = (times[1] + length).tolist()
    val.next_uses = range((epoch + 1) * length + len(train), (epoch + 2) * length)


def attach_decoded_cache(folder: Path, limit: float, *images: SegmentationDataset) -> None:
    """Let these splits read from the cache of decoded images in `folder`, if they fit into `limit` bytes.

    The first process of each machine writes and verifies the files; the others wait for it.
    """
    splits = [split.split for split in images]
    opened: list[Decoded] | None = None

    def open_in_first() -> list[Path] | None:
        nonlocal opened
        opened = open_decoded(folder, limit, splits)
        return None if opened is None else [decoded.path for decoded in opened]

    files = distributed.broadcast_on_node(open_in_first)
    if files is not None and opened is None:
        opened = _open_in_others(folder, limit, splits, files)
    for split, decoded in zip(images, opened or (), strict=opened is not None):
        split.decoded = decoded


def _open_in_others(folder: Path, limit: float, splits: list[Split], files: list[Path]) -> list[Decoded] | None:
    """Open the files that the first process of this machine has made; None if there is no longer room for them."""
    try:
        return [Decoded(file, split) for split, file in zip(splits, files, strict=True)]
    except FileNotFoundError:  # meanwhile, another training has removed them to make room for its own
        return open_decoded(folder, limit, splits)


def downloaded_bytes(data: SegmentationData, cache: Path) -> int:
    """Return the bytes of images and masks that were downloaded for a training; 0 if they are in a data directory."""
    if data.source.streamed or not data.root.is_relative_to(cache):
        return 0
    files = {path for pair in data.pairs for path in (pair.image, pair.mask)}
    return sum(data.source.size(path) for path in files)


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


def _collate(pairs: list[Arrays]) -> Batch:
    """Copy arrays of equal size into a batch, images in channels_last; native masks may differ in size and stay a list.

    A worker process moves them to shared memory here, where a failure reaches the training. Otherwise its queue does, in
    a thread that drops the batch and leaves the training waiting for it.
    """
    images, small, native = zip(*pairs, strict=True)
    masks = torch.from_numpy(np.stack(small))
    same = zip(masks, small, native, strict=True)  # a native mask of working size, or of training, is not copied again
    full = [mask if array is resized else torch.from_numpy(array.copy()) for mask, resized, array in same]
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), masks, full
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


def load(images: SegmentationDataset, batches: list[list[int]], workers: int, pinned: bool = False) -> Iterator[Batch]:
    """Yield batches in the given order: images (N,C,H,W) uint8, masks (N,H,W) uint8, native masks [(h,w) uint8].

    `pinned`: in page-locked memory, from which a GPU copies asynchronously. Streamed images are decoded by `workers`
    threads (0: one for two cores), others by as many processes (0: this one).
    """
    # Reading decoded images in another process would only add the time to copy them.
    if images.streamed or images.decoded is not None:
        yield from _load_here(images, batches, workers, pinned)
        return
    processes = usable_workers(workers, _batch_bytes(images, batches))
    with explain_worker_errors(processes):
        yield from DataLoader(
            images, batch_sampler=batches, num_workers=processes, collate_fn=_collate, pin_memory=pinned
        )


def _load_here(images: SegmentationDataset, batches: list[list[int]], threads: int, pinned: bool) -> Iterator[Batch]:
    # Half of the cores suffice; more would interrupt the threads of a training step on the CPU, which wait for each other.
    arrays = images.ahead((index for batch in batches for index in batch), threads or max(1, usable_cores() // 2))
    for indices in batches:
        image, masks, native = _collate([next(arrays) for _ in indices])
        yield (image.pin_memory(), masks.pin_memory(), native) if pinned else (image, masks, native)


def normalisation_of(images: SegmentationDataset, folder: Path) -> Normalisation:
    """Return what `measure_normalisation` does; of streamed images it is measured once, and kept in `folder`."""
    if not images.streamed:
        return measure_normalisation(images)
    record = folder / f"normalisation-{images.split.key()}.json"
    try:
        mean, std = json.loads(record.read_bytes())
        return Normalisation(tuple(map(float, mean)), tuple(map(float, std)))
    except (FileNotFoundError, ValueError, TypeError):
        measured = measure_normalisation(images)
        write_atomically(record, json.dumps([measured.mean, measured.std]).encode())
        return measured


def measure_normalisation(images: SegmentationDataset, limit: int = 512) -> Normalisation:
    """Return mean and standard deviation of each channel over up to `limit` images, evenly taken from the split."""
    chosen = np.linspace(0, len(images) - 1, min(limit, len(images))).round().astype(int)
    channels = images.split.reading.channels
    total, squares, count = np.zeros(channels), np.zeros(channels), 0
    for image, _, _ in images.ahead(map(int, chosen)):
        lines = image.reshape(len(image), -1).astype(np.uint32)  # sums of whole lines are five times as fast
        total += lines.sum(0).reshape(-1, channels).sum(0)
        squares += np.square(lines, out=lines).sum(0).reshape(-1, channels).sum(0)
        count += image.shape[0] * image.shape[1]
    mean = total / count / 255
    # A data set of a single colour must not cause a division by 0.
    std = np.sqrt(np.maximum(squares / count / 255**2 - mean**2, 1e-4))
    return Normalisation(tuple(map(float, mean)), tuple(map(float, std)))
