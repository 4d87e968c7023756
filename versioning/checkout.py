"""Data for an empty folder: what the lakeFS branch has, else a generated sample set."""

from __future__ import annotations

from config import Settings
from core.files import safe_join
from core.i18n import tr
from core.reporting import notify
from dataset.layout import SegmentationData, is_empty
from dataset.summary import summary
from dataset.synthetic import generate_sample
from dataset.validation import check_data
from utils.lakefs_utils import LakeFS, LakePath


def fill_if_empty(settings: Settings, lake: LakeFS) -> None:
    """Leave a folder with data alone; fill an empty one from the branch, or with the sample set, and say so."""
    from versioning.sync import fill  # which needs cache_folder below

    root = settings.data_dir
    if not is_empty(root):
        return
    head = lake.head()
    if next(lake.objects(head, "data/"), None) is None:
        notify(
            tr(
                "{root} is empty and lakeFS has no data: generating a sample set (seed {seed})",
                root=root,
                seed=settings.seed,
            )
        )
        generate_sample(root, settings.seed)
        return
    source = LakePath(lake.repo, head, "data/")
    notify(tr("{root} is empty: downloading {source}", root=root, source=source))
    fill(settings, lake, source)


def checked_data(settings: Settings, lake: LakeFS, data_ref: str | None) -> tuple[LakePath | None, SegmentationData]:
    """The data to train on: those of a commit, with its path, or those of the data folder."""
    from versioning.sync import require_complete  # which needs cache_folder below
    from versioning.versions import find_data

    cache = settings.cache_dir
    pinned = find_data(lake, data_ref, cache) if data_ref else None
    if pinned is None:
        require_complete(settings.data_dir)
        fill_if_empty(settings, lake)
        data = check_data(settings.data_dir, settings.seed)
    else:  # no split is written into the cache: it is that of the commit, or comes from the seed
        folder = safe_join(lake.download(pinned, cache), pinned.path)
        data = check_data(folder, settings.seed, make_split=False)
    print(summary(data), flush=True)
    return pinned, data
