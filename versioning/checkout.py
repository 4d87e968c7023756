"""The data to train on: of the data directory, of a lakeFS commit, or a generated sample set."""

from __future__ import annotations

from config import Settings
from core.files import safe_join
from core.i18n import tr
from core.reporting import notify
from dataset.data import SegmentationData
from dataset.decoding.options import options_of
from dataset.directory import is_empty
from dataset.summary import summary
from dataset.synthetic import generate_sample
from dataset.validation import check_data
from utils.lakefs_utils import LakeFS, LakePath
from versioning.sync import download_data, require_complete
from versioning.versions import DATA_PREFIX, find_data


def fill_if_empty(settings: Settings, lake: LakeFS) -> None:
    """Fill an empty data directory from the branch, or with the sample set, and report it."""
    root = settings.data_dir
    if not is_empty(root):
        return
    head = lake.head()
    if next(lake.objects(head, DATA_PREFIX), None) is None:
        notify(
            tr(
                "{root} is empty and lakeFS has no data: generating a sample set (seed {seed})",
                root=root,
                seed=settings.seed,
            )
        )
        generate_sample(root, settings.seed)
        return
    source = LakePath(lake.repo, head, DATA_PREFIX)
    notify(tr("{root} is empty: downloading {source}", root=root, source=source))
    download_data(settings, lake, source)


def checked_data(settings: Settings, lake: LakeFS, data_ref: str | None) -> tuple[LakePath | None, SegmentationData]:
    """Return the checked data to train on: that of a commit, with its path, or that of the data directory."""
    cache, reading = settings.cache_dir, options_of(settings)
    pinned = find_data(lake, data_ref, cache) if data_ref else None
    if pinned is None:
        require_complete(settings.data_dir)
        fill_if_empty(settings, lake)
        data = check_data(settings.data_dir, settings.seed, reading=reading)
    else:  # no split is written into the cache: it is in the commit, or determined by the seed
        folder = safe_join(lake.download(pinned, cache), pinned.path)
        data = check_data(folder, settings.seed, make_split=False, reading=reading)
    notify(summary(data))
    return pinned, data
