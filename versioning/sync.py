"""Push and pull: bring a local directory to lakeFS, and a version from lakeFS to the directory."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from config import ROOT, Settings
from core.errors import AppError, UsageError
from core.files import atomic_replace, remove_partial_files, safe_join, write_atomically
from core.git import LOCK_NAME, read_facts
from core.hashing import file_md5, file_sha256
from core.i18n import tr
from core.reporting import notify, progress
from core.workers import iterate_successes, parallel
from dataset.formats.record import source_metadata
from utils.lakefs_client.content import LocalFile, RemoteFile
from utils.lakefs_utils import LakeFS, LakePath, PublishResult
from versioning.lockfile import Lock, read_lock
from versioning.versions import (
    DATA_PREFIX,
    LOCK,
    MODEL_PREFIX,
    WORKERS,
    cached_files,
    committed_files,
    compare,
    data_manifest,
    find_data,
    hashes_of,
    local_files,
)

UNFINISHED = ".pull-unfinished"  # hidden, in the data directory, while a pull changes it


def push(settings: Settings, lake: LakeFS, message: str | None, keep_remote: bool) -> None:
    """Commit the data directory to the target branch, without a data check, and report the commit."""
    require_complete(settings.data_dir)
    files = local_files(settings)
    metadata = {**read_facts(ROOT).metadata(), **source_metadata(settings.data_dir)}
    done = lake.publish(files, DATA_PREFIX, message or f"data: {len(files)} files", metadata, mirror=not keep_remote)
    report_published(done, len(files))


def report_published(done: PublishResult, count: int) -> None:
    """Report which commit holds the `count` files of a data directory, and what was uploaded for it."""
    if not done.uploaded and not done.removed:
        notify(tr("data unchanged: existing commit {commit_id}", commit_id=done.commit_id))
        return
    notify(
        tr(
            "data commit: {commit_id} ({uploaded} uploaded, {removed} removed, {count} files in total)",
            commit_id=done.commit_id,
            uploaded=done.uploaded,
            removed=done.removed,
            count=count,
        )
    )


def pull(settings: Settings, lake: LakeFS, ref: str, force: bool) -> None:
    """Replace the data directory by that of REF, for `lock` the model too. Raises UsageError if files would be lost."""
    root, cache = settings.data_dir, settings.cache_dir
    lock = read_lock(ROOT)
    source = find_data(lake, ref, cache)
    wanted, have = committed_files(lake, source, cache), local_files(settings)
    if not wanted:
        raise UsageError(tr("{source}: no data", source=source))
    if lock and ref == LOCK and data_manifest(wanted, source.path) != lock.data_manifest_sha256:
        raise AppError(tr("{source}: not the files whose hash is in {lock_name}", source=source, lock_name=LOCK_NAME))
    changes = compare(hashes_of(have), wanted)
    if not force:
        at_risk = {name: have[name] for name in changes.changed + changes.new}
        _refuse_data_loss(root, _uncommitted(lake, lock, at_risk, source.path, cache))
        if lock and ref == LOCK:
            _refuse_data_loss(settings.model_path.parent, _model_at_risk(settings, lake, lock))
    fetch = changes.changed + changes.removed
    if fetch:
        tree = lake.download(source, cache, {source.path + name for name in fetch}.__contains__)
    model = lake.verified_file(lock.model, lock.model_sha256, cache) if lock and ref == LOCK else None
    if changes or (root / UNFINISHED).exists():
        with _marked_unfinished(root, source):
            _remove(root, changes.new)
            if fetch:
                _write(safe_join(tree, source.path), root, {name: wanted[name] for name in fetch})
    notify(
        tr(
            "{root}: {count} files of {source} ({fetch} written, {new} removed)",
            root=root,
            count=len(wanted),
            source=source,
            fetch=len(fetch),
            new=len(changes.new),
        )
    )
    if model is not None and lock is not None:
        _copy_verified(model, settings.model_path, lock.model_sha256)
        notify(tr("{model_path}: {model}", model_path=settings.model_path, model=lock.model))


def download_data(settings: Settings, lake: LakeFS, source: LakePath) -> None:
    """Download the data of a commit into a directory that has none; an interruption is marked as by `pull`."""
    cache = settings.cache_dir
    tree = lake.download(source, cache)
    wanted = committed_files(lake, source, cache)
    with _marked_unfinished(settings.data_dir, source):
        _write(safe_join(tree, source.path), settings.data_dir, wanted)


def _model_at_risk(settings: Settings, lake: LakeFS, lock: Lock) -> list[str]:
    """Return the model file's name if no commit holds its content."""
    path = settings.model_path
    if not path.is_file() or (sha256 := file_sha256(path)) == lock.model_sha256:
        return []
    return _uncommitted(lake, lock, {path.name: LocalFile(path, sha256)}, MODEL_PREFIX, settings.cache_dir)


