"""Objects of a bucket made objects of the repository, without copying them: lakeFS's import, by way of a private branch."""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections.abc import Mapping

from core.errors import AppError, UsageError
from core.i18n import tr
from utils.lakefs_client.publish import Published, Publishing

FORGOTTEN_S = 86_400  # seconds after which a private branch of an import is what a kill has left


class Importing(Publishing):
    """Import, merged as a publication is."""

    def import_objects(
        self, source: str, target: str, work: str, message: str, metadata: Mapping[str, str], replace: bool
    ) -> Published:
        """Make the objects below `source` (s3://bucket/prefix/) objects below `target` ("data/"), without copying.

        The server's import puts exactly these objects at the place: others there go, which `replace` must allow.
        It runs on a private branch of its own, `work` and more, and is merged: two calls at once do not meet before that.
        Raises UsageError where the server's files are not on S3.
        """
        storage = self.sdk.config_api.get_config().storage_config
        if not storage or not storage.import_support or storage.blockstore_type != "s3":
            kind = storage.blockstore_type if storage else "?"
            raise UsageError(
                tr("lakeFS {endpoint} stores its files on '{kind}': import needs S3", endpoint=self.endpoint, kind=kind)
            )
        head = self.head()
        if not replace and next(self.objects(head, target), None) is not None:
            raise UsageError(
                tr(
                    "'{target}' of {branch} already holds files: --replace them, or choose another place with --to",
                    target=target,
                    branch=self.branch,
                )
            )
        self._remove_forgotten(work)
        work = f"{work}-{int(time.time())}-{secrets.token_hex(4)}"
        with self.explained(tr("private branch")):
            self.create_branch(work, head)
        try:
            self._import(source, target, work, message, metadata)
            changes = [str(change.type) for change in self.differences(head, work)]
            merged = self._merge(work, message, metadata) if changes else head
        finally:
            with contextlib.suppress(AppError):
                self.delete_branch(work)
        if merged is None:
            again = tr("the same files were changed meanwhile: run again")
            raise AppError(f"{self.branch}: {again}")
        removed = changes.count("removed")
        return Published(merged, len(changes) - removed, removed)

    def _remove_forgotten(self, work: str) -> None:
        """Delete what calls that were killed have left; a younger branch may be that of a call that is going on."""
        for name, _ in self.list_refs("branches"):
            ours = re.fullmatch(rf"{work}-(\d+)-[0-9a-f]+", name)
            if ours and int(ours[1]) < time.time() - FORGOTTEN_S:
                self.delete_branch(name)

    def _import(self, source: str, target: str, branch: str, message: str, metadata: Mapping[str, str]) -> None:
        """Run the server's import on a branch until it has its commit there."""
        import lakefs_sdk

        creation = lakefs_sdk.ImportCreation(
            paths=[lakefs_sdk.ImportLocation(type="common_prefix", path=source, destination=target)],
            commit=lakefs_sdk.CommitCreation(message=message, metadata=dict(metadata)),
        )
        what, pause = tr("importing {source}", source=source), 0.1
        with self.explained(what):
            ticket = self.sdk.import_api.import_start(self.repo, branch, creation).id
            while not (status := self.sdk.import_api.import_status(self.repo, branch, ticket)).completed:
                if status.error:
                    raise AppError(f"{what} (lakeFS {self.endpoint}, {self.repo}): {status.error.message}")
                time.sleep(pause)
                pause = min(2 * pause, 2.0)
