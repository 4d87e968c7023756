"""Every fault on the way of an object: nothing lost, nothing half there, and a call after it goes on."""

from __future__ import annotations

import json
import mimetypes
import os
import resource
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import config
from core.errors import AppError, UsageError
from core.hashing import HashCache, file_sha256
from core.workers import MAX_UNAVAILABLE
from tests.faults import Faults, between
from tests.project import OWN_NAMES, SOURCE
from tests.servers import Server
from utils.lakefs_client import content, multipart, transfer
from utils.lakefs_client.content import LocalFile, RemoteFile
from utils.lakefs_client.http import HttpClient, RetriesExhausted
from utils.lakefs_utils import LakeFS, LakePath, connect
from versioning import sync
from versioning.status import verify

pytestmark = pytest.mark.usefixtures("quick_retries")


@pytest.fixture
def faulty(lakefs_server: Server, tmp_path: Path) -> Iterator[tuple[LakeFS, Faults]]:
    """A repository whose server is reached through the faults."""
    with between(lakefs_server.endpoint) as faults:
        settings = config.load_settings(
            lakefs_endpoint=faults.endpoint,
            lakefs_access_key_id=lakefs_server.access_key_id,
            lakefs_secret_access_key=lakefs_server.secret_access_key,
            lakefs_storage_namespace=lakefs_server.storage_namespace,
            lakefs_repo=f"repo-{secrets.token_hex(6)}",
            lakefs_local_dir=tmp_path / "local",
        )
        with connect(settings, create=True) as lake:
            yield lake, faults


@pytest.fixture
def lake(faulty: tuple[LakeFS, Faults]) -> LakeFS:
    return faulty[0]


def big(folder: Path, size: int) -> LocalFile:
    path = folder / secrets.token_hex(4)
    path.write_bytes(secrets.token_bytes(size))
    return LocalFile(path, file_sha256(path))


def publish(lake: LakeFS, file: LocalFile) -> str:
    return lake.publish({"x": file}, "data/", "m", {}, mirror=True).commit_id


def held(lake: LakeFS) -> list[str]:
    return [file.path for file in lake.objects("main", "")]


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("step", ["POST /api/v1/repositories", "/merge/", "/commits", "/objects?path", "GET /api"])
def test_a_passing_trouble_of_the_server_is_ridden_out(
    faulty: tuple[LakeFS, Faults], tmp_path: Path, status: int, step: str
) -> None:
    lake, faults = faulty
    faults.match, faults.answers = step, [status, status]
    file = big(tmp_path, 100)
    commit = publish(lake, file)
    assert faults.answers == [] and [f.sha256 for f in lake.objects(commit, "")] == [file.sha256]


@pytest.mark.parametrize("step", ["/commits", "/merge/", "/objects?path", "POST"])
def test_an_answer_that_is_lost_is_settled(faulty: tuple[LakeFS, Faults], tmp_path: Path, step: str) -> None:
    lake, faults = faulty
    before = len(lake.connection.sdk.refs_api.log_commits(lake.repo, "main").results)
    faults.match, faults.lose_answer = step, 1
    file = big(tmp_path, 100)
    commit = publish(lake, file)
    assert faults.lose_answer == 0
    assert [f.sha256 for f in lake.objects(commit, "")] == [file.sha256] == [f.sha256 for f in lake.objects("main", "")]
    assert len(lake.connection.sdk.refs_api.log_commits(lake.repo, "main").results) == before + 2, (
        "one commit and one merge"
    )


def test_a_lost_answer_of_anything_else_is_settled(faulty: tuple[LakeFS, Faults], tmp_path: Path) -> None:
    """Branches, tags and reverts: the second request finds the work of the first one done, which is no error."""
    lake, faults = faulty
    first, second = (publish(lake, big(tmp_path, 100)) for _ in range(2))
    source = LakePath(lake.repo, first, "data/x")

    def lost(request: str, work: Callable[[], object]) -> None:
        faults.match, faults.lose_answer = request, 1
        work()
        assert faults.lose_answer == 0, f"nothing asked for {request}"

    lost("/tags HTTP", lambda: lake.set_tag("v1", first))
    with pytest.raises(AppError, match="409"):
        lake.set_tag("v1", second)
    assert dict(lake.list_refs("tags")) == {"v1": first}
    lost("DELETE", lambda: lake.delete_tag("v1"))
    with pytest.raises(AppError, match="404"):
        lake.delete_tag("v1")
    lake.create_branch("aside", first)
    lost("DELETE", lambda: lake.delete_branch("aside"))
    assert not lake.has_branch("aside")
    lost("/revert", lambda: lake.revert(second, "undo", {"key": "value"}))
    assert lake.commit_metadata("main")["key"] == "value" and lake.commit("main").parents == [second]
    with pytest.raises(AppError, match="cannot be reverted"):
        lake.revert(second, "undo", {"key": "value"})
    for number, request in enumerate(("DELETE", "/branches HTTP", "/commits HTTP", "/tags HTTP")):
        tag = f"model-x-v{number}"
        lost(request, lambda: lake.tag_with_metadata(tag, source, "m", {"model_version": "1"}))  # noqa: B023
        assert lake.commit(tag).parents == [first] and lake.commit_metadata(tag) == {"model_version": "1"}
        lake.tag_with_metadata(tag, source, "m", {"model_version": "1"})
    assert [name for name, _ in lake.list_refs("branches")] == ["main"]


