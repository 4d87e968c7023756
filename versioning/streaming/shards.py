"""Shards: the images and masks of a data commit in few large objects, as tar files in WebDataset's format.

A commit of shards is a child of the data commit with `shards/NNNNNN.tar`, the other files of the data below
`shards/files/`, and `shards/index.jsonl`: where each file of the source commit is, with its SHA-256. It only transports
the source commit, whose files it must have exactly: a training on it is one on the source commit, in the same order.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from config import ROOT, Settings
from core.errors import AppError, UsageError
from core.files import safe_join
from core.git import read_facts
from core.hashing import file_sha256
from core.i18n import tr
from core.reporting import notify, progress, result
from core.safety.private_files import make_directory
from dataset.data import Pair, SegmentationData
from utils.identifiers import InvalidValue, ObjectPath, Sha256, parse_size
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import LakeFS, LakePath
from versioning.streaming.files import StreamedFiles

PREFIX, INDEX, OTHERS = "shards/", "index.jsonl", "files/"
SOURCE_KEY = "shards_of"  # metadata of a commit of shards: the path of the data commit
FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """A file of the source commit, and where its bytes are in the commit of shards."""

    name: str  # below the data of the source commit
    object: str  # path below `PREFIX`
    offset: int
    size: int  # in bytes
    sha256: str
    whole: bool  # whether the object has nothing else


def source_of(lake: LakeFS, commit: LakePath) -> LakePath | None:
    """Return the data commit whose shards a commit has; None for a commit of something else. Raises AppError."""
    recorded = lake.commit_metadata(commit.ref, commit.repo).get(SOURCE_KEY)
    if recorded is None:
        return None
    try:
        return LakePath.parse_recorded(recorded)
    except InvalidValue as error:
        raise AppError(tr("{commit}: invalid {key}: {error}", commit=commit, key=SOURCE_KEY, error=error)) from error


def require_webdataset() -> Any:
    """Return the module that writes shards. Raises UsageError with the command that installs it."""
    try:
        import webdataset.writer
    except ImportError:
        raise UsageError(tr("lake.py shards needs webdataset: pip install webdataset")) from None
    return webdataset.writer.TarWriter


# --- write ----------------------------------------------------------------------------------------------------------------


def write_shards(
    settings: Settings, lake: LakeFS, source: LakePath, data: SegmentationData, branch: str, size: float
) -> None:
    """Commit the shards of a checked data commit to a branch, and report the commit; `size`: bytes of a shard.

    One shard at a time is on the disk. A call after a kill uploads only what is missing. Raises AppError, UsageError.
    """
    assert isinstance(data.source, StreamedFiles)
    _start_branch(lake, source, branch)
    purpose = hashlib.sha256(f"{source} {branch} {size} {FORMAT}".encode()).hexdigest()
    private = f"sync-shards-{purpose[:24]}"
    with lake.convert_errors(tr("private branch")):
        lake.refs.create_branch(private, lake.head())
    there = {file.path: file.sha256 for file in lake.objects(private, PREFIX)}
    entries: list[Entry] = []
    make_directory(settings.cache_dir)
    with tempfile.TemporaryDirectory(dir=settings.cache_dir) as folder:
        for name, file, found in _objects(data, data.source, size, Path(folder)):
            entries += found
            _upload(lake, private, name, file, there)
        index = Path(folder) / INDEX
        index.write_text("".join(_lines(source, entries)), encoding="utf-8")
        _upload(lake, private, INDEX, index, there)
    wanted = {PREFIX + entry.object for entry in entries} | {PREFIX + INDEX}
    lake.publisher.remove(private, sorted(there.keys() - wanted))
    metadata = {**read_facts(ROOT).metadata(), SOURCE_KEY: str(source)}
    message = f"shards of {source}"
    lake.publisher.commit_staged(private, message, metadata)
    merged = lake.publisher.merge_into_target(private, message, metadata)
    if merged is None:
        raise AppError(tr("branch {branch} changed meanwhile: run again", branch=branch))
    lake.delete_branch(private)
    notify(tr("files: {files}, objects: {objects}", files=len(entries), objects=len(wanted)))
    result(tr("shards of {source}: {commit_id}", source=source, commit_id=merged))


def _start_branch(lake: LakeFS, source: LakePath, branch: str) -> None:
    """Let the branch be published to: a new one from the source commit, or one of its shards. Raises UsageError."""
    lake.require_experiment_name(branch)
    if not lake.has_branch(branch):
        lake.create_branch(branch, source.ref)
    head = lake.head(branch)
    if head != source.ref and source_of(lake, LakePath(lake.repo, head, PREFIX)) != source:
        raise UsageError(
            tr("branch {branch} exists and has something else: choose another name for --to", branch=branch)
        )
    lake.start_experiment(branch)


def _upload(lake: LakeFS, branch: str, name: str, file: Path, there: dict[ObjectPath, Sha256 | None]) -> None:
    sha256 = file_sha256(file)
    if there.get(ObjectPath(PREFIX + name)) != sha256:
        lake.upload(branch, PREFIX + name, LocalFile(file, sha256))
    file.unlink()


def _objects(
    data: SegmentationData, files: StreamedFiles, size: float, folder: Path
) -> Iterator[tuple[str, Path, list[Entry]]]:
    """Yield (path below `PREFIX`, file, entries) of each object: the shards, then the other files."""
    names = {path: path.relative_to(data.root).as_posix() for path in files.files}
    left = set(files.files)
    parts = list(_parts(data.pairs, files, size))
    for number, pairs in enumerate(progress(parts, len(parts), tr("writing shards"), tr("shards"))):
        name = f"{number:06}.tar"
        left -= {path for pair in pairs for path in (pair.image, pair.mask)}
        yield name, folder / name, _write_shard(folder / name, name, pairs, files, names)
    for path in sorted(left):
        content = files.read(path)
        target = folder / "other"
        target.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        name = OTHERS + names[path]
        yield name, target, [Entry(names[path], name, 0, len(content), sha256, True)]


def _parts(pairs: Iterable[Pair], files: StreamedFiles, size: float) -> Iterator[list[Pair]]:
    """Yield the pairs of each shard: as many as fit into `size` bytes, at least one; pages of a file are one pair."""
    part: list[Pair] = []
    total, seen = 0, set[Path]()
    for pair in pairs:
        if pair.image in seen:
            continue
        seen.add(pair.image)
        needed = files.size(pair.image) + files.size(pair.mask)
        if part and total + needed > size:
            yield part
            part, total = [], 0
        part.append(pair)
        total += needed
    if part:
        yield part


def _write_shard(file: Path, name: str, pairs: list[Pair], files: StreamedFiles, names: dict[Path, str]) -> list[Entry]:
    """Write a tar file that depends on its content only; return where its files are."""
    hashes: dict[str, tuple[str, str]] = {}  # member -> name and SHA-256
    with file.open("wb") as stream, _tar_writer(stream) as writer:
        for number, pair in enumerate(pairs):
            # WebDataset takes what follows the first '.' of a name as the kind of a file.
            key = f"{number:06}_{PurePosixPath(names[pair.image]).stem.replace('.', '_')}"[:80]
            sample: dict[str, Any] = {"__key__": key}
            for kind, path, sha256 in (
                ("image", pair.image, pair.image_sha256),
                ("mask", pair.mask, pair.mask_sha256),
            ):
                field = kind + path.suffix.lower()
                sample[field] = files.read(path, sha256)
                hashes[f"{key}.{field}"] = names[path], sha256
            writer.write(sample)
    with tarfile.open(file) as tar:
        return [
            Entry(hashes[member.name][0], name, member.offset_data, member.size, hashes[member.name][1], False)
            for member in tar.getmembers()
        ]


def _tar_writer(stream: IO[bytes]) -> Any:
    return require_webdataset()(stream, user="root", group="root", mtime=0, encoder=False)


def _lines(source: LakePath, entries: list[Entry]) -> Iterator[str]:
    head = {"format": FORMAT, "source": str(source), "files": len(entries)}
    yield json.dumps(head) + "\n"
    for entry in entries:
        row = [entry.name, entry.object, entry.offset, entry.size, entry.sha256, entry.whole]
        yield json.dumps(row, ensure_ascii=False) + "\n"


# --- read -----------------------------------------------------------------------------------------------------------------


def read_index(content: bytes, source: LakePath) -> list[Entry]:
    """Return the entries of an index. Raises AppError for one that is damaged or of other data."""
    try:
        head, *rows = (json.loads(line) for line in content.decode().splitlines())
        if head["format"] != FORMAT or head["source"] != str(source) or head["files"] != len(rows):
            raise ValueError(str(head))
        return [_entry(row) for row in rows]
    except (ValueError, TypeError, LookupError, InvalidValue) as error:
        raise AppError(
            tr(
                "{index}: not the index of the shards of {source} ({error}): write them again by lake.py shards",
                index=PREFIX + INDEX,
                source=source,
                error=str(error)[:200],
            )
        ) from error


def _entry(row: list[Any]) -> Entry:
    name, stored, offset, size, sha256, whole = row
    safe_join(Path("/"), PREFIX + stored)
    return Entry(
        str(ObjectPath(name)),
        str(ObjectPath(stored)),
        parse_size(offset),
        parse_size(size),
        Sha256(sha256),
        bool(whole),
    )
