"""Helpers of the tests that publish small files to lakeFS."""

from __future__ import annotations

import secrets
from pathlib import Path

import config
from core.hashing import file_sha256
from tests.support.servers import Server
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


def settings_for(server: Server, endpoint: str, folder: Path) -> config.Settings:
    return config.load_settings(
        lakefs_endpoint=endpoint,
        lakefs_access_key_id=server.access_key_id,
        lakefs_secret_access_key=server.secret_access_key,
        lakefs_storage_namespace=server.storage_namespace,
        lakefs_local_dir=folder / "local",
    )


def write_files(folder: Path, count: int, size: int) -> dict[str, LocalFile]:
    return write_local_files(folder, {str(number): secrets.token_bytes(size) for number in range(count)})


def sha256s(files: dict[str, LocalFile]) -> dict[str, str | None]:
    return {name: file.sha256 for name, file in files.items()}


def random_file(folder: Path, size: int) -> LocalFile:
    path = folder / secrets.token_hex(4)
    path.write_bytes(secrets.token_bytes(size))
    return LocalFile(path, file_sha256(path))


def publish_file(lake: LakeFS, file: LocalFile) -> str:
    return lake.publish({"x": file}, "data/", "m", {}, mirror=True).commit_id


def published_paths(lake: LakeFS) -> list[str]:
    return [file.path for file in lake.objects("main", "")]


def supports_multipart(lake: LakeFS) -> bool:
    return lake.connection.transfer.presign_support()[1]
