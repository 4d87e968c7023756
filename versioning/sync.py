"""Bring a version of lakeFS to the data directory: replace the directory by it, or merge its changes into it."""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from config import ROOT, Settings
from core.errors import AppError, UsageError
from core.files import atomic_replace, first_link, read_regular, remove_partial_files, safe_join, write_atomically
from core.hashing import file_sha256
from core.i18n import tr, trn
from core.provenance.code_files import LOCK_NAME
from core.reporting import notify, progress, result
from core.threads.workers import iterate_successes, parallel
from dataset.directory import SPLITS, data_files
from dataset.splitting.fold_file import is_fold_file
from dataset.splitting.splits import LEFT_OUT, read_splits
from utils.ensemble_file import working_copy
from utils.lakefs_utils import LakeFS, LakePath
from versioning.base import base_files, record_version
from versioning.divergence import Divergence, Side, list_lines
from versioning.lockfile import Lock, read_lock
from versioning.pulling.data_loss import find_uncommitted, hidden_files, refuse_data_loss
from versioning.pulling.model_copy import locked_model, model_at_risk
from versioning.versions import (
    LOCK,
    WORKERS,
    committed_files,
    compare,
    data_manifest,
    find_data,
    hashes_of,
    local_files,
)

UNFINISHED = ".pull-unfinished"  # hidden, in the data directory, while a pull changes it


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
    model = locked_model(settings, lake, lock) if lock and ref == LOCK else None
    if not force:
        at_risk = {name: have[name] for name in changes.changed + changes.new}
        at_risk |= hidden_files(root, have, {name: wanted[name] for name in changes.removed})
        refuse_data_loss(root, find_uncommitted(lake, lock, at_risk, source.path, cache))
        if model is not None and lock is not None:
            refuse_data_loss(settings.model_path.parent, model_at_risk(lake, lock, model, cache))
    fetch = changes.changed + changes.removed
    _require_no_links(root, [*fetch, *changes.new])
    if fetch:
        tree = lake.download(source, cache, {source.path + name for name in fetch}.__contains__)
    if changes or (root / UNFINISHED).exists():
        with _marked_unfinished(root, source):
            _remove(root, changes.new)
            if fetch:
                _write(safe_join(tree, source.path), root, {name: wanted[name] for name in fetch})
            record_version(settings, lake, source, data_files(root))
    else:
        record_version(settings, lake, source, data_files(root))
    result(
        trn(
            "{root}: {count} file of {source} ({fetch} written, {new} removed)",
            "{root}: {count} files of {source} ({fetch} written, {new} removed)",
            len(wanted),
            root=root,
            source=source,
            fetch=len(fetch),
            new=len(changes.new),
        )
    )
    if changes.renamed:
        notify(list_lines(f"  {tr('renamed'):8} {new} -> {old}" for new, old in changes.renamed.items()))
    if model is not None and lock is not None:
        _copy_model(settings, lock, model)


def _copy_model(settings: Settings, lock: Lock, model: Mapping[Path, tuple[Path, str]]) -> None:
    """Write the files of the lock's model, that which names the others last."""
    for target, (source, sha256) in reversed(list(model.items())):
        _copy_verified(source, target, sha256)
    copied = working_copy(settings.model_path, lock.model.path)
    result(tr("{model_path}: {model}", model_path=copied, model=lock.model))


def download_data(settings: Settings, lake: LakeFS, source: LakePath) -> None:
    """Download the data of a commit into a directory that has none; an interruption is marked as by `pull`."""
    cache = settings.cache_dir
    tree = lake.download(source, cache)
    wanted = committed_files(lake, source, cache)
    _require_no_links(settings.data_dir, wanted)
    with _marked_unfinished(settings.data_dir, source):
        _write(safe_join(tree, source.path), settings.data_dir, wanted)
        record_version(settings, lake, source, data_files(settings.data_dir))


