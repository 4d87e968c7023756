"""Faults between the client and the lakeFS server: retried, settled, or reported in one error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import AppError
from core.threads.workers import MAX_UNAVAILABLE
from tests.support.faults import Faults
from tests.support.publish_helpers import publish_file, published_paths, random_file
from utils.identifiers import Checksum, ObjectPath
from utils.lakefs_client import content, transfer
from utils.lakefs_client.content import RemoteFile
from utils.lakefs_client.http import RetriesExhausted
from utils.lakefs_utils import LakeFS, LakePath
from versioning.status import verify

pytestmark = pytest.mark.usefixtures("quick_retries")


@pytest.fixture
def lake(faulty_lake: tuple[LakeFS, Faults]) -> LakeFS:
    return faulty_lake[0]


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("step", ["POST /api/v1/repositories", "/merge/", "/commits", "/objects?path", "GET /api"])
def test_temporary_server_errors_are_retried(
    faulty_lake: tuple[LakeFS, Faults], tmp_path: Path, status: int, step: str
) -> None:
    lake, faults = faulty_lake
    faults.match, faults.statuses = step, [status, status]
    file = random_file(tmp_path, 100)
    commit = publish_file(lake, file)
    assert faults.statuses == [] and [f.sha256 for f in lake.objects(commit, "")] == [file.sha256]


@pytest.mark.parametrize("step", ["/commits", "/merge/", "/objects?path", "POST"])
def test_publish_succeeds_after_a_lost_response(faulty_lake: tuple[LakeFS, Faults], tmp_path: Path, step: str) -> None:
    lake, faults = faulty_lake
    before = len(lake.connection.sdk.refs_api.log_commits(lake.repo, "main").results)
    faults.match, faults.lost_responses = step, 1
    file = random_file(tmp_path, 100)
    commit = publish_file(lake, file)
    assert faults.lost_responses == 0
    assert [f.sha256 for f in lake.objects(commit, "")] == [file.sha256] == [f.sha256 for f in lake.objects("main", "")]
    assert len(lake.connection.sdk.refs_api.log_commits(lake.repo, "main").results) == before + 2, (
        "one commit and one merge"
    )


def test_tag_branch_and_revert_succeed_after_a_lost_response(
    faulty_lake: tuple[LakeFS, Faults], tmp_path: Path
) -> None:
    """Branches, tags and reverts: the retry finds the first request completed, which is not an error."""
    lake, faults = faulty_lake
    first, second = (publish_file(lake, random_file(tmp_path, 100)) for _ in range(2))
    source = LakePath(lake.repo, first, "data/x")

    def lost(request: str, work: Callable[[], object]) -> None:
        faults.match, faults.lost_responses = request, 1
        work()
        assert faults.lost_responses == 0, f"nothing asked for {request}"

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


def test_tag_on_a_duplicate_commit_is_accepted(lake: LakeFS, tmp_path: Path) -> None:
    """Earlier versions of this project created such commits after a lost response."""
    import lakefs_sdk

    first = publish_file(lake, random_file(tmp_path, 100))
    lake.create_branch("aside", first)
    empty = lakefs_sdk.CommitCreation(message="m", metadata={"key": "value"}, allow_empty=True)
    made = [lake.connection.sdk.commits_api.commit(lake.repo, "aside", empty).id for _ in range(2)]
    lake.set_tag("model-x-v1", made[1])
    lake.tag_with_metadata("model-x-v1", LakePath(lake.repo, first, "data/x"), "m", {"key": "another server's"})
    assert dict(lake.list_refs("tags")) == {"model-x-v1": made[1]}
    second = publish_file(lake, random_file(tmp_path, 100))
    with pytest.raises(AppError, match="names another commit"):
        lake.tag_with_metadata("model-x-v1", LakePath(lake.repo, second, "data/x"), "m", {})
    lake.set_tag("later", second)
    with pytest.raises(AppError, match="names another commit"):
        lake.tag_with_metadata("later", LakePath(lake.repo, first, "data/x"), "m", {})


@pytest.mark.parametrize("at", [0, 1, 70_000, 199_999])
def test_upload_survives_a_broken_connection(faulty_lake: tuple[LakeFS, Faults], tmp_path: Path, at: int) -> None:
    lake, faults = faulty_lake
    faults.match, faults.cut_uploads = "POST /api/v1/repositories/" + lake.repo + "/branches/sync", [at, at]
    file = random_file(tmp_path, 200_000)
    commit = publish_file(lake, file)
    assert faults.cut_uploads == [] and [f.sha256 for f in lake.objects(commit, "")] == [file.sha256]


@pytest.mark.parametrize("at", [[0], [1], [70_000, 5, 0], [199_999]])
def test_download_resumes_by_range_after_a_broken_connection(
    faulty_lake: tuple[LakeFS, Faults], tmp_path: Path, at: list[int]
) -> None:
    lake, faults = faulty_lake
    lake.connection.transfer._presign_support = (False, False)  # through the server, where the faults are injected
    file = random_file(tmp_path, 200_000)
    source = LakePath(lake.repo, publish_file(lake, file), "data/x")
    faults.match, faults.cut_downloads = "/objects?path", list(at)
    path = lake.verified_file(source, file.sha256, tmp_path / "cache")
    assert path.read_bytes() == file.path.read_bytes() and faults.cut_downloads == []
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_unavailable_server_error_names_every_file(faulty_lake: tuple[LakeFS, Faults], tmp_path: Path) -> None:
    lake, faults = faulty_lake
    head = lake.head()
    faults.match, faults.statuses = "/objects?path", [503] * 100
    files = {name: random_file(tmp_path, 10) for name in ("a", "b", "c")}
    with pytest.raises(AppError) as error:
        lake.publish(files, "data/", "m", {}, mirror=True)
    assert all(f"data/{name}: " in str(error.value) for name in files) and "503" in str(error.value)
    assert lake.head() == head and published_paths(lake) == []
    faults.statuses = []
    lake.publish(files, "data/", "m", {}, mirror=True)
    assert published_paths(lake) == ["data/a", "data/b", "data/c"]


def test_non_http_responses_are_retried_then_reported(faulty_lake: tuple[LakeFS, Faults], tmp_path: Path) -> None:
    lake, faults = faulty_lake
    faults.invalid_responses = 100
    with pytest.raises(AppError, match="does not answer"):
        lake.head()
    faults.invalid_responses = 2
    assert len(lake.head()) == 64, "two invalid responses are retried"


@pytest.mark.parametrize("step", ["/objects?path", "/commits", "/merge/"])
def test_response_that_is_not_from_lakefs_is_an_error(
    faulty_lake: tuple[LakeFS, Faults], tmp_path: Path, step: str
) -> None:
    lake, faults = faulty_lake
    head = lake.head()
    faults.match, faults.statuses = step, [201 if step.startswith("/obj") else 200]  # with a meaningless body
    file = random_file(tmp_path, 100)
    with pytest.raises(AppError, match=r"data/x|not a response of lakeFS"):
        publish_file(lake, file)
    assert lake.head() == head and published_paths(lake) == []
    assert [f.sha256 for f in lake.objects(publish_file(lake, file), "")] == [file.sha256]


def test_server_that_does_not_respond_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(transfer, "READ_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        lake = LakeFS(f"http://127.0.0.1:{silent.getsockname()[1]}", "a", "b", "repo", "main")
        with pytest.raises(AppError, match="does not answer"):
            lake.head()


def test_transfer_timeouts_are_retried_then_reported(faulty_lake: tuple[LakeFS, Faults], tmp_path: Path) -> None:
    lake, faults = faulty_lake
    lake.connection.transfer._presign_support, lake.connection.transfer.http.read_s = (False, False), 0.3
    file, faults.match = random_file(tmp_path, 100), "/objects?path"
    faults.unanswered = 2
    source = LakePath(lake.repo, publish_file(lake, file), "data/")
    faults.unanswered = 2
    lake.download(source, tmp_path / "cache")
    assert faults.unanswered == 0
    faults.unanswered = 1000
    with pytest.raises(AppError, match=r"data/x: .*does not answer \(ProtocolError"):
        publish_file(lake, random_file(tmp_path, 100))
    with pytest.raises(AppError, match="data/x: connection lost repeatedly: TimeoutError: timed out"):
        lake.download(source, tmp_path / "other")
    assert faults.unanswered == 1000 - 2 * 7, "requests retried by the HTTP pool are not retried again as a file"


def test_remaining_files_are_skipped_when_server_is_unavailable(
    faulty_lake: tuple[LakeFS, Faults], tmp_path: Path
) -> None:
    lake, faults = faulty_lake
    lake.connection.workers, lake.connection.transfer._presign_support = 2, (False, False)
    files = {f"{number:02}": random_file(tmp_path, 10) for number in range(40)}
    commit = lake.publish(files, "data/", "m", {}, mirror=True).commit_id
    tries = 7 * (MAX_UNAVAILABLE + lake.connection.workers - 1)
    for answers, status in (([], 10_000), ([503] * 10_000, 0)):
        faults.match, faults.invalid_responses, faults.statuses, faults.requests = "/objects?path", status, answers, []
        with pytest.raises(
            AppError, match=r"40 files could not be uploaded(.|\n)*more not tried: the server is unavailable"
        ):
            lake.publish(files, "other/", "m", {}, mirror=True)
        assert sum("POST" in line and "/objects?path" in line for line in faults.requests) <= tries
        with pytest.raises(
            AppError, match=r"40 files could not be downloaded(.|\n)*more not tried: the server is unavailable"
        ):
            lake.download(LakePath(lake.repo, commit, "data/"), tmp_path / "cache")
        assert sum("GET" in line and "/objects?path" in line for line in faults.requests) <= tries
        with pytest.raises(AppError, match=r"40 files could not be read and were not verified(.|\n)*more not tried"):
            verify(lake, commit)
    faults.match, faults.invalid_responses, faults.statuses = "", 0, []
    lake.publish(files, "other/", "m", {}, mirror=True)
    lake.download(LakePath(lake.repo, commit, "data/"), tmp_path / "cache")


def test_retry_after_is_limited_to_one_minute(
    faulty_lake: tuple[LakeFS, Faults], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, faults = faulty_lake
    slept: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", slept.append)
    for step, seconds in (("/objects?path", "7"), ("/objects?path", "86400"), ("/commits", "7000")):
        faults.match, faults.statuses, faults.retry_after = step, [429], seconds
        publish_file(lake, random_file(tmp_path, 10))
    assert [seconds for seconds in slept if seconds] == [7, 60, 60]


def test_messages_contain_no_signature_or_password() -> None:
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
    remote = RemoteFile(ObjectPath("x"), 3, None, Checksum(""), f"http://127.0.0.1:9/x?{secret}")
    with pytest.raises(AppError, match="connection lost repeatedly: ") as read:
        list(lake.connection.transfer.read("repo", "main", remote, 1))
    assert not any("5ec2e7" in text for text in (str(unanswered.value), refused, str(read.value)))
