"""Push and pull: bring a local directory to lakeFS, and a version from lakeFS to the directory."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from config import ROOT, Settings
from core.errors import AppError, UsageError
from core.files import atomic_replace, remove_partial_files, safe_join, write_atomically
from core.git import LOCK_NAME, read_facts
from core.hashing import file_sha256
from core.i18n import tr
from core.reporting import notify, progress
from core.workers import parallel, succeeded
from utils.lakefs_client.content import LocalFile, RemoteFile
from utils.lakefs_utils import LakeFS, LakePath, Published
from versioning.lockfile import Lock, read_lock
from versioning.versions import (
    DATA_PREFIX,
    LOCK,
    MODEL_PREFIX,
    WORKERS,
    _fetched,
    _hashes,
    committed_files,
    compare,
    data_manifest,
    find_data,
    local_files,
)

UNFINISHED = ".pull-unfinished"  # hidden, in the data folder, while a pull changes it


def push(settings: Settings, lake: LakeFS, message: str | None, keep_remote: bool) -> None:
    """Commit the data folder to the target branch, unchecked, and say the commit."""
    require_complete(settings.data_dir)
    files = local_files(settings)
    if not files:
        raise UsageError(tr("{data_dir}: no files to push", data_dir=settings.data_dir))
    facts = read_facts(ROOT).metadata()
    done = lake.publish(files, DATA_PREFIX, message or f"data: {len(files)} files", facts, mirror=not keep_remote)
    report_published(done, len(files))


def report_published(done: Published, count: int) -> None:
    """Say which commit holds the `count` files of a data folder, and what was sent for it."""
    if not done.uploaded and not done.removed:
        notify(tr("data unchanged: existing commit {commit_id}", commit_id=done.commit_id))
        return
    notify(
        tr(
            "data commit: {commit_id} ({uploaded} sent, {removed} removed, {count} files in all)",
            commit_id=done.commit_id,
            uploaded=done.uploaded,
            removed=done.removed,
            count=count,
        )
    )


def pull(settings: Settings, lake: LakeFS, ref: str, force: bool) -> None:
    """Make the data folder that of REF, for `lock` the model too. Raises UsageError where files would be lost."""
    root, cache = settings.data_dir, settings.cache_dir
    lock = read_lock(ROOT)
    source = find_data(lake, ref, cache)
    wanted, have = committed_files(lake, source, cache), local_files(settings)
    if not wanted:
        raise UsageError(tr("{source}: no data there", source=source))
    if lock and ref == LOCK and data_manifest(wanted, source.path) != lock.data_manifest_sha256:
        raise AppError(tr("{source}: not the files whose hash {lock_name} holds", source=source, lock_name=LOCK_NAME))
    changes = compare(_hashes(have), wanted)
    if not force:
        at_risk = {name: have[name] for name in changes.changed + changes.new}
        _refuse_loss(root, _unknown(lake, lock, at_risk, source.path, cache))
        if lock and ref == LOCK:
            _refuse_loss(settings.model_path.parent, _model_at_risk(settings, lake, lock))
    fetch = changes.changed + changes.removed
    if fetch:
        tree = lake.download(source, cache, {source.path + name for name in fetch}.__contains__)
    model = lake.verified_file(lock.model, lock.model_sha256, cache) if lock and ref == LOCK else None
    if changes or (root / UNFINISHED).exists():
        with _unfinished(root, source):
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
        _place(model, settings.model_path, lock.model_sha256)
        notify(tr("{model_path}: {model}", model_path=settings.model_path, model=lock.model))


def fill(settings: Settings, lake: LakeFS, source: LakePath) -> None:
    """Bring the data of a commit into a folder that has none; interrupted, it is marked as `pull` marks it."""
    cache = settings.cache_dir
    tree = lake.download(source, cache)
    wanted = committed_files(lake, source, cache)
    with _unfinished(settings.data_dir, source):
        _write(safe_join(tree, source.path), settings.data_dir, wanted)


def _model_at_risk(settings: Settings, lake: LakeFS, lock: Lock) -> list[str]:
    """The model file's name when it holds what no commit does."""
    path = settings.model_path
    if not path.is_file() or (sha256 := file_sha256(path)) == lock.model_sha256:
        return []
    return _unknown(lake, lock, {path.name: LocalFile(path, sha256)}, MODEL_PREFIX, settings.cache_dir)