def _uncommitted(
    lake: LakeFS, lock: Lock | None, files: Mapping[str, LocalFile], prefix: str, cache: Path
) -> list[str]:
    """Return the files whose content no known version holds, under any name; the newest versions are searched first.

    Cached commits are searched before the server: switching between two versions needs no request.
    """
    cached = {file.sha256 for version in _cached_versions(lake, prefix, cache) for file in version}
    left = {name: file for name, file in files.items() if file.sha256 not in cached}
    if not left:
        return []
    for version in _known_versions(lake, lock, prefix):
        if not left:
            return []
        remote = list(_objects_if_any(lake, version))
        known = {file.sha256 for file in remote}
        left = {name: file for name, file in left.items() if file.sha256 not in known}
        others = {file.checksum for file in remote if not file.sha256}
        if others:
            left = {name: file for name, file in left.items() if file_md5(file.path) not in others}
    return sorted(left)


def _cached_versions(lake: LakeFS, prefix: str, cache: Path) -> Iterator[list[RemoteFile]]:
    """Yield the files of each completely cached commit of this repository."""
    for folder in (cache / "commits" / lake.repo).glob("*"):
        yield cached_files(lake, LakePath(lake.repo, folder.name, prefix), cache) or []


def _known_versions(lake: LakeFS, lock: Lock | None, prefix: str) -> Iterator[LakePath]:
    """Yield the target branch and its history, the lock's version, every other branch and tag; each once."""

    def listed() -> Iterator[tuple[str, str]]:
        yield lake.repo, lake.head()
        if lock:
            path = lock.data if prefix != MODEL_PREFIX else lock.model
            yield path.repo, path.ref
        yield from ((lake.repo, str(commit.id)) for commit in lake.log(lake.branch, False, prefix))
        yield from ((lake.repo, commit) for kind in ("branches", "tags") for _, commit in lake.list_refs(kind))

    seen: set[tuple[str, str]] = set()
    for repo, commit in listed():
        if (repo, commit) not in seen:
            seen.add((repo, commit))
            yield LakePath(repo, commit, prefix)


def _objects_if_any(lake: LakeFS, version: LakePath) -> Iterable[RemoteFile]:
    """Return the objects of a version; none if the server does not know it (a lock of another server)."""
    try:
        lake.resolve(version.ref, version.repo)
    except UsageError:
        return []
    return lake.objects(version.ref, version.path, version.repo)


def _refuse_data_loss(folder: Path, names: list[str]) -> None:
    """Raise UsageError for files that no commit holds."""
    if not names:
        return
    listed = "\n".join(f"  {folder / name}" for name in names[:10])
    more = tr("\n  … and {count} more", count=len(names) - 10) if len(names) > 10 else ""
    raise UsageError(
        tr(
            "{count} files that are in no commit would be lost: commit them by lake.py push, or "
            "discard them by --force\n{listed}{more}",
            count=len(names),
            listed=listed,
            more=more,
        )
    )


@contextlib.contextmanager
def _marked_unfinished(root: Path, source: LakePath) -> Iterator[None]:
    """Mark the data directory while it is neither the old version nor the new one."""
    root.mkdir(parents=True, exist_ok=True)
    if (root / UNFINISHED).exists():
        remove_partial_files(root)
    write_atomically(root / UNFINISHED, f"{source}\n".encode())
    yield
    (root / UNFINISHED).unlink()


def require_complete(root: Path) -> None:
    """Raise UsageError for a data directory in which a pull was interrupted: it is not a version."""
    mark = root / UNFINISHED
    if mark.exists():
        source = mark.read_text(encoding="utf-8").strip()
        raise UsageError(
            tr(
                "{root}: a pull of {source} was interrupted: run python lake.py pull {source} again",
                root=root,
                source=source,
            )
        )


def _remove(root: Path, names: Iterable[str]) -> None:
    """Remove files, and directories that become empty."""
    for name in names:
        path = root / name
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty, or a link
            for folder in path.parents:
                if folder == root:
                    break
                os.rmdir(folder)


def _write(tree: Path, root: Path, files: Mapping[str, str]) -> None:
    """Copy files of the cache into the data directory, each atomically. Raises AppError naming all that failed."""
    results = parallel(
        lambda name: _copy_verified(safe_join(tree, name), safe_join(root, name), files[name]), files, WORKERS
    )
    label = tr("writing the data")
    for _ in iterate_successes(
        progress(results, len(files), label, tr("files")),
        lambda count: tr("{count} files could not be written; run again to continue", count=count),
        name_of=lambda name: root / name,
    ):
        pass


def _copy_verified(source: Path, target: Path, sha256: str) -> None:
    """Copy a file of the cache and verify it; a link into the cache could be edited."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_replace(target) as part:
        shutil.copyfile(source, part)
        if file_sha256(part) != sha256:
            raise AppError(
                tr(
                    "{source}: damaged in the cache (expected SHA-256 {sha256}): remove the cache directory and run again",
                    source=source,
                    sha256=sha256,
                )
            )
