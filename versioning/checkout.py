"""The data to train on: of the data directory, of a lakeFS commit, or a generated sample set."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from config import ROOT, Settings
from core.errors import UsageError
from core.files import safe_join
from core.i18n import tr
from core.reporting import notify, warn
from dataset.data import SegmentationData
from dataset.decoding.options import options_of
from dataset.directory import data_files, holds_only_texts, move_is_pending
from dataset.sources.files import LOCAL_FILES, FileSource
from dataset.sources.synthetic import generate_sample, holds_sample
from dataset.summary import summary
from dataset.validation import check_data
from utils.lakefs_utils import LakeFS, LakePath, connect
from versioning.data_directory import is_default
from versioning.lockfile import is_reachable, read_lock, unreachable_data
from versioning.streaming.choice import open_streamed
from versioning.streaming.shards import require_webdataset, write_shards
from versioning.sync import download_data, require_complete
from versioning.versions import DATA_PREFIX, find_data


def fill_if_empty(settings: Settings, lake: LakeFS, sample: bool = False) -> None:
    """Fill the data directory and report it, if `sample` asks for the sample set or the default directory is empty.

    The default directory is filled from the branch, and with the sample set only if there is no data anywhere. Raises
    UsageError for a sample set where other data is.
    """
    root = settings.data_dir
    if move_is_pending(root):  # of sample data: an earlier call was asked for it
        generate_sample(root, settings.seed)
    if sample:
        _make_requested_sample(settings, lake)
    elif is_default(settings) and holds_only_texts(root):
        _fill_default(settings, lake)


def warn_of_unreachable_lock(lake: LakeFS) -> None:
    """Warn if lakefs.lock names data of another store: a new history begins, and perhaps LAKEFS_ENDPOINT is missing."""
    lock = read_lock(ROOT)
    if lock is not None and not is_reachable(lake, lock):
        warn(str(unreachable_data(lock, lake)))


def _make_requested_sample(settings: Settings, lake: LakeFS) -> None:
    """Make the sample set of --sample, unless the directory holds it."""
    root = settings.data_dir
    if holds_sample(root, settings.seed):
        return
    if data_files(root):
        raise UsageError(tr("{root}: holds data already: --sample needs an empty directory", root=root))
    lake.ensure_repository(settings)
    if _has_data(lake, lake.head()):
        raise UsageError(
            tr(
                "--sample: branch {branch} of {repo} has data, which the sample set would replace: lake.py pull {branch} "
                "downloads it; for the sample set set LAKEFS_REPO to a new name",
                branch=lake.branch,
                repo=lake.repo,
            )
        )
    generate_sample(root, settings.seed)


def _fill_default(settings: Settings, lake: LakeFS) -> None:
    """Fill the empty default directory from the branch; with the sample set if neither branch nor lock has data."""
    root, lock = settings.data_dir, read_lock(ROOT)
    if lock is None:
        lake.ensure_repository(settings)
    elif not lake.has_repository():
        raise unreachable_data(lock, lake)
    head = lake.head()
    if _has_data(lake, head):
        source = LakePath(lake.repo, head, DATA_PREFIX)
        notify(tr("{root} is empty: downloading {source}", root=root, source=source))
        download_data(settings, lake, source)
        return
    if lock is not None:
        raise unreachable_data(lock, lake)
    notify(
        tr(
            "{root} is empty and lakeFS has no data: generating a sample set (seed {seed})",
            root=root,
            seed=settings.seed,
        )
    )
    generate_sample(root, settings.seed)


def _has_data(lake: LakeFS, head: str) -> bool:
    return next(iter(lake.objects(head, DATA_PREFIX)), None) is not None


def checked_data(
    settings: Settings, lake: LakeFS, data_ref: str | None, sample: bool = False
) -> tuple[LakePath | None, SegmentationData]:
    """Return the checked data to train on: that of a commit, with its path, or that of the data directory."""
    pinned, reading = None, options_of(settings)
    if data_ref is None:
        require_complete(settings.data_dir)
        fill_if_empty(settings, lake, sample)
        data = check_data(settings.data_dir, settings.seed, reading=reading, split_group=settings.split_group)
    else:  # no split is written into the cache: it is in the commit, or determined by the seed
        pinned, folder, source = open_commit(settings, lake, data_ref)
        data = check_data(folder, settings.seed, False, reading, settings.split_group, source)
    notify(summary(data))
    return pinned, data


def open_commit(settings: Settings, lake: LakeFS, data_ref: str) -> tuple[LakePath, Path, FileSource]:
    """Return the path of a data commit with its full commit id, its directory in the cache, and what reads its files.

    For a commit of shards, it is that of the data commit that they are of. They are downloaded, or streamed as long as `lake` is connected.
    """
    pinned = find_data(lake, data_ref, settings.cache_dir)
    streamed = open_streamed(settings, lake, pinned)
    if streamed is not None:
        return streamed.place.source, streamed.place.root, streamed
    return pinned, safe_join(lake.download(pinned, settings.cache_dir), pinned.path), LOCAL_FILES


def write_shards_of(settings: Settings, ref: str, branch: str, size: float) -> None:
    """Commit the images and masks of a version as shards of `size` bytes to a branch. Raises UsageError, AppError."""
    require_webdataset()
    settings = dataclasses.replace(settings, stream="always")
    with connect(settings) as lake:
        lake.require_experiment_name(branch)
        source, data = checked_data(settings, lake, ref)
        assert source is not None  # a version is named
        write_shards(settings, lake, source, data, branch, size)
