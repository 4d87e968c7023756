"""Helpers of the tests that move files to and from a lakeFS server."""

from __future__ import annotations

import secrets
from pathlib import Path

from core.hashing import file_sha256
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import LakeFS


def random_file(folder: Path, size: int) -> LocalFile:
    path = folder / secrets.token_hex(4)
    path.write_bytes(secrets.token_bytes(size))
    return LocalFile(path, file_sha256(path))


def publish(lake: LakeFS, file: LocalFile) -> str:
    return lake.publish({"x": file}, "data/", "m", {}, mirror=True).commit_id


def published_paths(lake: LakeFS) -> list[str]:
    return [file.path for file in lake.objects("main", "")]


def supports_multipart(lake: LakeFS) -> bool:
    return lake.connection.transfer.presign_support()[1]
