"""Whether a data commit is streamed or downloaded, by STREAM and PICTURE_CACHE_GB."""

from __future__ import annotations

from config import Settings
from core.console import format_size
from core.files import safe_join
from core.i18n import tr
from core.reporting import notify
from dataset.directory import is_image
from dataset.samples import select_data
from utils.lakefs_client.content import RemoteFile
from utils.lakefs_client.download import commit_directory, object_file
from utils.lakefs_utils import LakeFS, LakePath
from versioning.streaming.files import Place, StreamedFiles, is_kept
from versioning.versions import cached_files


def open_streamed(settings: Settings, lake: LakeFS, source: LakePath) -> StreamedFiles | None:
    """Return the files of a data commit to be streamed; None if the commit is to be downloaded, or is in the cache.

    Files that are no images are downloaded in any case. Raises AppError.
    """
    cache, limit = settings.cache_dir, settings.picture_cache_gb * 1e9
    if settings.stream == "never" or (settings.stream == "auto" and cached_files(lake, source, cache) is not None):
        return None
    with lake.convert_errors(tr("the server's configuration")):
        links = lake.connection.transfer.presign_support()[0]
    listed = lake.downloader.list_objects(source, links)
    images = [file for file in listed if is_image(file.path)]
    needed = sum(file.size_bytes for file in images)
    if not images or (settings.stream == "auto" and needed <= limit):
        return None
    notify(
        tr(
            "streaming {needed} of images from {source} through a cache of {limit} (STREAM={stream}, PICTURE_CACHE_GB)",
            needed=format_size(needed),
            source=source,
            limit=format_size(limit),
            stream=settings.stream,
        )
    )
    return _open(settings, lake, source, listed, limit)


def _open(settings: Settings, lake: LakeFS, source: LakePath, listed: list[RemoteFile], limit: float) -> StreamedFiles:
    cache = settings.cache_dir
    kept = {file.path for file in listed if is_kept(file)}
    tree = lake.download(source, cache, kept.__contains__) if kept else commit_directory(source, cache)
    data = select_data(lake, source, cache, listed)
    files = {object_file(tree, file.path): file for file in data}
    return StreamedFiles(lake, Place(source, safe_join(tree, source.path), cache, settings.decoded_dir, limit), files)
