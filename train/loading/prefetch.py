"""Read and decode images ahead of their use, in threads: waiting for files takes no time from the training.

Decoding, hashing and transfers release the interpreter lock. As many threads wait for files as there are connections,
but no more decode at a time than there are cores.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence

from core.machine.limits import available_memory, usable_cores
from core.threads.workers import WORKERS, in_order
from train.loading.split import Arrays, Split

MOST_BYTES = 1 << 30  # of decoded images that wait to be used
MEMORY_SHARE = 8  # parts of the free memory: they take at most one
LEAST = 4  # images ahead
LEAST_READERS = 2
SAMPLED = 64  # pairs whose files are looked at


def decode_ahead(
    split: Split, indices: Iterable[int], next_uses: Sequence[int] | None = None, threads: int = 0
) -> Iterator[Arrays]:
    """Yield the decoded pairs of these indices in their order, several ahead of the one that is used.

    `next_uses`: when each pair of the split is read again, see `FileSource.read`. `threads`: how many decode at a time;
    0: one for each core. Raises the error of a pair in its place.
    """
    decoding = threading.BoundedSemaphore(threads or usable_cores())

    def decode(index: int) -> Arrays:
        contents = split.read(index, None if next_uses is None else next_uses[index])
        with decoding:
            return split.decode(index, contents)

    room = min(MOST_BYTES, available_memory() // MEMORY_SHARE)
    readers = count_readers(split, room) if split.source.streamed else threads or usable_cores()
    return in_order(decode, indices, readers, images_ahead(split, readers, room))


def count_readers(split: Split, room: int) -> int:
    """Return how many threads read files, each of which holds the contents of a pair: they take at most `room` bytes."""
    step = max(1, len(split.pairs) // SAMPLED)
    files = [(pair.image, pair.mask) for pair in split.pairs[::step]]
    largest = max((sum(map(split.source.size, pair)) for pair in files), default=1)
    return max(LEAST_READERS, min(WORKERS, room // max(1, largest)))


def images_ahead(split: Split, readers: int, room: int) -> int:
    """Return how many images are kept ready or being read: they take `room` bytes, and are enough for all readers."""
    size = max(1, split.file_size // max(1, len(split.pairs)))
    return max(LEAST, min(4 * readers, room // size))
