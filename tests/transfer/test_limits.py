"""Limits of what a server may answer: each is one line, and costs neither memory nor keys."""

from __future__ import annotations

import gzip
import itertools
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import config
from core.errors import AppError, ExitCode
from tests.support.hostile_server import GOOD_ID, Answer, Hostile, hostile_server, page
from tests.support.hostile_server import config as storage_config
from utils import minio_utils
from utils.identifiers import Checksum, ObjectPath
from utils.lakefs_client.content import RemoteFile
from utils.lakefs_utils import LakeFS, LakePath, connect
from utils.network import limits
from utils.network.limits import LimitExceeded, check_address, check_link, follow_redirect

REPO = "/repositories/hostile-repo"
LISTING = f"{REPO}/refs/{GOOD_ID}/objects/ls"


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    with hostile_server() as server:
        yield server


@pytest.fixture
def lake(hostile: Hostile, tmp_path: Path, quick_retries: None) -> Iterator[LakeFS]:
    with connect(config.load_settings(**hostile.settings(lakefs_local_dir=tmp_path / ".lakefs"))) as lake:
        yield lake


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(AppError) as caught:
        call()
    assert caught.value.exit_code == ExitCode.FAILED and "\n" not in str(caught.value) and len(str(caught.value)) < 600
    return str(caught.value)


def gzipped_zeros(mebibytes: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(mebibytes)), packer.flush()])


@pytest.mark.parametrize("part", ["/config", REPO + "/branches", LISTING])
def test_compressed_bomb_is_refused_within_little_memory(part: str, hostile: Hostile, lake: LakeFS) -> None:
    bomb = gzipped_zeros(400)
    hostile.answers[part] = Answer(body=bomb, headers={"Content-Encoding": "gzip"})
    tracemalloc.start()
    try:
        text = refused(lambda: lake.head() and list(lake.objects(GOOD_ID, "")))
        assert "more than 16 MiB" in text and tracemalloc.get_traced_memory()[1] < 80 << 20
    finally:
        tracemalloc.stop()


def test_endless_body_is_refused(hostile: Hostile, lake: LakeFS) -> None:
    hostile.answers[REPO + "/branches"] = lambda _: Answer(body=itertools.repeat(bytes(1 << 16)))
    assert "more than 16 MiB" in refused(lake.head)


def test_compressed_response_is_read_and_an_unknown_one_refused(hostile: Hostile, lake: LakeFS) -> None:
    good = f'{{"id":"main","commit_id":"{GOOD_ID}"}}'.encode()
    for packed, name in ((gzip.compress(good), "gzip"), (zlib.compress(good), "deflate"), (good, "identity")):
        hostile.answers[REPO + "/branches"] = Answer(body=packed, headers={"Content-Encoding": name})
        assert lake.head() == GOOD_ID
    for packed, name in ((good, "br"), (good, "gzip, gzip"), (good, "gzip"), (b"\x1f\x8b", "zstd")):
        hostile.answers[REPO + "/branches"] = Answer(body=packed, headers={"Content-Encoding": name})
        assert "encoding" in (text := refused(lake.head)) or "not valid gzip" in text


def pages(offsets: Iterator[str], results: Callable[[str], list[Any]]) -> Callable[[dict[str, str]], Answer]:
    return lambda query: page(results(query.get("after", "")), next(offsets))


def test_listing_that_goes_round_is_refused(hostile: Hostile, lake: LakeFS) -> None:
    listings = {
        REPO + "/branches": lambda: list(lake.list_refs("branches")),
        REPO + "/tags": lambda: list(lake.list_refs("tags")),
        f"{REPO}/refs/{GOOD_ID}/commits": lambda: list(lake.log(GOOD_ID)),
        f"{REPO}/refs/{GOOD_ID}/diff": lambda: list(lake.differences(GOOD_ID, "main")),
        LISTING: lambda: list(lake.objects(GOOD_ID, "")),
    }
    for path, listing in listings.items():
        for cycle in (["a"], ["a", "b"], ["a", "b", "c"]):
            hostile.requests.clear()
            hostile.answers[path] = pages(itertools.cycle(cycle), lambda _: [])
            assert "returns to a page that it had before" in refused(listing), path
            assert sum(path in target for _, target, _ in hostile.requests) == len(cycle) + 1


