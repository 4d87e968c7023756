"""Publish a data directory as the branch's data, without undoing what others published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from config import ROOT, Settings
from core.errors import AppError, UsageError
from core.git import read_facts
from core.i18n import tr, trn
from core.reporting import notify, result
from dataset.directory import data_files, require_contents
from dataset.formats.record import source_metadata
from dataset.layout.resolve import layout_metadata
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import LakeFS, LakePath, PublishResult
from versioning.base import base_files, record_version
from versioning.divergence import Divergence, list_lines, require_nothing_undone
from versioning.sync import require_complete
from versioning.versions import DATA_PREFIX, committed_files, compare, hashes_of, local_files

# How a directory and a branch that has other files become one version: 'keep-remote' publishes only the directory's own
# changes, 'replace' makes the branch equal to the directory; by default nothing of the branch may be undone.
Mode = Literal["default", "keep-remote", "replace"]


def push(settings: Settings, lake: LakeFS, message: str | None, mode: Mode) -> None:
    """Commit the data directory to the target branch, without a data check, and report the commit."""
    root = settings.data_dir
    require_complete(root)
    require_contents(root, data_files(root))
    files = local_files(settings)
    metadata = {**read_facts(ROOT).metadata(), **source_metadata(root)}
    publish_directory(settings, lake, files, message or data_message(len(files)), metadata, mode)


def data_message(files: int, details: str = "") -> str:
    """Return the message of a data commit, in every language the same: 'data: 61 files (train 49, val 12)'."""
    return f"data: {files} {'file' if files == 1 else 'files'}{f' ({details})' if details else ''}"


def publish_directory(
    settings: Settings,
    lake: LakeFS,
    files: Mapping[str, LocalFile],
    message: str,
    metadata: Mapping[str, str],
    mode: Mode,
) -> PublishResult:
    """Publish files of the data directory, record the version that it now is, and report the commit.

    `files` maps all paths of the directory. Raises UsageError if the branch's files would be undone, also if another
    process changes the branch meanwhile.
    """
    first = lake.head()
    before = divergence_of(settings, lake, files, first)
    if mode == "keep-remote":
        _require_no_conflicts(before, settings, lake)
    chosen = before.own_changes() if mode == "keep-remote" else list(files)

    def check(head: str) -> None:
        """Refuse the commit that would be changed; it may be newer than the one above."""
        now = before if head == first else divergence_of(settings, lake, files, head)
        if mode == "keep-remote":
            _require_no_conflicts(now, settings, lake)
            if now.own_changes() != chosen:
                raise AppError(tr("branch {branch} changed meanwhile: run again", branch=lake.branch))
        elif mode == "default":
            require_nothing_undone(now, settings.data_dir, lake.branch)

    published = {name: files[name] for name in chosen}
    metadata = {**metadata, **layout_metadata(files)}
    done = lake.publish(published, DATA_PREFIX, message, metadata, mode != "keep-remote", check)
    source = LakePath(lake.repo, done.commit_id, DATA_PREFIX)
    # A commit with more files than the directory is not the version that it is.
    if mode != "keep-remote" or hashes_of(files) == committed_files(lake, source, settings.cache_dir):
        record_version(settings, lake, source, {name: file.path for name, file in files.items()})
    report_published(done, len(files))
    renamed = compare(before.local, before.branch).renamed if done.uploaded else {}
    if renamed:
        notify(list_lines(f"  {tr('renamed'):8} {old} -> {new}" for new, old in renamed.items()))
    return done


def require_publishable(
    settings: Settings, lake: LakeFS, files: Mapping[str, LocalFile], branch: str | None = None
) -> None:
    """Raise UsageError if publishing the data directory to the branch (default: the target) would undo its files."""
    branch = branch or lake.branch
    require_nothing_undone(divergence_of(settings, lake, files, lake.head(branch)), settings.data_dir, branch)


def divergence_of(settings: Settings, lake: LakeFS, files: Mapping[str, LocalFile], head: str) -> Divergence:
    """Return how the data directory, the version that it comes from, and a commit of the branch differ."""
    branch = committed_files(lake, LakePath(lake.repo, head, DATA_PREFIX), settings.cache_dir)
    return Divergence(base_files(lake, settings.data_dir, settings.cache_dir, head), hashes_of(files), branch)


def _require_no_conflicts(divergence: Divergence, settings: Settings, lake: LakeFS) -> None:
    conflicts = divergence.conflicts()
    if conflicts:
        raise UsageError(
            trn(
                "{root} and branch {branch} both changed {count} file: lake.py pull --merge --prefer local or "
                "branch decides whose is kept",
                "{root} and branch {branch} both changed {count} files: lake.py pull --merge --prefer local or "
                "branch decides whose are kept",
                len(conflicts),
                root=settings.data_dir,
                branch=lake.branch,
            )
            + "\n"
            + list_lines(f"  {name}" for name in conflicts)
        )


def report_published(done: PublishResult, count: int) -> None:
    """Report which commit holds the `count` files of a data directory, and what was uploaded for it."""
    if not done.uploaded and not done.removed:
        result(tr("data unchanged: existing commit {commit_id}", commit_id=done.commit_id))
        return
    result(
        trn(
            "data commit: {commit_id} ({uploaded} uploaded, {removed} removed, {count} file in total)",
            "data commit: {commit_id} ({uploaded} uploaded, {removed} removed, {count} files in total)",
            count,
            commit_id=done.commit_id,
            uploaded=done.uploaded,
            removed=done.removed,
        )
    )
