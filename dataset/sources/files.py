"""Where the files of a data set are read from: the disk, or what implements the same interface for a remote store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from core.errors import UsageError
from core.i18n import tr
from dataset.classes import ClassMap
from dataset.decoding.options import ReadOptions
from dataset.directory import Listing, list_directory, require_contents
from dataset.pages import count_pages_of
from dataset.pair_reading import PairContent, read_pairs
from dataset.pairing import Candidate


class FileSource(Protocol):
    """The files of one data set, by their paths below its root; hashable and thread-safe."""

    def __hash__(self) -> int:
        """Return the hash of this object."""

    @property
    def streamed(self) -> bool:
        """Whether images and masks are not on this disk: reading one may take a request to a server."""

    def listing(self, root: Path) -> Listing:
        """Return the files below `root`; those that are neither images nor masks can be opened. Raises UsageError."""

    def count_pages(self, path: Path) -> int:
        """Return the number of pages of an image file; 1 also for a file that cannot be read, which reading will say."""

    def contents(
        self,
        files: Mapping[str, Path],
        candidates: list[Candidate],
        classes: ClassMap | None,
        options: ReadOptions,
    ) -> Iterator[PairContent]:
        """Yield what a check must know of every pair, in order; every file is read at most once."""

    def read(self, path: Path, sha256: str = "", next_use: int | None = None) -> bytes:
        """Return the content of a file, which must have this SHA-256 unless it is empty.

        `next_use` is the time at which this content will be read again, as a number that grows with each read of the
        training; None: unknown. Raises UsageError or AppError for other content.
        """

    def size(self, path: Path) -> int:
        """Return the size of a file in bytes. Raises OSError."""


class LocalFiles:
    """Files of a directory on this disk."""

    streamed = False

    def listing(self, root: Path) -> Listing:
        """Return the entries of the directory. Raises UsageError for pointers of Git LFS."""
        listing = list_directory(root)
        if not listing.refused:  # nothing of a directory with special files or links out of it is read
            require_contents(root, listing.files)
        return listing

    def count_pages(self, path: Path) -> int:
        """Return the number of pages of a file, from its headers."""
        return count_pages_of(path)

    def contents(
        self,
        files: Mapping[str, Path],
        candidates: list[Candidate],
        classes: ClassMap | None,
        options: ReadOptions,
    ) -> Iterator[PairContent]:
        """Yield the content of every pair, in order."""
        return read_pairs(lambda name: files[name].read_bytes(), candidates, classes, options)

    def read(self, path: Path, sha256: str = "", next_use: int | None = None) -> bytes:  # noqa: ARG002
        """Return the content of a file. Raises UsageError if it has changed since the data check."""
        content = path.read_bytes()
        if sha256 and hashlib.sha256(content).hexdigest() != sha256:
            raise UsageError(tr("{path}: changed since it was committed: run again", path=path))
        return content

    def size(self, path: Path) -> int:
        """Return the size of a file in bytes."""
        return path.stat().st_size


LOCAL_FILES = LocalFiles()