def merge(settings: Settings, lake: LakeFS, ref: str, prefer: Side | None) -> None:
    """Bring the changes that REF has since the directory's base into the directory, which keeps its own changes.

    Files that both changed are decided by `prefer`; without it, they are listed and nothing is written. Raises UsageError.
    """
    root, cache = settings.data_dir, settings.cache_dir
    source = find_data(lake, ref, cache)
    have, wanted = hashes_of(local_files(settings)), committed_files(lake, source, cache)
    divergence = Divergence(base_files(lake, root, cache, source.ref), have, wanted)
    splits = _splits_to_take(settings, lake, source, divergence)
    taken, conflicts = divergence.merged(lambda name: "branch" if name in splits else prefer)
    if conflicts:
        raise UsageError(
            trn(
                "{root} and {source} both changed {count} file: nothing was written; --prefer local keeps the "
                "file of the directory, --prefer branch takes the other",
                "{root} and {source} both changed {count} files: nothing was written; --prefer local keeps the "
                "files of the directory, --prefer branch takes the others",
                len(conflicts),
                root=root,
                source=source,
            )
            + "\n"
            + list_lines(f"  {name}" for name in conflicts)
        )
    taken |= {name: wanted.get(name) for name in splits if have.get(name) != wanted.get(name)}
    fetch = {name: sha256 for name, sha256 in taken.items() if sha256 is not None}
    removed = sorted(taken.keys() - fetch.keys())
    _require_no_links(root, taken)
    hidden = hidden_files(root, have, fetch)
    refuse_data_loss(root, find_uncommitted(lake, read_lock(ROOT), hidden, source.path, cache))
    tree = lake.download(source, cache, {source.path + name for name in fetch}.__contains__) if fetch else cache
    with _marked_unfinished(root, f"--merge {source}"):
        _remove(root, removed)
        if fetch:
            _write(safe_join(tree, source.path), root, fetch)
        record_version(settings, lake, source, {name: root / name for name in wanted})
    merged = {name: sha256 for name, sha256 in {**have, **taken}.items() if sha256 is not None}
    result(
        tr(
            "{root}: merged {source} ({fetch} written, {removed} removed; own changes: {counts})",
            root=root,
            source=source,
            fetch=len(fetch),
            removed=len(removed),
            counts=compare(merged, wanted).counts(),
        )
    )


def _splits_to_take(settings: Settings, lake: LakeFS, source: LakePath, divergence: Divergence) -> set[str]:
    """Return the split files, if train.py made them in the directory and in the commit, which changed them.

    They are one assignment and cannot be mixed: the commit's are taken, and train.py extends them by the images that only
    the directory has.
    """
    take: set[str] = set()
    changed = [
        re.fullmatch(rf"(.*/)?splits/({'|'.join((*SPLITS, LEFT_OUT))})\.txt", name) for name in divergence.undone()
    ]
    for place in {match[1] or "" for match in changed if match}:
        names = {f"{place}splits/{split}.txt" for split in (*SPLITS, LEFT_OUT)}
        if not names.intersection(divergence.branch):
            continue
        tree = lake.download(source, settings.cache_dir, {source.path + name for name in names}.__contains__)
        ours, theirs = (read_splits(folder / place) for folder in (settings.data_dir, safe_join(tree, source.path)))
        if ours is not None and theirs is not None and ours.seed is not None and ours.seed == theirs.seed:
            take |= names
    # So is the assignment to folds; --folds extends it.
    return take | {name for name in divergence.undone() if name in divergence.branch and is_fold_file(name)}


def _require_no_links(root: Path, names: Iterable[str]) -> None:
    """Raise UsageError if a file would be written or removed through a link to a directory; a link to a file is replaced."""
    for folder in sorted({posixpath.dirname(name) for name in names}):
        link = first_link(root, folder)
        if link is not None:
            raise UsageError(
                tr(
                    "{link}: a link to {target}, through which nothing is written: replace it by a directory, or set DATA_DIR "
                    "to the original",
                    link=link,
                    target=link.readlink(),
                )
            )


@contextlib.contextmanager
def _marked_unfinished(root: Path, source: LakePath | str) -> Iterator[None]:
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
        source = read_regular(mark).decode(errors="replace").strip()
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
        lambda count: trn(
            "{count} file could not be written; run again to continue",
            "{count} files could not be written; run again to continue",
            count,
        ),
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
