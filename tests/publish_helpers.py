"""Helpers of the tests that publish small files to lakeFS."""

from __future__ import annotations

import secrets
from pathlib import Path

from core.hashing import file_sha256
from utils import lakefs_utils
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import LakeFS


def write_local_files(folder: Path, contents: dict[str, bytes]) -> dict[str, LocalFile]:
    files = {}
    for number, (name, content) in enumerate(contents.items()):
        path = folder / f"{number}-{secrets.token_hex(4)}"
        path.write_bytes(content)
        files[name] = LocalFile(path, file_sha256(path))
    return files


def publish(lake: LakeFS, files: dict[str, LocalFile], mirror: bool = True) -> lakefs_utils.PublishResult:
    return lake.publish(files, "data/", "message", {"key": "value"}, mirror)


def published_hashes(lake: LakeFS, ref: str) -> dict[str, str | None]:
    return {file.path.removeprefix("data/"): file.sha256 for file in lake.objects(ref, "data/")}
