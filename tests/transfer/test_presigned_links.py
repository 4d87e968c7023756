"""Transfers by presigned links: faults of the storage, multipart uploads, expired and unreachable links."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.hashing import file_sha256
from tests.support.faults import Faults, fault_proxy
from tests.support.publish_helpers import publish_file, published_paths, random_file, supports_multipart
from tests.support.servers import Server
from utils.lakefs_client import multipart, transfer
from utils.lakefs_client.http import HttpClient
from utils.lakefs_utils import LakeFS, LakePath

pytestmark = pytest.mark.usefixtures("quick_retries")


@pytest.fixture
def lake(faulty_lake: tuple[LakeFS, Faults]) -> LakeFS:
    return faulty_lake[0]


@pytest.fixture
def storage(
    lake: LakeFS, lakefs_server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Faults]:
    """Faults between the client and the object storage behind lakeFS, if the server offers presigned links."""
    if not supports_multipart(lake) or lakefs_server.storage is None:
        pytest.skip("this server offers no presigned links")
    endpoint, request = lakefs_server.storage.endpoint, HttpClient.request
    with fault_proxy(endpoint) as faults:

        def request_via_faults(self: HttpClient, method: str, url: str, *arguments: Any, **options: Any) -> Any:
            return request(self, method, url.replace(endpoint, faults.endpoint), *arguments, **options)

        monkeypatch.setattr(HttpClient, "request", request_via_faults)
        yield faults
    assert "are unreachable" not in capsys.readouterr().err, "no transfer fell back to lakeFS"


@pytest.mark.parametrize("size", [transfer.SMALL + 10, multipart.MULTIPART + 10])
@pytest.mark.parametrize("at", [0, 1, 70_000, transfer.SMALL])
def test_presigned_upload_survives_a_broken_connection(
    lake: LakeFS, storage: Faults, tmp_path: Path, at: int, size: int
) -> None:
    storage.match, storage.cut_uploads = "PUT /", [at, at]
    file = random_file(tmp_path, size)
    commit = publish_file(lake, file)
    assert storage.cut_uploads == [] and [f.sha256 for f in lake.objects(commit, "")] == [file.sha256]


@pytest.mark.parametrize("at", [[0], [1], [70_000, 5, 0], [199_999], [200_000]])
def test_presigned_download_resumes_after_a_broken_connection(
    faulty_lake: tuple[LakeFS, Faults], storage: Faults, tmp_path: Path, at: list[int]
) -> None:
    lake, server = faulty_lake
    file = random_file(tmp_path, 200_000)
    source = LakePath(lake.repo, publish_file(lake, file), "data/x")
    storage.match, storage.cut_downloads = "GET /", list(at)
    assert file_sha256(lake.verified_file(source, file.sha256, tmp_path / "cache")) == file.sha256
    assert storage.cut_downloads == [] and not [
        line for line in server.requests if "GET" in line and "/objects?path" in line
    ]


@pytest.mark.parametrize("status", [429, 503])
def test_busy_storage_is_retried(lake: LakeFS, storage: Faults, tmp_path: Path, status: int) -> None:
    files = {
        "one": random_file(tmp_path, transfer.SMALL + 10),
        "parts": random_file(tmp_path, multipart.MULTIPART + 10),
    }
    storage.match, storage.statuses = "PUT /", [status] * 4
    commit = lake.publish(files, "data/", "m", {}, mirror=True).commit_id
    assert storage.statuses == []
    storage.match, storage.statuses = "GET /", [status] * 4
    tree = lake.download(LakePath(lake.repo, commit, "data/"), tmp_path / "cache")
    assert storage.statuses == []
    assert {name: file_sha256(tree / "data" / name) for name in files} == {n: f.sha256 for n, f in files.items()}


def test_concurrent_parts_are_limited(lake: LakeFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not supports_multipart(lake):
        pytest.skip("this server offers no multipart uploads")
    lake.connection.transfer.parts = threading.BoundedSemaphore(3)
    real, now, most = multipart.MultipartUpload._put, [0], [0]

    def counting(self: multipart.MultipartUpload, *arguments: Any) -> str:
        now[0] += 1
        most[0] = max(most[0], now[0])
        try:
            time.sleep(0.05)
            return real(self, *arguments)
        finally:
            now[0] -= 1

    monkeypatch.setattr(multipart.MultipartUpload, "_put", counting)
    files = {name: random_file(tmp_path, multipart.MULTIPART + 10) for name in ("a", "b")}
    assert lake.publish(files, "data/", "m", {}, mirror=True).uploaded == 2 and most[0] <= 3


@pytest.mark.parametrize("path", ["data/x", "data/y"])
def test_abandoned_multipart_upload_is_aborted(
    lake: LakeFS, lakefs_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """By a later upload: one to the same path after an hour, one to any path after twenty hours."""
    if not supports_multipart(lake) or lakefs_server.storage is None:
        pytest.skip("this server offers no multipart uploads")
    import boto3

    keys = {
        "aws_access_key_id": lakefs_server.storage.access_key,
        "aws_secret_access_key": lakefs_server.storage.secret_key,
    }
    s3 = boto3.client("s3", endpoint_url=lakefs_server.storage.endpoint, region_name="us-east-1", **keys)
    send = multipart.MultipartUpload._upload_part

    def interrupted(self: multipart.MultipartUpload, state: dict[str, object], number: int) -> None:
        if number > 1:
            raise KeyboardInterrupt
        send(self, state, number)

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(multipart, "CONCURRENT_PARTS", 1)
        killed.setattr(multipart.MultipartUpload, "_upload_part", interrupted)
        publish_file(lake, random_file(tmp_path, multipart.MULTIPART + 100))
    assert lake.connection.journals is not None
    (journal,) = lake.connection.journals.iterdir()
    state = json.loads(journal.read_text())
    bucket, key = state["physical_address"].removeprefix("s3://").split("/", 1)
    begun = {"Bucket": bucket, "Key": key, "UploadId": state["upload_id"]}
    assert len(s3.list_parts(**begun)["Parts"]) == 1
    old = time.time() - (2 * 3600 if path == "data/x" else 21 * 3600)
    os.utime(journal, (old, old))
    lake.publish({path[5:]: random_file(tmp_path, multipart.MULTIPART)}, "data/", "m", {}, mirror=False)
    assert not list(lake.connection.journals.iterdir())
    with contextlib.suppress(s3.exceptions.NoSuchUpload):
        assert "Parts" not in s3.list_parts(**begun)  # SeaweedFS raises nothing
    listed = s3.list_multipart_uploads(Bucket=bucket, Prefix=key).get("Uploads", [])
    assert state["upload_id"] not in [upload["UploadId"] for upload in listed]


def test_multipart_upload_resumes_after_a_kill(lake: LakeFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not supports_multipart(lake):
        pytest.skip("this server offers no multipart uploads")
    file = random_file(tmp_path, multipart.MULTIPART + 100)
    sent: list[int] = []
    send = multipart.MultipartUpload._upload_part

    def interrupted(self: multipart.MultipartUpload, state: dict[str, object], number: int) -> None:
        if number > 3:
            raise KeyboardInterrupt
        send(self, state, number)
        sent.append(number)

    monkeypatch.setattr(multipart, "CONCURRENT_PARTS", 1)
    monkeypatch.setattr(multipart.MultipartUpload, "_upload_part", interrupted)
    with pytest.raises(KeyboardInterrupt):
        publish_file(lake, file)
    assert sent == [1, 2, 3] and published_paths(lake) == []

    def recorded(self: multipart.MultipartUpload, state: dict[str, object], number: int) -> None:
        sent.append(number)
        send(self, state, number)

    monkeypatch.setattr(multipart.MultipartUpload, "_upload_part", recorded)
    commit = publish_file(lake, file)
    assert sent == [1, 2, 3, 4, 5], "uploaded files are not sent again"
    path = lake.verified_file(LakePath(lake.repo, commit, "data/x"), file.sha256, tmp_path / "cache")
    assert file_sha256(path) == file.sha256
    assert lake.connection.journals is not None and not list(lake.connection.journals.iterdir())


def test_unreachable_presigned_links_warn_once_and_fall_back_to_lakefs(
    lake: LakeFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not supports_multipart(lake):
        pytest.skip("this server offers no presigned links")
    from lakefs_sdk.api import staging_api

    real = staging_api.StagingApi.get_physical_address

    def elsewhere(self: object, *arguments: object, **options: object) -> object:
        location = real(self, *arguments, **options)
        location.presigned_url = "http://127.0.0.1:9/inside-docker?" + location.presigned_url.split("?")[1]
        return location

    monkeypatch.setattr(staging_api.StagingApi, "get_physical_address", elsewhere)
    files = {name: random_file(tmp_path, transfer.SMALL + 10) for name in ("a", "b")}
    commit = lake.publish(files, "data/", "m", {}, mirror=True).commit_id
    assert [f.sha256 for f in lake.objects(commit, "")] == [files["a"].sha256, files["b"].sha256]
    assert capsys.readouterr().err.count("warning: presigned links (127.0.0.1:9) are unreachable") == 1


def expire_link(link: str) -> str:
    """Return the link as if it had been signed a century ago."""
    assert "X-Amz-Date=20" in link
    return link.replace("X-Amz-Date=20", "X-Amz-Date=19")


def test_upload_falls_back_when_the_presigned_link_expired(
    lake: LakeFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The storage refuses it or closes the connection during the upload: the file is uploaded in both cases."""
    if not supports_multipart(lake):
        pytest.skip("this server offers no presigned links")
    from lakefs_sdk.api import experimental_api, staging_api

    get_address, part, first = (
        staging_api.StagingApi.get_physical_address,
        experimental_api.ExperimentalApi.upload_part,
        [1],
    )

    def stale(self: object, *arguments: object, **options: object) -> object:
        location = get_address(self, *arguments, **options)
        location.presigned_url = expire_link(location.presigned_url)
        return location

    def stale_first(self: object, *arguments: object, **options: object) -> object:
        signed = part(self, *arguments, **options)
        first[0] -= 1
        if first[0] >= 0:
            signed.presigned_url = expire_link(signed.presigned_url)
        return signed

    monkeypatch.setattr(multipart, "CONCURRENT_PARTS", 1)
    monkeypatch.setattr(staging_api.StagingApi, "get_physical_address", stale)
    monkeypatch.setattr(experimental_api.ExperimentalApi, "upload_part", stale_first)
    files = {
        "one": random_file(tmp_path, transfer.SMALL + 10),
        "parts": random_file(tmp_path, multipart.MULTIPART + 10),
    }
    commit = lake.publish(files, "data/", "m", {}, mirror=True).commit_id
    assert [f.sha256 for f in lake.objects(commit, "")] == [files["one"].sha256, files["parts"].sha256]


def test_download_falls_back_when_the_presigned_link_expired(lake: LakeFS, tmp_path: Path) -> None:
    if not supports_multipart(lake):
        pytest.skip("this server offers no presigned links")
    import dataclasses

    file = random_file(tmp_path, 1000)
    commit = publish_file(lake, file)
    remote = next(lake.objects(commit, "data/x", links=True))
    assert remote.link is not None
    old = dataclasses.replace(remote, link=expire_link(remote.link))
    lake.connection.transfer.download(lake.repo, commit, old, tmp_path / "out")
    assert file_sha256(tmp_path / "out") == file.sha256