def test_a_tag_on_a_commit_made_twice_is_taken_for_what_it_is(lake: LakeFS, tmp_path: Path) -> None:
    """As earlier versions of this project left it, after a lost answer."""
    import lakefs_sdk

    first = publish(lake, big(tmp_path, 100))
    lake.create_branch("aside", first)
    empty = lakefs_sdk.CommitCreation(message="m", metadata={"key": "value"}, allow_empty=True)
    made = [lake.connection.sdk.commits_api.commit(lake.repo, "aside", empty).id for _ in range(2)]
    lake.set_tag("model-x-v1", made[1])
    lake.tag_with_metadata("model-x-v1", LakePath(lake.repo, first, "data/x"), "m", {"key": "another server's"})
    assert dict(lake.list_refs("tags")) == {"model-x-v1": made[1]}
    second = publish(lake, big(tmp_path, 100))
    with pytest.raises(AppError, match="names another commit"):
        lake.tag_with_metadata("model-x-v1", LakePath(lake.repo, second, "data/x"), "m", {})
    lake.set_tag("later", second)
    with pytest.raises(AppError, match="names another commit"):
        lake.tag_with_metadata("later", LakePath(lake.repo, first, "data/x"), "m", {})


@pytest.mark.parametrize("at", [0, 1, 70_000, 199_999])
def test_a_connection_cut_while_sending(faulty: tuple[LakeFS, Faults], tmp_path: Path, at: int) -> None:
    lake, faults = faulty
    faults.match, faults.cut_up = "POST /api/v1/repositories/" + lake.repo + "/branches/sync", [at, at]
    file = big(tmp_path, 200_000)
    commit = publish(lake, file)
    assert faults.cut_up == [] and [f.sha256 for f in lake.objects(commit, "")] == [file.sha256]


@pytest.mark.parametrize("at", [[0], [1], [70_000, 5, 0], [199_999]])
def test_a_connection_cut_while_receiving_goes_on_by_ranges(
    faulty: tuple[LakeFS, Faults], tmp_path: Path, at: list[int]
) -> None:
    lake, faults = faulty
    lake.connection.transfer._presign_support = (False, False)  # through the server, where the faults are
    file = big(tmp_path, 200_000)
    source = LakePath(lake.repo, publish(lake, file), "data/x")
    faults.match, faults.cut_down = "/objects?path", list(at)
    path = lake.verified_file(source, file.sha256, tmp_path / "cache")
    assert path.read_bytes() == file.path.read_bytes() and faults.cut_down == []
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_a_server_that_never_comes_back_is_an_error_that_names_every_file(
    faulty: tuple[LakeFS, Faults], tmp_path: Path
) -> None:
    lake, faults = faulty
    head = lake.head()
    faults.match, faults.answers = "/objects?path", [503] * 100
    files = {name: big(tmp_path, 10) for name in ("a", "b", "c")}
    with pytest.raises(AppError) as error:
        lake.publish(files, "data/", "m", {}, mirror=True)
    assert all(f"data/{name}: " in str(error.value) for name in files) and "503" in str(error.value)
    assert lake.head() == head and held(lake) == []
    faults.answers = []
    lake.publish(files, "data/", "m", {}, mirror=True)
    assert held(lake) == ["data/a", "data/b", "data/c"]


def test_a_server_that_answers_rubbish(faulty: tuple[LakeFS, Faults], tmp_path: Path) -> None:
    lake, faults = faulty
    faults.rubbish = 100
    with pytest.raises(AppError, match="does not answer"):
        lake.head()
    faults.rubbish = 2
    assert len(lake.head()) == 64, "twice is ridden out"


