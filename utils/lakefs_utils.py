"""Data and model versions in lakeFS: publish, commit, merge, list, and verified download, over lakefs-sdk.

Every call speaks the lakeFS REST API: to the server of LAKEFS_ENDPOINT, or to the embedded one that `connect` starts.
What `LakeFS` can do is written in utils/lakefs_client, one file for each kind of work.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from config import Settings
from core.i18n import tr
from core.reporting import notify
from core.workers import WORKERS
from utils.lakefs_client.bucket_import import Importing
from utils.lakefs_client.connection import LakePath
from utils.lakefs_client.download import Downloading
from utils.lakefs_client.merge import Merging
from utils.lakefs_client.publish import Published, manifest_sha256

__all__ = ["LakeFS", "LakePath", "Published", "connect", "manifest_sha256"]

EMBEDDED_WORKERS = 1  # transfers at once with the embedded server, which shares this process: two wait for each other


class LakeFS(Downloading, Importing, Merging):
    """One repository on one server: reads, downloads, publishes, imports, merges, and names versions."""


@contextlib.contextmanager
def connect(settings: Settings, create: bool = False) -> Iterator[LakeFS]:
    """The repository of the settings on the named server or the embedded one; with `create`, made if it is not there.

    A named server is looked for when something is wanted of it, which what lies in the cache does not need; that it
    was not asked is said at the end. Raises AppError, then, when it is down or refuses the keys; with `create`, when it
    has no place for the repository.
    """
    with contextlib.ExitStack() as stack:
        if settings.lakefs_endpoint:
            endpoint, key, secret = (
                settings.lakefs_endpoint,
                settings.lakefs_access_key_id,
                settings.lakefs_secret_access_key,
            )
        else:
            from utils import local_lakefs

            server = stack.enter_context(local_lakefs.start(settings.lakefs_local_dir))
            endpoint, key, secret = server.endpoint, server.access_key_id, server.secret_access_key
        lake = LakeFS(endpoint, str(key), str(secret), settings.lakefs_repo, settings.lakefs_branch)
        lake.journals = settings.lakefs_local_dir / "cache" / "uploads"
        lake.workers = WORKERS if settings.lakefs_endpoint else EMBEDDED_WORKERS
        stack.callback(lake.close)
        if create:
            lake.ensure_repository(settings)
        yield lake
        if settings.lakefs_endpoint and not lake.asked:
            notify(tr("lakeFS {endpoint} was not asked: all of it is in the cache.", endpoint=lake.endpoint))
