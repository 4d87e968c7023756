"""Import objects of a bucket into the repository without copying them, through a private branch."""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections.abc import Callable, Collection, Mapping

from core.errors import AppError, UsageError
from core.i18n import tr
from utils.lakefs_client.connection import Connection
from utils.lakefs_client.publish import Publisher, PublishResult
from utils.lakefs_client.queries import Queries
from utils.lakefs_client.refs import Refs

ABANDONED_S = 86_400  # seconds after which the private branch of an import counts as left by a kill


class BucketImporter:
    """Import of objects without copying, merged like a publication."""

    def __init__(self, connection: Connection, queries: Queries, refs: Refs, publisher: Publisher) -> None:
        self.connection = connection
        self.queries = queries
        self.refs = refs
        self.publisher = publisher

    def import_objects(
        self,
        source: str,
        target: str,
        work: str,
        message: str,
        metadata: Mapping[str, str],
        replace: bool,
        describe: Callable[[Collection[str]], Mapping[str, str]] | None = None,
    ) -> PublishResult:
        """Import the objects below `source` (s3://bucket/prefix/) to `target` ("data/") without copying.

        The server's import replaces everything below `target`, which `replace` must allow. It runs on a private branch
        of its own, named after `work`, and is merged. `describe` returns further metadata of the merge about the files,
        which are named relative to `target`. Raises UsageError if the server does not store its files on S3.
        """
        storage = self.connection.sdk.config_api.get_config().storage_config
        if not storage or not storage.import_support or storage.blockstore_type != "s3":
            kind = storage.blockstore_type if storage else "?"
            raise UsageError(
                tr(
                    "lakeFS {endpoint} stores its files on '{kind}': import needs S3",
                    endpoint=self.connection.endpoint,
                    kind=kind,
                )
            )
        head = self.queries.head()
        if not replace and next(self.queries.objects(head, target), None) is not None:
            raise UsageError(
                tr(
                    "'{target}' of {branch} already has files: use --replace, or another path with --to",
                    target=target,
                    branch=self.connection.branch,
                )
            )
        self._delete_abandoned(work)
        work = f"{work}-{int(time.time())}-{secrets.token_hex(4)}"
        with self.connection.convert_errors(tr("private branch")):
            self.refs.create_branch(work, head)
        try:
            self._import(source, target, work, message, metadata)
            changes = [str(change.type) for change in self.queries.differences(head, work)]
            if describe is not None:
                files = [file.path.removeprefix(target) for file in self.queries.objects(work, target)]
                metadata = {**metadata, **describe(files)}
            merged = self.publisher.merge_into_target(work, message, metadata) if changes else head
        finally:
            with contextlib.suppress(AppError):
                self.refs.delete_branch(work)
        if merged is None:
            again = tr("the same files changed meanwhile: run again")
            raise AppError(f"{self.connection.branch}: {again}")
        removed = changes.count("removed")
        return PublishResult(merged, len(changes) - removed, removed)

    def _delete_abandoned(self, work: str) -> None:
        """Delete branches that killed calls have left; a younger branch may belong to a call in progress."""
        for name, _ in self.queries.list_refs("branches"):
            match = re.fullmatch(rf"{work}-(\d+)-[0-9a-f]+", name)
            if match and int(match[1]) < time.time() - ABANDONED_S:
                self.refs.delete_branch(name)

    def _import(self, source: str, target: str, branch: str, message: str, metadata: Mapping[str, str]) -> None:
        """Run the server's import on a branch until it has committed."""
        import lakefs_sdk

        creation = lakefs_sdk.ImportCreation(
            paths=[lakefs_sdk.ImportLocation(type="common_prefix", path=source, destination=target)],
            commit=lakefs_sdk.CommitCreation(message=message, metadata=dict(metadata)),
        )
        what, pause = tr("importing {source}", source=source), 0.1
        with self.connection.convert_errors(what):
            ticket = self.connection.sdk.import_api.import_start(self.connection.repo, branch, creation).id
            while not (
                status := self.connection.sdk.import_api.import_status(self.connection.repo, branch, ticket)
            ).completed:
                if status.error:
                    raise AppError(
                        f"{what} (lakeFS {self.connection.endpoint}, {self.connection.repo}): {status.error.message}"
                    )
                time.sleep(pause)
                pause = min(2 * pause, 2.0)