@pytest.mark.parametrize("step", ["/objects?path", "/commits", "/merge/"])
def test_an_answer_that_is_no_answer_of_lakefs(faulty: tuple[LakeFS, Faults], tmp_path: Path, step: str) -> None:
    lake, faults = faulty
    head = lake.head()
    faults.match, faults.answers = step, [201 if step.startswith("/obj") else 200]  # with a body that means nothing
    file = big(tmp_path, 100)
    with pytest.raises(AppError, match=r"data/x|not a response of lakeFS"):
        publish(lake, file)
    assert lake.head() == head and held(lake) == []
    assert [f.sha256 for f in lake.objects(publish(lake, file), "")] == [file.sha256]


def test_a_server_that_is_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(transfer, "READ_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        lake = LakeFS(f"http://127.0.0.1:{silent.getsockname()[1]}", "a", "b", "repo", "main")
        with pytest.raises(AppError, match="does not answer"):
            lake.head()


def test_silence_in_a_transfer_is_ridden_out_and_given_up(faulty: tuple[LakeFS, Faults], tmp_path: Path) -> None:
    lake, faults = faulty
    lake.connection.transfer._presign_support, lake.connection.transfer.http.read_s = (False, False), 0.3
    file, faults.match = big(tmp_path, 100), "/objects?path"
    faults.silent = 2
    source = LakePath(lake.repo, publish(lake, file), "data/")
    faults.silent = 2
    lake.download(source, tmp_path / "cache")
    assert faults.silent == 0
    faults.silent = 1000
    with pytest.raises(AppError, match=r"data/x: .*does not answer \(ProtocolError"):
        publish(lake, big(tmp_path, 100))
    with pytest.raises(AppError, match="data/x: connection lost repeatedly: TimeoutError: timed out"):
        lake.download(source, tmp_path / "other")
    assert faults.silent == 1000 - 2 * 7, "what the wire has tried again is not tried again as a whole"


def test_a_server_that_is_gone_is_not_waited_for_by_each_file(faulty: tuple[LakeFS, Faults], tmp_path: Path) -> None:
    lake, faults = faulty
    lake.connection.workers, lake.connection.transfer._presign_support = 2, (False, False)
    files = {f"{number:02}": big(tmp_path, 10) for number in range(40)}
    commit = lake.publish(files, "data/", "m", {}, mirror=True).commit_id
    tries = 7 * (MAX_UNAVAILABLE + lake.connection.workers - 1)
    for answers, status in (([], 10_000), ([503] * 10_000, 0)):
        faults.match, faults.rubbish, faults.answers, faults.seen = "/objects?path", status, answers, []
        with pytest.raises(
            AppError, match=r"40 files could not be uploaded(.|\n)*more not tried: the server is unavailable"
        ):
            lake.publish(files, "other/", "m", {}, mirror=True)
        assert sum("POST" in line and "/objects?path" in line for line in faults.seen) <= tries
        with pytest.raises(
            AppError, match=r"40 files could not be downloaded(.|\n)*more not tried: the server is unavailable"
        ):
            lake.download(LakePath(lake.repo, commit, "data/"), tmp_path / "cache")
        assert sum("GET" in line and "/objects?path" in line for line in faults.seen) <= tries
        with pytest.raises(AppError, match=r"40 files could not be read and were not verified(.|\n)*more not tried"):
            verify(lake, commit)
    faults.match, faults.rubbish, faults.answers = "", 0, []
    lake.publish(files, "other/", "m", {}, mirror=True)
    lake.download(LakePath(lake.repo, commit, "data/"), tmp_path / "cache")


def test_a_server_may_not_ask_to_wait_for_ever(
    faulty: tuple[LakeFS, Faults], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, faults = faulty
    slept: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", slept.append)
    for step, seconds in (("/objects?path", "7"), ("/objects?path", "86400"), ("/commits", "7000")):
        faults.match, faults.answers, faults.retry_after = step, [429], seconds
        publish(lake, big(tmp_path, 10))
    assert [seconds for seconds in slept if seconds] == [7, 60, 60]


def test_no_message_shows_a_signature_or_a_password() -> None:
    lake = LakeFS("http://127.0.0.1:9", "a", "b", "repo", "main")
    secret = "X-Amz-Signature=5ec2e7"
    with (
        pytest.raises(RetriesExhausted) as unanswered,
        lake.connection.transfer.http.request("GET", f"http://u:5ec2e7@127.0.0.1:9/x?{secret}", {}),
    ):
        pass
    xml = f"<Error><Code>SignatureDoesNotMatch</Code><Message>Check it.</Message><StringToSign>{secret}</StringToSign>"
    refused = str(content.PresignedRequestRefused(403, xml))
    assert refused == "403 SignatureDoesNotMatch: Check it."
    remote = RemoteFile("x", 3, None, "", f"http://127.0.0.1:9/x?{secret}")
    with pytest.raises(AppError, match="connection lost repeatedly: ") as read:
        list(lake.connection.transfer.read("repo", "main", remote, 1))
    assert not any("5ec2e7" in text for text in (str(unanswered.value), refused, str(read.value)))


@pytest.fixture
def storage(
    lake: LakeFS, lakefs_server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Faults]:
    """Faults between the client and the object storage behind lakeFS, where the way does lead there by links."""
    if not offers_parts(lake) or lakefs_server.storage is None:
        pytest.skip("this server offers no presigned links")
    endpoint, request = lakefs_server.storage.endpoint, HttpClient.request
    with between(endpoint) as faults:

        def detoured(self: HttpClient, method: str, url: str, *arguments: Any, **options: Any) -> Any:
            return request(self, method, url.replace(endpoint, faults.endpoint), *arguments, **options)

        monkeypatch.setattr(HttpClient, "request", detoured)
        yield faults
    assert "are unreachable" not in capsys.readouterr().err, "nothing went around by lakeFS"


@pytest.mark.parametrize("size", [transfer.SMALL + 10, multipart.MULTIPART + 10])
@pytest.mark.parametrize("at", [0, 1, 70_000, transfer.SMALL])
def test_a_link_that_is_cut_while_sending(lake: LakeFS, storage: Faults, tmp_path: Path, at: int, size: int) -> None:
    storage.match, storage.cut_up = "PUT /", [at, at]
    file = big(tmp_path, size)
    commit = publish(lake, file)
    assert storage.cut_up == [] and [f.sha256 for f in lake.objects(commit, "")] == [file.sha256]


@pytest.mark.parametrize("at", [[0], [1], [70_000, 5, 0], [199_999], [200_000]])
def test_a_link_that_is_cut_while_receiving(
    faulty: tuple[LakeFS, Faults], storage: Faults, tmp_path: Path, at: list[int]
) -> None:
    lake, server = faulty
    file = big(tmp_path, 200_000)
    source = LakePath(lake.repo, publish(lake, file), "data/x")
    storage.match, storage.cut_down = "GET /", list(at)
    assert file_sha256(lake.verified_file(source, file.sha256, tmp_path / "cache")) == file.sha256
    assert storage.cut_down == [] and not [line for line in server.seen if "GET" in line and "/objects?path" in line]


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_storage_is_ridden_out(lake: LakeFS, storage: Faults, tmp_path: Path, status: int) -> None:
    files = {"one": big(tmp_path, transfer.SMALL + 10), "parts": big(tmp_path, multipart.MULTIPART + 10)}
    storage.match, storage.answers = "PUT /", [status] * 4
    commit = lake.publish(files, "data/", "m", {}, mirror=True).commit_id
    assert storage.answers == []
    storage.match, storage.answers = "GET /", [status] * 4
    tree = lake.download(LakePath(lake.repo, commit, "data/"), tmp_path / "cache")
    assert storage.answers == []
    assert {name: file_sha256(tree / "data" / name) for name in files} == {n: f.sha256 for n, f in files.items()}


def test_few_parts_are_in_the_air_at_once(lake: LakeFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not offers_parts(lake):
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
    files = {name: big(tmp_path, multipart.MULTIPART + 10) for name in ("a", "b")}
    assert lake.publish(files, "data/", "m", {}, mirror=True).uploaded == 2 and most[0] <= 3


@pytest.mark.parametrize("path", ["data/x", "data/y"])
def test_an_upload_that_nobody_goes_on_with_is_taken_back(
    lake: LakeFS, lakefs_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """By a later upload: after an hour of one to the same path, after twenty of one to any."""
    if not offers_parts(lake) or lakefs_server.storage is None:
        pytest.skip("this server offers no multipart uploads")
    import boto3

    keys = {
        "aws_access_key_id": lakefs_server.storage.access_key,
        "aws_secret_access_key": lakefs_server.storage.secret_key,
    }
    s3 = boto3.client("s3", endpoint_url=lakefs_server.storage.endpoint, region_name="us-east-1", **keys)
    send = multipart.MultipartUpload._upload_part

    def dying(self: multipart.MultipartUpload, state: dict[str, object], number: int) -> None:
        if number > 1:
            raise KeyboardInterrupt
        send(self, state, number)

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(multipart, "CONCURRENT_PARTS", 1)
        killed.setattr(multipart.MultipartUpload, "_upload_part", dying)
        publish(lake, big(tmp_path, multipart.MULTIPART + 100))
    assert lake.connection.journals is not None
    (journal,) = lake.connection.journals.iterdir()
    state = json.loads(journal.read_text())
    bucket, key = state["physical_address"].removeprefix("s3://").split("/", 1)
    begun = {"Bucket": bucket, "Key": key, "UploadId": state["upload_id"]}
    assert len(s3.list_parts(**begun)["Parts"]) == 1
    old = time.time() - (2 * 3600 if path == "data/x" else 21 * 3600)
    os.utime(journal, (old, old))
    lake.publish({path[5:]: big(tmp_path, multipart.MULTIPART)}, "data/", "m", {}, mirror=False)
    assert not list(lake.connection.journals.iterdir())
    with pytest.raises(s3.exceptions.NoSuchUpload):
        s3.list_parts(**begun)


def test_types_are_not_those_of_this_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.13 knows .webp, 3.11 does not: the same file would be another object."""
    monkeypatch.setitem(mimetypes._types_map_default, ".webp", "image/webp")  # type: ignore[attr-defined]
    names = ("a/b.PNG", "x.jpg", "x.jpeg", "x.json", "x.txt", "x.csv", "x.tif", "x.webp", "model.pth", "none")
    assert [content.content_type(name) for name in names] == [
        "image/png",
        "image/jpeg",
        "image/jpeg",
        "application/json",
        "text/plain",
        "text/csv",
        "image/tiff",
        *["application/octet-stream"] * 3,
    ]


@pytest.mark.parametrize(
    "size", [0, 1, transfer.SMALL, transfer.SMALL + 1, multipart.MULTIPART, multipart.MULTIPART + 5]
)
def test_every_way_up_gives_the_same_object(lake: LakeFS, tmp_path: Path, size: int) -> None:
    file = big(tmp_path, size)
    commit = publish(lake, file)
    remote = next(lake.objects(commit, "data/x"))
    assert (remote.size_bytes, remote.sha256) == (size, file.sha256)
    path = lake.verified_file(LakePath(lake.repo, commit, "data/x"), file.sha256, tmp_path / "cache")
    assert file_sha256(path) == file.sha256
    assert lake.publish({"x": file}, "data/", "m", {}, mirror=True).uploaded == 0


def offers_parts(lake: LakeFS) -> bool:
    return lake.connection.transfer.presign_support()[1]


def test_a_multipart_upload_goes_on_after_a_kill(lake: LakeFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not offers_parts(lake):
        pytest.skip("this server offers no multipart uploads")
    file = big(tmp_path, multipart.MULTIPART + 100)
    sent: list[int] = []
    send = multipart.MultipartUpload._upload_part

    def dying(self: multipart.MultipartUpload, state: dict[str, object], number: int) -> None:
        if number > 3:
            raise KeyboardInterrupt
        send(self, state, number)
        sent.append(number)

    monkeypatch.setattr(multipart, "CONCURRENT_PARTS", 1)
    monkeypatch.setattr(multipart.MultipartUpload, "_upload_part", dying)
    with pytest.raises(KeyboardInterrupt):
        publish(lake, file)
    assert sent == [1, 2, 3] and held(lake) == []

    def noting(self: multipart.MultipartUpload, state: dict[str, object], number: int) -> None:
        sent.append(number)
        send(self, state, number)

    monkeypatch.setattr(multipart.MultipartUpload, "_upload_part", noting)
    commit = publish(lake, file)
    assert sent == [1, 2, 3, 4, 5], "what had arrived is not sent again"
    path = lake.verified_file(LakePath(lake.repo, commit, "data/x"), file.sha256, tmp_path / "cache")
    assert file_sha256(path) == file.sha256
    assert lake.connection.journals is not None and not list(lake.connection.journals.iterdir())


def test_links_that_cannot_be_reached_are_said_once_and_gone_around(
    lake: LakeFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not offers_parts(lake):
        pytest.skip("this server offers no presigned links")
    from lakefs_sdk.api import staging_api

    real = staging_api.StagingApi.get_physical_address

    def elsewhere(self: object, *arguments: object, **options: object) -> object:
        location = real(self, *arguments, **options)
        location.presigned_url = "http://127.0.0.1:9/inside-docker?" + location.presigned_url.split("?")[1]
        return location

    monkeypatch.setattr(staging_api.StagingApi, "get_physical_address", elsewhere)
    files = {name: big(tmp_path, transfer.SMALL + 10) for name in ("a", "b")}
    commit = lake.publish(files, "data/", "m", {}, mirror=True).commit_id
    assert [f.sha256 for f in lake.objects(commit, "")] == [files["a"].sha256, files["b"].sha256]
    assert capsys.readouterr().err.count("warning: presigned links (127.0.0.1:9) are unreachable") == 1


def expired(link: str) -> str:
    """The link as if it had been signed a century ago."""
    assert "X-Amz-Date=20" in link
    return link.replace("X-Amz-Date=20", "X-Amz-Date=19")


def test_a_link_that_expired_before_the_file_was_sent(
    lake: LakeFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The storage refuses it, or hangs up while the file is still being sent: either way the file arrives."""
    if not offers_parts(lake):
        pytest.skip("this server offers no presigned links")
    from lakefs_sdk.api import experimental_api, staging_api

    whole, part, first = staging_api.StagingApi.get_physical_address, experimental_api.ExperimentalApi.upload_part, [1]

    def stale(self: object, *arguments: object, **options: object) -> object:
        location = whole(self, *arguments, **options)
        location.presigned_url = expired(location.presigned_url)
        return location

    def stale_first(self: object, *arguments: object, **options: object) -> object:
        signed = part(self, *arguments, **options)
        first[0] -= 1
        if first[0] >= 0:
            signed.presigned_url = expired(signed.presigned_url)
        return signed

    monkeypatch.setattr(multipart, "CONCURRENT_PARTS", 1)
    monkeypatch.setattr(staging_api.StagingApi, "get_physical_address", stale)
    monkeypatch.setattr(experimental_api.ExperimentalApi, "upload_part", stale_first)
    files = {"one": big(tmp_path, transfer.SMALL + 10), "parts": big(tmp_path, multipart.MULTIPART + 10)}
    commit = lake.publish(files, "data/", "m", {}, mirror=True).commit_id
    assert [f.sha256 for f in lake.objects(commit, "")] == [files["one"].sha256, files["parts"].sha256]


def test_an_expired_link_is_gone_around(lake: LakeFS, tmp_path: Path) -> None:
    if not offers_parts(lake):
        pytest.skip("this server offers no presigned links")
    import dataclasses

    file = big(tmp_path, 1000)
    commit = publish(lake, file)
    remote = next(lake.objects(commit, "data/x", links=True))
    assert remote.link is not None
    old = dataclasses.replace(remote, link=expired(remote.link))
    lake.connection.transfer.download(lake.repo, commit, old, tmp_path / "out")
    assert file_sha256(tmp_path / "out") == file.sha256


def test_the_hash_cache_sees_every_change(tmp_path: Path) -> None:
    cache = HashCache(tmp_path / "cache/hashes.db")
    path = tmp_path / "file"
    path.write_bytes(b"one")
    first = cache.sha256(path)
    path.write_bytes(b"two")
    assert cache.sha256(path) == file_sha256(path) != first, "same size, same moment: not believed"
    old = time.time() - 3600
    os.utime(path, (old, old))
    second = cache.sha256(path)
    assert cache.sha256(path) == second
    path.write_bytes(b"six")
    os.utime(path, (old + 10, old + 10))
    assert cache.sha256(path) == file_sha256(path) != second


def test_the_hash_cache_is_believed_while_the_stat_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = HashCache(tmp_path / "hashes.db")
    path = tmp_path / "file"
    path.write_bytes(b"content")
    os.utime(path, (1_000_000, 1_000_000))
    known = cache.sha256(path)
    cache.close()
    again = HashCache(tmp_path / "hashes.db")

    def unread(path: Path) -> str:
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr("core.hashing.file_sha256", unread)
    assert again.sha256(path) == known


def test_a_fetched_commit_needs_no_server_until_a_file_of_it_is_cut(lake: LakeFS, tmp_path: Path) -> None:
    file = big(tmp_path, 1000)
    source = LakePath(lake.repo, publish(lake, file), "data/")
    tree = lake.download(source, tmp_path / "cache")
    away = LakeFS("http://127.0.0.1:9", "a", "b", lake.repo, "main")
    assert away.download(source, tmp_path / "cache") == tree
    path = tree / "data/x"
    path.unlink()
    path.write_bytes(b"cut")  # not through the hard link: the content-addressed copy stays whole
    assert lake.download(source, tmp_path / "cache") == tree and file_sha256(path) == file.sha256


@pytest.mark.parametrize("size", [200_000, transfer.SMALL + 200_000])
def test_a_full_disk_leaves_nothing_half_there(lake: LakeFS, tmp_path: Path, size: int) -> None:
    file = big(tmp_path, size)
    source, cache = LakePath(lake.repo, publish(lake, file), "data/x"), tmp_path / "cache"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # no file may grow further, as on a full disk
    try:
        with pytest.raises(
            AppError, match=r"1 files could not be downloaded; run again to continue:\n  data/x: .*too large"
        ):
            lake.download(source, cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    assert file_sha256(lake.verified_file(source, file.sha256, cache)) == file.sha256


def download_slowly(lake: LakeFS, server: Server, source: LakePath, cache: Path) -> subprocess.Popen[bytes]:
    """A process that downloads a megabyte each 0.1 s."""
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom utils.lakefs_client import transfer\n"
        "from utils.lakefs_utils import LakeFS, LakePath\n"
        "read = transfer.Transfer.read\n"
        "def slow(*arguments):\n    for chunk in read(*arguments):\n        yield chunk\n        time.sleep(0.1)\n"
        "transfer.Transfer.read = slow\nendpoint, key, secret, repo, ref, cache = sys.argv[1:]\n"
        "LakeFS(endpoint, key, secret, repo, 'main').download(LakePath(repo, ref, 'data/'), Path(cache))\n"
    )
    words = [server.endpoint, server.access_key_id, server.secret_access_key, lake.repo, source.ref, str(cache)]
    return subprocess.Popen([sys.executable, "-c", program, *words], cwd=SOURCE)


def wait_for_megabytes(cache: Path, file: LocalFile, count: int) -> Path:
    part, end = cache / "sha256" / f".{file.sha256}.part", time.monotonic() + 60
    while not part.exists() or part.stat().st_size < count << 20:
        assert time.monotonic() < end
        time.sleep(0.02)
    return part


@pytest.mark.parametrize("damage", ["", "a changed byte", "too long", "all there"])
def test_a_download_goes_on_after_kill_9(lake: LakeFS, lakefs_server: Server, tmp_path: Path, damage: str) -> None:
    file, cache = big(tmp_path, transfer.SMALL + 3_000_000), tmp_path / "cache"
    source = LakePath(lake.repo, publish(lake, file), "data/")
    process = download_slowly(lake, lakefs_server, source, cache)
    part = wait_for_megabytes(cache, file, 3)
    process.kill()
    process.wait()
    with part.open("r+b") as stream:
        if damage == "a changed byte":
            stream.write(bytes([file.path.read_bytes()[0] ^ 1]))
        elif damage:
            stream.write(file.path.read_bytes() + (b"more" if damage == "too long" else b""))
    had, begun, real = part.stat().st_size, list[int](), lake.connection.transfer._read_from

    def noting(repo: str, ref: str, path: str, link: str | None, offset: int) -> Iterator[bytes]:
        begun.append(offset)
        return real(repo, ref, path, link, offset)

    lake.connection.transfer._read_from = noting  # type: ignore[method-assign]
    tree = lake.download(source, cache)
    assert begun == {"": [had], "a changed byte": [had, 0], "too long": [0], "all there": []}[damage]
    assert had > 2 << 20 and file_sha256(tree / "data/x") == file.sha256 and not list(cache.rglob("*.part"))
    assert tree.joinpath("data/x").stat().st_mode & 0o777 == 0o444


def test_two_downloads_of_one_file_do_not_mix(lake: LakeFS, lakefs_server: Server, tmp_path: Path) -> None:
    file, cache = big(tmp_path, transfer.SMALL + 3_000_000), tmp_path / "cache"
    source = LakePath(lake.repo, publish(lake, file), "data/")
    process = download_slowly(lake, lakefs_server, source, cache)
    wait_for_megabytes(cache, file, 1)
    tree = lake.download(source, cache)
    assert file_sha256(tree / "data/x") == file.sha256 and process.poll() is None
    assert process.wait(60) == 0 and file_sha256(tree / "data/x") == file.sha256
    assert not list(cache.rglob("*.part"))


def test_what_a_kill_has_left_long_ago_is_removed(lake: LakeFS, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / "sha256").mkdir(parents=True)
    old, new = cache / f"sha256/.{'0' * 64}.{'1' * 32}.part", cache / f"sha256/.{'2' * 64}.part"
    for path in (old, new):
        path.write_bytes(b"beginning")
    os.utime(old, (1_000_000, 1_000_000))
    lake.download(LakePath(lake.repo, publish(lake, big(tmp_path, 10)), "data/"), cache)
    assert not old.exists() and new.exists()


def test_a_disk_that_is_full_while_pulling(lake: LakeFS, tmp_path: Path) -> None:
    settings = config.load_settings(data_dir=tmp_path / "data", lakefs_local_dir=tmp_path / "local")
    files = {"large": big(tmp_path, 200_000), "small": big(tmp_path, 100)}
    lake.publish(files, "data/", "m", {}, mirror=True)
    sync.pull(settings, lake, "main", force=False)
    before = (settings.data_dir / "large").read_bytes()
    files = {"large": big(tmp_path, 200_000), "small": big(tmp_path, 100)}
    source = LakePath(lake.repo, lake.publish(files, "data/", "m", {}, mirror=True).commit_id, "data/")
    lake.download(source, tmp_path / "local/cache")  # there was room for this
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        with pytest.raises(
            AppError, match=r"1 files could not be written; run again to continue:\n  .*/large: .*too large"
        ):
            sync.pull(settings, lake, "main", force=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert (settings.data_dir / "large").read_bytes() == before and not list(settings.data_dir.rglob("*.part"))
    with pytest.raises(UsageError, match="was interrupted: run"):
        sync.push(settings, lake, None, keep_remote=False)
    sync.pull(settings, lake, "main", force=False)
    assert {name: file_sha256(settings.data_dir / name) for name in files} == {n: f.sha256 for n, f in files.items()}


def test_an_object_whose_path_leaves_the_folder_is_not_fetched(lake: LakeFS, tmp_path: Path) -> None:
    lake.connection.sdk.objects_api.upload_object(lake.repo, "main", "data/../../../../../evil", content=b"evil")
    with pytest.raises(AppError, match="outside"):
        lake.download(LakePath(lake.repo, "main", "data/"), tmp_path / "a/b/cache")
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.parametrize("named", [False, True])
def test_a_large_file_goes_up_and_down_in_little_memory(lakefs_server: Server, tmp_path: Path, named: bool) -> None:
    """The embedded server inside the process, or one that is named; the file is a hole, which costs no disk at first.

    TEST_LARGE_MB=1024 takes a gigabyte, for about half a minute; what memory is allowed is less than either size.
    """
    if not named and lakefs_server.kind == "real":
        pytest.skip("the embedded server was asked already")
    megabytes = os.environ.get("TEST_LARGE_MB", "256")
    program = (
        "import re, sys\nfrom pathlib import Path\nimport config\nfrom core.hashing import file_sha256\n"
        "from utils.lakefs_utils import LakePath, connect\nfrom utils.lakefs_client.content import LocalFile\n"
        "root = Path(sys.argv[1])\nfile = root / 'file'\n"
        "with file.open('wb') as stream:\n    stream.truncate(int(sys.argv[2]) << 20)\n"
        "names = 'endpoint', 'access_key_id', 'secret_access_key', 'storage_namespace'\n"
        "server = {f'lakefs_{name}': value for name, value in zip(names, sys.argv[3:])} or {'lakefs_endpoint': None}\n"
        "settings = config.load_settings(lakefs_local_dir=root / 'store', **server)\n"
        "with connect(settings, create=True) as lake:\n"
        "    local = LocalFile(file, file_sha256(file))\n"
        "    commit = lake.publish({'x': local}, 'data/', 'm', {}, mirror=True).commit_id\n"
        "    tree = lake.download(LakePath(lake.repo, commit, 'data/x'), root / 'cache')\n"
        "assert (tree / 'data/x').stat().st_size == int(sys.argv[2]) << 20\n"
        # Its own peak: ru_maxrss begins at that of the tests' process, which started this one.
        "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith(OWN_NAMES)}
    command = [sys.executable, "-c", program, str(tmp_path / "run"), megabytes]
    if named:
        keys = lakefs_server.access_key_id, lakefs_server.secret_access_key
        command += [lakefs_server.endpoint, *keys, lakefs_server.storage_namespace]
    (tmp_path / "run").mkdir()
    done = subprocess.run(command, cwd=SOURCE, env=clean, capture_output=True, text=True, timeout=600)
    shutil.rmtree(tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 250_000, "kilobytes"


@pytest.mark.parametrize("keep", [0, 50, 5000])
def test_a_damaged_hash_cache_is_made_anew(tmp_path: Path, keep: int) -> None:
    database = tmp_path / "hashes.db"
    cache = HashCache(database)
    for number in range(200):
        path = tmp_path / f"{number}"
        path.write_bytes(b"content")
        os.utime(path, (1_000_000, 1_000_000))
        cache.sha256(path)
    cache.close()
    content = database.read_bytes()
    database.write_bytes(content[:keep] + b"garbage" * 1000 + content[keep + 7000 :])
    cache = HashCache(database)
    assert cache.sha256(tmp_path / "1") == file_sha256(tmp_path / "1")
    cache.close()
