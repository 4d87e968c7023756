"""Copy commits and objects to another server as they are: the low-level calls of versioning/migrate.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from core.errors import AppError
from core.i18n import tr
from utils.identifiers import Checksum, ObjectPath, parse_size
from utils.lakefs_client.connection import Connection
from utils.lakefs_client.content import RemoteFile
from utils.lakefs_client.responses import Commit, parse_checksum, parse_sha256


class MigrationTarget:
    """Repository to which commits and objects are copied with their original metadata."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def stat(self, ref: str, path: ObjectPath) -> tuple[RemoteFile, dict[str, str], str]:
        """Return an object, its metadata and its content type."""
        with self.connection.convert_errors(path):
            stat = self.connection.sdk.objects_api.stat_object(self.connection.repo, ref, path)
            metadata = dict(stat.metadata or {})
            size, checksum = parse_size(stat.size_bytes), Checksum(stat.checksum)
            remote = RemoteFile(path, size, parse_sha256(metadata), checksum)
            return remote, metadata, str(stat.content_type or "application/octet-stream")

    def download(self, ref: str, remote: RemoteFile, target: Path) -> None:
        """Download and verify an object, without the cache."""
        self.connection.transfer.download(self.connection.repo, ref, remote, target)

    def upload_as_is(
        self, branch: str, remote: RemoteFile, file: Path, metadata: Mapping[str, str], content_type: str
    ) -> None:
        """Upload a copy of an object with its metadata and type. Raises AppError if the server's MD5 is another one."""
        headers = {f"x-lakefs-meta-{key}": value for key, value in metadata.items()} | {"Content-Type": content_type}
        with self.connection.convert_errors(tr("uploading {path}", path=remote.path)):
            response = self.connection.transfer.post_raw(self.connection.repo, branch, remote.path, file, headers)
            if response.status != 201 or parse_checksum(response.data) != remote.checksum:
                raise AppError(f"{remote.path}: {response.status} {response.data[:300].decode(errors='replace')}")

    def commit(self, branch: str, commit: Commit, metadata: dict[str, str]) -> None:
        """Commit a branch with the message and date of `commit`."""
        import lakefs_sdk

        creation = lakefs_sdk.CommitCreation(
            message=commit.message, metadata=metadata, date=commit.creation_date, allow_empty=True
        )
        with self.connection.convert_errors(tr("commit {id}", id=commit.id[:12])):
            self.connection.sdk.commits_api.commit(self.connection.repo, branch, creation)

    def merge(self, branch: str, source: str, commit: Commit, metadata: dict[str, str]) -> None:
        """Merge `source` into a branch with the message and strategy of `commit`."""
        import lakefs_sdk

        strategy = commit.metadata.get(".lakefs.merge.strategy", "default")
        options = {"strategy": strategy} if strategy != "default" else {}
        merge = lakefs_sdk.Merge(message=commit.message, metadata=metadata, allow_empty=True, **options)
        with self.connection.convert_errors(tr("merge {id}", id=commit.id[:12])):
            self.connection.sdk.refs_api.merge_into_branch(self.connection.repo, source, branch, merge=merge)

    def reset_branch(self, branch: str, commit_id: str) -> None:
        """Point a branch at a commit."""
        with self.connection.convert_errors(tr("branch {name}", name=branch)):
            self.connection.sdk.experimental_api.hard_reset_branch(self.connection.repo, branch, commit_id)