def _unknown(lake: LakeFS, lock: Lock | None, files: Mapping[str, LocalFile], prefix: str, cache: Path) -> list[str]:
    """Those of the files whose content no known version holds, under whatever name; looked up newest version first.

    Before the server is asked, what was fetched whole is looked at: who goes to and fro between two versions needs none.
    """
    here = {file.sha256 for version in _fetched_versions(lake, prefix, cache) for file in version}
    left = {name: file for name, file in files.items() if file.sha256 not in here}
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
            left = {name: file for name, file in left.items() if _file_md5(file.path) not in others}
    return sorted(left)


def _fetched_versions(lake: LakeFS, prefix: str, cache: Path) -> Iterator[list[RemoteFile]]:
    """What the commits of this repository hold that were fetched whole."""
    for folder in (cache / "commits" / lake.repo).glob("*"):
        yield _fetched(lake, LakePath(lake.repo, folder.name, prefix), cache) or []


def _known_versions(lake: LakeFS, lock: Lock | None, prefix: str) -> Iterator[LakePath]:
    """The target branch and all that changed it, the lock's version, every other branch and tag; each once."""

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
    """The objects of a version; none where the server does not know it (a lock of another server)."""
    try:
        lake.resolve(version.ref, version.repo)
    except UsageError:
        return []
    return lake.objects(version.ref, version.path, version.repo)


def _file_md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest()


def _refuse_loss(folder: Path, names: list[str]) -> None:
    """Raises UsageError for files that exist nowhere else."""
    if not names:
        return
    listed = "\n".join(f"  {folder / name}" for name in names[:10])
    more = tr("\n  … and {count} more", count=len(names) - 10) if len(names) > 10 else ""
    raise UsageError(
        tr(
            "{count} files that no commit holds would be lost: keep them by lake.py push, or "
            "drop them by --force\n{listed}{more}",
            count=len(names),
            listed=listed,
            more=more,
        )
    )


@contextlib.contextmanager
def _unfinished(root: Path, source: LakePath) -> Iterator[None]:
    """A mark in the data folder while it is neither the old version nor the new one."""
    root.mkdir(parents=True, exist_ok=True)
    if (root / UNFINISHED).exists():
        remove_partial_files(root)
    write_atomically(root / UNFINISHED, f"{source}\n".encode())
    yield
    (root / UNFINISHED).unlink()


def require_complete(root: Path) -> None:
    """Raises UsageError for a data folder in which a pull was cut off: it is no version that anybody meant."""
    mark = root / UNFINISHED
    if mark.exists():
        source = mark.read_text(encoding="utf-8").strip()
        raise UsageError(
            tr(
                "{root}: a pull of {source} was cut off: run python lake.py pull {source} again",
                root=root,
                source=source,
            )
        )


def _remove(root: Path, names: Iterable[str]) -> None:
    """Remove files, and folders that this leaves empty."""
    for name in names:
        path = root / name
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty, or a link
            for folder in path.parents:
                if folder == root:
                    break
                os.rmdir(folder)


def _write(tree: Path, root: Path, files: Mapping[str, str]) -> None:
    """Copy files of the cache into the data folder, each at once; every one that failed is named."""
    results = parallel(lambda name: _place(safe_join(tree, name), safe_join(root, name), files[name]), files, WORKERS)
    label = tr("writing the data")
    for _ in succeeded(
        progress(results, len(files), label, tr("files")),
        lambda count: tr("{count} files could not be written; run again to go on", count=count),
        where=lambda name: root / name,
    ):
        pass


def _place(source: Path, target: Path, sha256: str) -> None:
    """A file of one's own, not a link into the cache: it may be edited."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_replace(target) as part:
        shutil.copyfile(source, part)
        if file_sha256(part) != sha256:
            raise AppError(
                tr(
                    "{source}: damaged in the cache (expected SHA-256 {sha256}): remove the cache folder and run again",
                    source=source,
                    sha256=sha256,
                )
            )
