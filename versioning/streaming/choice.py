"""Whether a data commit is streamed or downloaded, by STREAM and PICTURE_CACHE_GB; shards are always streamed."""

from __future__ import annotations

from pathlib import Path

from config import Settings
from core.console import format_size
from core.errors import AppError, UsageError
from core.files import safe_join, write_atomically
from core.i18n import tr
from core.reporting import notify
from dataset.directory import is_image
from dataset.samples import select_data
from utils.identifiers import Checksum, ObjectPath, Sha256
from utils.lakefs_client.content import Digests, RemoteFile, verify_digests
from utils.lakefs_client.download import commit_directory, object_file
from utils.lakefs_utils import LakeFS, LakePath
from versioning.streaming.disk import make_room
from versioning.streaming.files import Place, Stored, StreamedFiles, is_kept
from versioning.streaming.shards import INDEX, PREFIX, Entry, read_index, source_of
from versioning.versions import cached_files, compare


def open_streamed(settings: Settings, lake: LakeFS, source: LakePath) -> StreamedFiles | None:
    """Return the files of a data commit to be streamed; None if the commit is to be downloaded, or is in the cache.

    Files that are no images are downloaded in any case. Raises AppError, UsageError.
    """
    cache, limit = settings.cache_dir, settings.picture_cache_gb * 1e9
    if settings.stream != "always" and cached_files(lake, source, cache) is not None:
        return None
    of_shards = source_of(lake, source)
    if of_shards is not None:
        return _open_shards(settings, lake, source, of_shards)
    if settings.stream == "never":
        return None
    listed = lake.downloader.list_objects(source, _links(lake))
    needed = sum(file.size_bytes for file in listed if is_image(file.path))
    if not needed or (settings.stream == "auto" and needed <= limit):
        return None
    _report(settings, needed, source)
    kept = {file.path for file in listed if is_kept(file)}
    tree = lake.download(source, cache, kept.__contains__) if kept else commit_directory(source, cache)
    files = {object_file(tree, file.path): file for file in select_data(lake, source, cache, listed)}
    return StreamedFiles(lake, _place(settings, source, source), files)


def _links(lake: LakeFS) -> bool:
    """Return whether the server offers presigned links."""
    with lake.convert_errors(tr("the server's configuration")):
        return lake.connection.transfer.presign_support()[0]


def _place(settings: Settings, source: LakePath, objects: LakePath) -> Place:
    root = safe_join(commit_directory(source, settings.cache_dir), source.path)
    limit = settings.picture_cache_gb * 1e9
    make_room(settings.decoded_dir, limit)
    return Place(source, objects, root, settings.cache_dir, settings.decoded_dir, limit)


def _report(settings: Settings, needed: int, source: LakePath) -> None:
    notify(
        tr(
            "streaming {needed} of images from {source} through a cache of {limit} (STREAM={stream}, PICTURE_CACHE_GB)",
            needed=format_size(needed),
            source=source,
            limit=format_size(settings.picture_cache_gb * 1e9),
            stream=settings.stream,
        )
    )


def _open_shards(settings: Settings, lake: LakeFS, commit: LakePath, source: LakePath) -> StreamedFiles:
    """Return the files of `source`, to be read from the commit of its shards. Raises AppError, UsageError."""
    objects = LakePath(commit.repo, commit.ref, PREFIX)
    if settings.stream == "never":
        raise UsageError(
            tr("{objects}: shards are always streamed: use STREAM=auto, or {source}", objects=objects, source=source)
        )
    listed = {file.path: file for file in lake.downloader.list_objects(objects, _links(lake))}
    entries = read_index(_read_index(lake, objects, listed), source)
    _require_same(settings, lake, objects, source, entries)
    _report(settings, sum(entry.size for entry in entries if is_image(entry.name)), objects)
    place = _place(settings, source, objects)
    files, stored = {}, {}
    for entry in entries:
        path = safe_join(place.root, entry.name)
        name = ObjectPath(source.path + entry.name)
        files[path] = RemoteFile(name, entry.size, Sha256(entry.sha256), Checksum(entry.sha256))
        stored[path] = Stored(ObjectPath(PREFIX + entry.object), entry.offset, entry.whole)
        if stored[path].path not in listed:
            raise AppError(
                tr("{objects}: {name} is missing: write the shards again", objects=objects, name=entry.object)
            )
    found = StreamedFiles(lake, place, files, (stored, listed))
    for path, file in files.items():
        if is_kept(file) and not path.exists():
            write_atomically(path, found.receive(path)[0])
    return found


def _read_index(lake: LakeFS, objects: LakePath, listed: dict[ObjectPath, RemoteFile]) -> bytes:
    remote = listed.get(ObjectPath(PREFIX + INDEX))
    if remote is None:
        raise AppError(tr("{objects}: {name} is missing: write the shards again", objects=objects, name=INDEX))
    digests, content = Digests(md5=remote.sha256 is None), bytearray()
    for chunk in lake.read(objects, remote):
        digests.update(chunk)
        content += chunk
    verify_digests(remote, digests)
    return bytes(content)


def _require_same(settings: Settings, lake: LakeFS, objects: LakePath, source: LakePath, entries: list[Entry]) -> None:
    """Raise AppError unless the shards have exactly the files of the source commit; looked up once."""
    mark: Path = settings.cache_dir / "checks" / f"shards-{objects.ref}"
    if mark.exists():
        return
    listed = select_data(lake, source, settings.cache_dir, lake.downloader.list_objects(source, links=False))
    have = {entry.name: entry.sha256 for entry in entries}
    wanted = {
        name: file.sha256 or have.get(name, "") for file in listed for name in [file.path.removeprefix(source.path)]
    }
    changes = compare(have, wanted)
    if changes:
        raise AppError(
            tr(
                "{objects} does not have the files of {source} ({changes}): write the shards again by lake.py shards",
                objects=objects,
                source=source,
                changes=changes.counts(),
            )
        )
    write_atomically(mark, str(source).encode())
