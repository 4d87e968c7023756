"""StreamedFiles: a data commit whose images and masks are read from lakeFS, through a cache of bounded size."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import AppError
from core.files import write_atomically
from core.hashing import file_sha256
from core.i18n import tr
from dataset.classes import ClassMap
from dataset.decoding.options import ReadOptions
from dataset.decoding.tiff import count_pages
from dataset.directory import Listing, is_image
from dataset.pair_reading import PairContent, read_pairs
from dataset.pairing import Candidate
from dataset.sources.facts import decode_facts, encode_facts, facts_key
from dataset.sources.files import FileSource
from utils.identifiers import ObjectPath
from utils.lakefs_client.content import Digests, RemoteFile, verify_digests
from utils.lakefs_utils import LakeFS, LakePath
from versioning.streaming.disk import BoundedCache
from versioning.versions import data_manifest

SMALL_BYTES = 16 << 20  # of files that are no images, up to which they are downloaded
LINK_MARGIN_S = 30  # a link that expires earlier is renewed before it is used


def shards_of(source: FileSource) -> LakePath | None:
    """Return the commit of shards that files are read from; None if they are read in another way."""
    if not isinstance(source, StreamedFiles) or source.place.objects == source.place.source:
        return None
    return source.place.objects


def is_kept(file: RemoteFile) -> bool:
    """Return whether a file is downloaded as in every other training: lists and texts, which are small."""
    return not is_image(file.path) and file.size_bytes <= SMALL_BYTES


@dataclass(frozen=True)
class Stored:
    """Where an object has the bytes of a file: all of it, or a part of a shard."""

    path: ObjectPath
    offset: int = 0
    whole: bool = True


@dataclass(frozen=True)
class Place:
    """Where streamed files come from and pass through; the processes of a training have it in common."""

    source: LakePath  # the data commit
    objects: LakePath  # the commit that is read from: the same one, or that of its shards
    root: Path  # where the files of the commit would be, and where those that are no images are
    cache: Path
    pictures: Path  # of the decoded images and the bounded cache
    limit: float  # in bytes
    timeline: str = field(default_factory=lambda: secrets.token_hex(8))


class StreamedFiles:
    """The files of a commit; images and masks are requested when they are read, and verified against the commit.

    A copy in another process, made by pickle, needs a connection of its own (`connect`).
    """

    streamed = True

    def __init__(
        self,
        lake: LakeFS,
        place: Place,
        files: Mapping[Path, RemoteFile],
        shards: tuple[Mapping[Path, Stored], Mapping[ObjectPath, RemoteFile]] | None = None,
    ) -> None:
        """`files`: the files of the commit by where they would be below `place.root`.

        `shards`: where their bytes are, and the objects by their paths; None: each file is an object of its own.
        """
        self.place, self.files = place, dict(files)
        stored, objects = shards or ({}, {})
        self._stored: dict[Path, Stored] = dict(stored)
        self._objects: dict[ObjectPath, RemoteFile] = dict(objects)
        self.learned: dict[Path, str] = {}  # SHA-256 of objects that other clients uploaded without one
        self._pages: dict[str, int] | None = None
        self.connect(lake)

    def connect(self, lake: LakeFS) -> None:
        """Use this connection until it is closed, and open the cache for this process."""
        self.lake = lake
        self._slots = threading.BoundedSemaphore(lake.connection.workers)
        self.disk = BoundedCache(self.place.pictures, self.place.limit, self.place.timeline)
        lake.connection.at_close.callback(self.disk.close)

    def __getstate__(self) -> dict[str, Any]:
        """Leave connection and cache out."""
        return {name: value for name, value in vars(self).items() if name not in ("lake", "disk", "_slots")}

    # --- the interface of FileSource ---

    def listing(self, root: Path) -> Listing:
        """Return the files of the commit."""
        return Listing(dict(sorted((path.relative_to(root).as_posix(), path) for path in self.files)), ())

    def count_pages(self, path: Path) -> int:
        """Return the number of pages of an image file; that of TIFF files is kept."""
        if self._pages is None:
            self._pages = _read_json(self._facts_file("pages"))
        name = path.relative_to(self.place.root).as_posix()
        if name not in self._pages:
            self._pages[name] = count_pages(self.read(path))
        return self._pages[name]

    def contents(
        self,
        files: Mapping[str, Path],
        candidates: list[Candidate],
        classes: ClassMap | None,
        options: ReadOptions,
    ) -> Iterator[PairContent]:
        """Yield the content of every pair, in order; without a request if an earlier check has read this commit."""
        record = self._facts_file(facts_key(self.manifest_of_listing(), classes, options))
        known = decode_facts(record.read_text(encoding="utf-8"), candidates) if record.exists() else None
        if known is not None:
            self._learn(files, known)
            yield from known
            return
        found = []
        workers = self.lake.connection.workers
        for content in read_pairs(lambda name: self.read(files[name]), candidates, classes, options, workers):
            found.append(content)
            yield content
        self._learn(files, found)
        text = encode_facts(found)
        if text is not None:
            write_atomically(record, text.encode())
        if self._pages:
            write_atomically(self._facts_file("pages"), json.dumps(self._pages).encode())

    def read(self, path: Path, sha256: str = "", next_use: int | None = None) -> bytes:
        """Return the verified content of a file. Raises AppError, ChecksumMismatch among them, naming the object."""
        remote = self.files[path]
        if is_kept(remote) and path.exists():
            return path.read_bytes()  # downloaded and verified before
        known = remote.sha256 or sha256
        content = self._cached(known) if known else None
        if content is None:
            content, known = self.receive(path)
            self.disk.offer(known, content, next_use)
        elif next_use is not None:
            self.disk.plan([(known, next_use)])
        if sha256 and sha256 != known:
            raise AppError(
                tr("{path}: SHA-256 {found}, expected {expected}", path=remote.path, found=known, expected=sha256)
            )
        return content

    def size(self, path: Path) -> int:
        """Return the size of a file in bytes."""
        return self.files[path].size_bytes

    # --- for the training ---

    def plan(self, uses: Iterable[tuple[str, int]]) -> None:
        """State when contents (SHA-256, time) are read next, so that those that are read soon stay in the cache."""
        self.disk.plan(uses)

    def hashes(self) -> dict[str, str]:
        """Return path below the data -> SHA-256 of every file; objects without a recorded hash are read."""
        return {
            path.relative_to(self.place.root).as_posix(): remote.sha256 or self.learned.get(path) or self._hash(path)
            for path, remote in self.files.items()
        }

    def manifest_of_listing(self) -> str:
        """Return the hash of the data set as the commit lists it, with checksums where it records no SHA-256."""
        listed = {
            path.relative_to(self.place.root).as_posix(): remote.sha256 or remote.checksum
            for path, remote in self.files.items()
        }
        return data_manifest(listed, self.place.source.path)

    # --- transfers ---

    def _cached(self, sha256: str) -> bytes | None:
        """Return content from the bounded cache, or from that of downloads, where another commit may have left it."""
        content = self.disk.read(sha256)
        if content is not None:
            return content
        with contextlib.suppress(OSError):
            content = (self.place.cache / "sha256" / sha256).read_bytes()
        return content if content is not None and hashlib.sha256(content).hexdigest() == sha256 else None

    def receive(self, path: Path) -> tuple[bytes, str]:
        """Return the verified content of a file from the server, and its SHA-256. Raises AppError."""
        transfer, source, remote = self.lake.connection.transfer, self.place.objects, self.files[path]
        stored = self._stored.get(path, Stored(remote.path))
        stop = None if stored.whole else stored.offset + remote.size_bytes
        digests = Digests(md5=remote.sha256 is None)
        chunks = []
        with self._slots:
            holder = self._with_link(path, stored)
            renew = functools.partial(self._renewed_link, path, stored)
            if stop is None or remote.size_bytes:
                for chunk in transfer.read(source.repo, source.ref, holder, stored.offset, stop, renew):
                    digests.update(chunk)
                    chunks.append(chunk)
        verify_digests(remote, digests)
        return b"".join(chunks), digests.sha256.hexdigest()

    def _with_link(self, path: Path, stored: Stored) -> RemoteFile:
        """Return the object that has a file, with a link that is still valid, if the server offers links."""
        holder = self._objects.get(stored.path, self.files[path])
        if holder.link and holder.link_expiry and time.time() > holder.link_expiry - LINK_MARGIN_S:
            return self._renewed(path, stored)
        return holder

    def _renewed(self, path: Path, stored: Stored) -> RemoteFile:
        found = self.lake.queries.renew_link(self.place.objects.ref, stored.path, self.place.objects.repo)
        if stored.path in self._objects:
            self._objects[stored.path] = found
        else:
            self.files[path] = found
        return found

    def _renewed_link(self, path: Path, stored: Stored) -> str | None:
        return self._renewed(path, stored).link

    # --- hashes and facts ---

    def _hash(self, path: Path) -> str:
        if is_kept(self.files[path]):
            return file_sha256(path)
        return hashlib.sha256(self.read(path)).hexdigest()

    def _learn(self, files: Mapping[str, Path], contents: Sequence[PairContent]) -> None:
        for content in contents:
            self.learned[files[content.candidate.image]] = content.image_sha256
            self.learned[files[content.candidate.mask]] = content.mask_sha256

    def _facts_file(self, key: str) -> Path:
        manifest = self.manifest_of_listing()
        return self.place.cache / "checks" / manifest / f"{key}.json"


def _read_json(path: Path) -> dict[str, int]:
    try:
        return {str(name): int(count) for name, count in json.loads(path.read_bytes()).items()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return {}