def test_number_and_size_of_pages_are_limited(hostile: Hostile, lake: LakeFS, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_PAGES", 5)
    numbers = (f"{number:09}" for number in itertools.count(1))
    hostile.answers[LISTING] = pages(numbers, lambda after: [hostile.listed(f"{after}x")])
    assert "more than 5 pages" in refused(lambda: list(lake.objects(GOOD_ID, "")))
    hostile.answers[LISTING] = page([hostile.listed(f"{number:09}") for number in range(1001)])
    assert "a page has 1001 entries, expected at most 1000" in refused(lambda: list(lake.objects(GOOD_ID, "")))


@pytest.mark.parametrize("paths", [["b", "a"], ["a", "a"], ["other/x"]])
def test_listing_out_of_order_or_place_is_refused(paths: list[str], hostile: Hostile, lake: LakeFS) -> None:
    prefix = "data/" if paths == ["other/x"] else ""
    hostile.answers[LISTING] = page([hostile.listed(path) for path in paths])
    assert "response" in refused(lambda: list(lake.objects(GOOD_ID, prefix)))


def test_redirects_are_followed_on_the_same_server_only(hostile: Hostile, lake: LakeFS) -> None:
    api = f"/api/v1{REPO}/branches"
    with hostile_server() as other:
        hostile.answers[REPO + "/branches/moved"] = Answer({"id": "main", "commit_id": GOOD_ID})
        for place in (f"{api}/moved", f"{hostile.endpoint}{api}/moved", "moved"):
            hostile.answers[REPO + "/branches/main"] = Answer(status=302, headers={"Location": place})
            assert lake.head("main") == GOOD_ID
        port = other.endpoint.rsplit(":", 1)[1]
        for place in (
            other.endpoint + "/x",
            f"//127.0.0.1:{port}/x",
            hostile.endpoint.replace("127.0.0.1", "localhost"),
            hostile.endpoint.replace("http", "https"),
            hostile.endpoint.replace("http://", "http://user:word@"),
            "http://169.254.169.254/latest/meta-data/",
            "http://[fe80::1]/",
            "file:///etc/passwd",
            "ftp://127.0.0.1/x",
            "http://[::1",
            "http://x:99999999/",
        ):
            for status in (301, 302, 303, 307, 308):
                hostile.answers[REPO + "/branches/main"] = Answer(status=status, headers={"Location": place})
                text = refused(lambda: lake.head("main"))
                assert "redirects to" in text or "invalid URL" in text, text
                assert "word" not in text
        hostile.answers[REPO + "/branches/main"] = Answer(status=302, headers={"Location": f"{api}/main"})
        assert "more than 3 times" in refused(lambda: lake.head("main"))
        hostile.answers[f"{REPO}/refs/work/merge"] = Answer(status=307, headers={"Location": f"{api}/moved"})
        assert "redirects to" in refused(lambda: lake.publisher.merge_into_target("work", "m", {}))
        assert other.requests == [], "neither keys nor anything else reach the other server"


def test_redirect_of_a_download_is_not_followed(hostile: Hostile, lake: LakeFS) -> None:
    with hostile_server() as other:
        hostile.answers[f"{REPO}/refs/{GOOD_ID}/objects"] = Answer(status=302, headers={"Location": other.endpoint})
        remote = RemoteFile(ObjectPath("x"), 3, None, Checksum(""))
        assert "302" in refused(lambda: list(lake.read(LakePath("hostile-repo", GOOD_ID, "x"), remote)))
        assert other.requests == []


BAD_LINKS: list[object] = [
    *(
        "file:///etc/passwd",
        "ftp://store/x",
        "gopher://store/x",
        "//store/x",
        "/x",
        "http:///x",
        "http://u:p@store/x",
    ),
    *("http://169.254.169.254/latest", "http://[fe80::1]/x", "http://[::ffff:169.254.169.254]/", "http://0.0.0.0/x"),
    *(
        "http://224.0.0.1/x",
        "http://store/a b",
        "http://store/a\r\nX: y",
        "http://[::1",
        "http://x:99999/",
        7,
        ["x"],
    ),
]


@pytest.mark.parametrize("link", BAD_LINKS)
def test_presigned_link_elsewhere_is_refused(link: object, hostile: Hostile, lake: LakeFS, tmp_path: Path) -> None:
    hostile.answers["/config"] = Answer({"storage_config": storage_config(pre_sign_support=True, blockstore_type="s3")})
    hostile.objects = {"data/x": b"content"}
    hostile.answers[LISTING] = page([hostile.listed("data/x", physical_address=link)])
    with pytest.raises(AppError) as caught:
        lake.download(LakePath("hostile-repo", GOOD_ID, "data/"), tmp_path / "cache")
    assert "link" in str(caught.value) or "invalid URL" in str(caught.value), caught.value
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_presigned_link_is_no_less_secure_and_reaches_this_machine_only_from_it() -> None:
    assert check_link("https://store.example/x", "https://lake.example/api/v1")
    assert check_link("http://store:9000/x", "http://lake:8000/api/v1")
    assert check_link("http://10.0.0.5:9000/x", "http://lake:8000/api/v1")
    assert check_link("http://localhost:9000/x", "http://127.0.0.1:8000/api/v1")
    for link, api in (
        ("http://store.example/x", "https://lake.example/api/v1"),
        ("http://127.0.0.1:9000/x", "http://lake:8000/api/v1"),
        ("http://localhost./x", "http://lake:8000/api/v1"),
        ("http://[::1]:9000/x", "http://lake:8000/api/v1"),
    ):
        with pytest.raises(LimitExceeded):
            check_link(link, api)
    for address in ("169.254.1.1", "fe80::1%eth0", "127.0.0.1"):  # what a name, or `http://2130706433/`, resolves to
        with pytest.raises(LimitExceeded):
            check_address(address, loopback_allowed=False)


def test_keys_never_go_with_a_presigned_link(hostile: Hostile, lake: LakeFS, tmp_path: Path) -> None:
    hostile.answers["/config"] = Answer({"storage_config": storage_config(pre_sign_support=True, blockstore_type="s3")})
    hostile.objects = {"data/x": b"content"}
    with hostile_server() as store:
        store.answers["/signed"] = Answer(body=b"content")
        hostile.answers[LISTING] = page([hostile.listed("data/x", physical_address=f"{store.endpoint}/signed?sig=1")])
        tree = lake.download(LakePath("hostile-repo", GOOD_ID, "data/"), tmp_path / "cache")
        assert (tree / "data/x").read_bytes() == b"content"
        headers = [name.lower() for _, _, sent in store.requests for name in sent]
        assert len(store.requests) == 1 and "authorization" not in headers and "cookie" not in headers


def test_deep_or_strange_json_is_one_line(hostile: Hostile, lake: LakeFS) -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    for body in (deep, b'{"id":' * 50_000, b"9" * 100_000, b"\xff\xfe", b"", b"null", b"[]", b'"x"', b"NaN"):
        for path, call in ((REPO + "/branches", lake.head), (LISTING, lambda: list(lake.objects(GOOD_ID, "")))):
            hostile.answers[path] = Answer(body=body)
            refused(call)
    for status in (400, 404, 409, 412):
        hostile.answers[REPO + "/branches"] = Answer(body=b'{"message":' + deep + b"}", status=status)
        refused(lake.head)


def test_charset_of_a_response_is_ignored(hostile: Hostile, lake: LakeFS) -> None:
    for charset in ("zip", "punycode", "unknown", "utf-16"):
        headers = {"Content-Type": f"application/json; charset={charset}"}
        hostile.answers[REPO + "/branches"] = Answer({"id": "main", "commit_id": GOOD_ID}, headers=headers)
        assert lake.head() == GOOD_ID


def test_too_many_or_long_headers_are_one_line(hostile: Hostile, lake: LakeFS) -> None:
    lake.check()
    for headers in ({f"X-{number}": "y" for number in range(200)}, {"X": "y" * 100_000}):
        hostile.answers[REPO + "/branches"] = Answer({"id": "main", "commit_id": GOOD_ID}, headers=headers)
        assert "does not answer" in refused(lake.head)


def test_object_longer_than_its_listing_is_refused(hostile: Hostile, lake: LakeFS, tmp_path: Path) -> None:
    hostile.answers[LISTING] = page([hostile.listed("data/x", size_bytes=10)])
    hostile.answers[f"{REPO}/refs/{GOOD_ID}/objects"] = lambda _: Answer(body=itertools.repeat(bytes(1 << 16)))
    with pytest.raises(AppError, match="more than the 10 bytes of its listing"):
        lake.download(LakePath("hostile-repo", GOOD_ID, "data/"), tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_text_of_an_error_is_read_only_in_part(hostile: Hostile, lake: LakeFS, tmp_path: Path) -> None:
    hostile.answers[f"{REPO}/refs/{GOOD_ID}/objects"] = lambda _: Answer(
        body=itertools.repeat(b"x" * (1 << 16)), status=404
    )
    remote = RemoteFile(ObjectPath("x"), 3, None, Checksum(""))
    assert "404" in refused(lambda: list(lake.read(LakePath("hostile-repo", GOOD_ID, "x"), remote)))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_writing_requests_are_never_redirected(method: str) -> None:
    with pytest.raises(LimitExceeded):
        follow_redirect(method, "http://lake/a", "http://lake/b", 0)


def bucket_page(following: str, keys: list[str]) -> bytes:
    contents = "".join(f"<Contents><Key>{key}</Key><Size>1</Size></Contents>" for key in keys)
    token = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{following}</NextContinuationToken>"
    return f"<ListBucketResult><Name>b</Name>{token}{contents}</ListBucketResult>".encode()


def test_listing_of_a_bucket_has_the_same_limits(hostile: Hostile) -> None:
    keys = {"minio_access_key": "AKIAMARK", "minio_secret_key": "MARKSECRET"}
    settings = config.load_settings(minio_endpoint=hostile.endpoint, **keys)
    offsets = itertools.cycle("ab")
    answers: dict[str, Callable[[dict[str, str]], Answer]] = {
        "returns to a page": lambda _: Answer(body=bucket_page(next(offsets), ["x"])),
        "a page has 1001 entries": lambda _: Answer(body=bucket_page("a", ["x"] * 1001)),
        "more than 16 MiB": lambda _: Answer(body=gzipped_zeros(50), headers={"Content-Encoding": "gzip"}),
    }
    for reason, answer in answers.items():
        hostile.answers["/b"] = answer
        assert reason in refused(lambda: list(minio_utils.list_objects(settings, "b", "")))
    with hostile_server() as other:
        hostile.answers["/b"] = Answer(status=307, headers={"Location": other.endpoint})
        refused(lambda: list(minio_utils.list_objects(settings, "b", "")))
        assert other.requests == []
