"""Data and model versions in lakeFS: publish, commit, merge, list, and verified download, over lakefs-sdk.

Every call uses the lakeFS REST API: of the server of LAKEFS_ENDPOINT, or of the embedded one that `connect` starts.
`LakeFS` is composed of the parts in utils/lakefs_client, one for each kind of work.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from config import Settings
from core.i18n import tr
from core.reporting import notify
from core.threads.workers import WORKERS
from utils.lakefs_client.bucket_import import BucketImporter
from utils.lakefs_client.connection import Connection, LakePath
from utils.lakefs_client.download import Downloader
from utils.lakefs_client.merge import Merger
from utils.lakefs_client.migration import MigrationTarget
from utils.lakefs_client.publish import Publisher, PublishResult, manifest_sha256
from utils.lakefs_client.queries import Queries
from utils.lakefs_client.refs import Refs

__all__ = ["LakeFS", "LakePath", "PublishResult", "connect", "manifest_sha256"]

EMBEDDED_WORKERS = 1  # concurrent transfers with the embedded server, which runs in this process


class LakeFS:
    """One repository on one server, and the branch that results are merged into.

    Its methods are those of its parts: queries, branches and tags, merges, downloads, publications, imports.
    """

    def __init__(
        self,
        endpoint: str,
        access_key_id: str,
        secret_access_key: str,
        repo: str,
        branch: str,
        workers: int = WORKERS,
        journals: Path | None = None,
    ) -> None:
        """Prepare the client; see `Connection`."""
        self.connection = connection = Connection(
            endpoint, access_key_id, secret_access_key, repo, branch, workers, journals
        )
        self.check = connection.check
        self.close = connection.close
        self.convert_errors = connection.convert_errors

        self.queries = queries = Queries(connection)
        self.head = queries.head
        self.default_branch = queries.default_branch
        self.resolve = queries.resolve
        self.list_refs = queries.list_refs
        self.has_repository = queries.has_repository
        self.has_branch = queries.has_branch
        self.contains = queries.contains
        self.merge_base = queries.merge_base
        self.commit = queries.commit
        self.commit_metadata = queries.commit_metadata
        self.log = queries.log
        self.differences = queries.differences
        self.objects = queries.objects

        self.refs = refs = Refs(connection, queries)
        self.ensure_repository = refs.ensure_repository
        self.protect = refs.protect
        self.create_branch = refs.create_branch
        self.delete_branch = refs.delete_branch
        self.require_experiment_name = refs.require_experiment_name
        self.start_experiment = refs.start_experiment
        self.set_tag = refs.set_tag
        self.delete_tag = refs.delete_tag
        self.tag_with_metadata = refs.tag_with_metadata
        self.merger = merger = Merger(connection, queries)
        self.merge_commit = merger.merge_commit
        self.revert = merger.revert
        self.downloader = downloader = Downloader(connection, queries)
        self.verified_file = downloader.verified_file
        self.download = downloader.download
        self.committed_objects = downloader.committed_objects
        self.verify_object = downloader.verify_object
        self.read = downloader.read

        self.publisher = publisher = Publisher(connection, queries, refs, merger)
        self.publish = publisher.publish
        self.upload = publisher.upload
        self.remove = publisher.remove

        self.import_objects = BucketImporter(connection, queries, refs, publisher).import_objects
        self.migration = MigrationTarget(connection)

    @property
    def endpoint(self) -> str:
        """URL of the server."""
        return self.connection.endpoint

    @property
    def store(self) -> str:
        """Where the data is, for messages."""
        return self.connection.store

    @property
    def repo(self) -> str:
        """Name of the repository."""
        return self.connection.repo

    @property
    def branch(self) -> str:
        """The branch that results are merged into; `start_experiment` changes it."""
        return self.connection.branch

    def __repr__(self) -> str:
        return f"LakeFS({self.endpoint}, {self.repo}, {self.branch})"


@contextlib.contextmanager
def connect(settings: Settings, create: bool = False, branch: str | None = None) -> Iterator[LakeFS]:
    """Connect to the repository of the settings on the configured server or the embedded one; `create` it if missing.

    A configured server is contacted at the first request; if the cache has everything, this is reported at the end.
    `branch` replaces LAKEFS_BRANCH. Raises AppError if the server is down or refuses the keys; with `create`, if it has
    no storage for the repository.
    """
    with contextlib.ExitStack() as stack:
        if settings.lakefs_endpoint:
            endpoint = settings.lakefs_endpoint
            key, secret = settings.lakefs_access_key_id, settings.lakefs_secret_access_key
        else:
            from utils import local_lakefs
            from utils.local_lakefs.database import explain_store_errors

            with explain_store_errors(settings.lakefs_local_dir):
                started = local_lakefs.start(settings.lakefs_local_dir)
            server = stack.enter_context(started)
            endpoint, key, secret = server.endpoint, server.access_key_id, server.secret_access_key
        lake = LakeFS(
            endpoint,
            str(key),
            str(secret),
            settings.lakefs_repo,
            branch or settings.lakefs_branch,
            WORKERS if settings.lakefs_endpoint else EMBEDDED_WORKERS,
            settings.cache_dir / "uploads",
        )
        if not settings.lakefs_endpoint:
            lake.connection.store = tr("the embedded store {path}", path=settings.lakefs_local_dir)
        stack.callback(lake.close)
        if create:
            lake.ensure_repository(settings)
        yield lake
        if settings.lakefs_endpoint and not lake.connection.contacted:
            notify(tr("lakeFS {endpoint} was not contacted: everything is in the cache.", endpoint=lake.endpoint))
