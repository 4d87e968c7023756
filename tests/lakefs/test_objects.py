"""Objects: kinds of upload bodies, names, ranges, listings, copies and deletions."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import lakefs_sdk as sdk
import pytest
from lakefs_sdk import exceptions

from tests.lakefs.conftest import Repo

NAMES = [
    "plain.png",
    "with space.png",
    "한글/이미지 1.png",
    "a#b?c%d+e&f=g.png",
    "%2F%20",
    "'\"<>\\|.png",
    "../up",
    "//double",
    "trailing/",
    ".",
    "é",  # composed and
    "e\u0301",  # decomposed are different paths
    "🎉",
    "n" * 1000,
    "가" * 341,  # 1,023 bytes
]


@pytest.mark.parametrize("name", NAMES)
def test_object_names_are_stored_unchanged(repo: Repo, name: str) -> None:
    stats = repo.put(name, "content")
    assert (stats.path, stats.size_bytes) == (name, 7)
    repo.commit()
    assert repo.paths() == [name]
    assert repo.get(name) == b"content"
    assert repo.api.objects_api.stat_object(repo.name, "main", name).path == name
    repo.delete(name)
    assert repo.paths() == []


def test_missing_or_too_long_paths_are_refused(repo: Repo) -> None:
    answer = repo.raw("POST", "/branches/main/objects", b"x", path="가" * 342)
    assert (answer.status, "1024" in answer.json()["message"]) == (400, True)
    assert repo.raw("POST", "/branches/main/objects", b"x").status == 400
    assert repo.raw("POST", "/branches/main/objects?path=", b"x").status == 400


def test_upload_to_unknown_branch_is_not_found(repo: Repo) -> None:
    answer = repo.raw("POST", "/branches/no/objects", b"x", path="a")
    assert (answer.status, "not found" in answer.json()["message"]) == (404, True)


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 3_000_000])
def test_upload_as_raw_chunked_and_form_body(repo: Repo, size: int) -> None:
    data = os.urandom(size)

    def pieces() -> Iterator[bytes]:
        yield from (data[start : start + 70_001] for start in range(0, size, 70_001))

    repo.put("raw", data, Key="Value")
    keys = {"x-lakefs-meta-key": "Value", "Content-Type": "application/octet-stream"}
    answer = repo.raw("POST", "/branches/main/objects", pieces(), keys, path="chunked")  # type: ignore[arg-type]
    assert answer.status == 201
    repo.api.objects_api.upload_object(repo.name, "main", "form", content=data)
    for path in ("raw", "chunked", "form"):
        stats = repo.api.objects_api.stat_object(repo.name, "main", path)
        assert (stats.size_bytes, stats.checksum) == (size, hashlib.md5(data).hexdigest())
        assert stats.content_type == "application/octet-stream"
        assert stats.metadata == ({} if path == "form" else {"key": "Value"})
        assert repo.get(path) == data


def test_form_upload_keeps_content_type(repo: Repo) -> None:
    parts = [
        ('Content-Disposition: form-data; name="content"; filename="x"\r\nContent-Type: image/png', "\r\n--b\r\n-\n"),
        ('Content-Disposition: form-data; name="after"', "z"),
    ]
    body = "".join(f"--bound\r\n{head}\r\n\r\n{text}\r\n" for head, text in parts) + "--bound--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=bound"}
    answer = repo.raw("POST", "/branches/main/objects", body.encode(), headers, path="a")
    assert (answer.status, answer.json()["content_type"]) == (201, "image/png")
    assert repo.get("a") == b"\r\n--b\r\n-\n"


@pytest.mark.parametrize(
    "body", [b"", b"junk", b"--bound\r\n\r\n", b"--bound--", b"--bound\r\nA: b\r\n\r\nx\r\n--bound--"]
)
def test_invalid_forms_are_refused(repo: Repo, body: bytes) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=bound"}
    assert repo.raw("POST", "/branches/main/objects", body, headers, path="a").status in (400, 500)
    assert repo.paths() == []


@pytest.mark.parametrize("size", [10, 100_000])
def test_range_requests_return_requested_bytes(repo: Repo, size: int) -> None:
    data = os.urandom(size)
    repo.put("a", data)
    cases = {"0-0": (0, 1), "2-5": (2, 6), "3-": (3, size), "-4": (size - 4, size), "5-999999999": (5, size)}
    for text, (start, stop) in (cases | {"-999999999": (0, size)}).items():
        answer = repo.raw("GET", "/refs/main/objects", None, {"Range": f"bytes={text}"}, path="a")
        assert (answer.status, answer.data) == (206, data[start:stop])
        assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{size}"
        head = repo.raw("HEAD", "/refs/main/objects", None, {"Range": f"bytes={text}"}, path="a")
        assert (head.status, head.headers["Content-Length"], head.data) == (206, str(stop - start), b"")
    answer = repo.raw("GET", "/refs/main/objects", None, {"Range": f"bytes={size}-"}, path="a")
    assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{size}")


def test_head_request_and_upload_if_absent(repo: Repo) -> None:
    repo.put("a", "hello")
    etag = '"5d41402abc4b2a76b9719d911017c592"'
    head = repo.raw("HEAD", "/refs/main/objects", path="a")
    assert (head.status, head.data, head.headers["Content-Length"], head.headers["ETag"]) == (200, b"", "5", etag)
    assert head.headers["Content-Type"] == "application/octet-stream"
    assert repo.raw("HEAD", "/refs/main/objects", path="no").status == 404
    answer = repo.raw("POST", "/branches/main/objects", b"other", {"If-None-Match": "*"}, path="a")
    assert (answer.status, answer.json()) == (412, {"message": "path already exists"})
    assert repo.raw("POST", "/branches/main/objects", b"new", {"If-None-Match": "*"}, path="b").status == 201
    assert (repo.get("a"), repo.get("b")) == (b"hello", b"new")


def test_only_one_concurrent_upload_if_absent_succeeds(repo: Repo) -> None:
    def create(number: int) -> int:
        headers = {"If-None-Match": "*"}
        return repo.raw("POST", "/branches/main/objects", str(number).encode(), headers, path="a").status

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(create, range(8))) == [201] + [412] * 7


def test_object_and_prefix_of_same_name_can_coexist(repo: Repo) -> None:
    for path in ("a", "a/b", "a/b/c", "a.b", "ab"):
        repo.put(path, path)
    repo.commit()
    assert repo.paths() == ["a", "a.b", "a/b", "a/b/c", "ab"]  # by bytes: "." is before "/"
    assert repo.paths(delimiter="/") == ["a", "a.b", "a/", "ab"]
    assert repo.paths(prefix="a/", delimiter="/") == ["a/b", "a/b/"]
    assert [repo.get(path) for path in repo.paths()] == [b"a", b"a.b", b"a/b", b"a/b/c", b"ab"]


def test_listings_and_deletions_are_paged(repo: Repo) -> None:
    names = [f"d{number % 7}/{number:04}" for number in range(1001)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(repo.put, names))
    for _ in ("staged", "committed"):
        assert repo.paths() == sorted(names)
        assert repo.paths(amount=99, prefix="d3/") == [name for name in sorted(names) if name.startswith("d3/")]
        assert repo.paths(amount=2, delimiter="/") == [f"d{number}/" for number in range(7)]
        first = repo.api.objects_api.list_objects(repo.name, "main")
        assert (len(first.results), first.pagination.has_more, first.pagination.max_per_page) == (100, True, 1000)
        assert repo.api.objects_api.list_objects(repo.name, "main", after="d6/9").results == []
        if repo.staged():
            repo.commit()
    result = repo.api.objects_api.delete_objects(repo.name, "main", sdk.PathList(paths=[*names[:999], "never-there"]))
    assert result.errors == []
    assert repo.paths() == sorted(names[999:])
    with pytest.raises(exceptions.BadRequestException, match="request size exceeded, max paths is set to 1000"):
        repo.api.objects_api.delete_objects(repo.name, "main", sdk.PathList(paths=names))


def test_listing_shows_staged_changes_over_committed_objects(repo: Repo) -> None:
    for path in ("a", "b", "d/1", "d/2", "e"):
        repo.put(path)
    repo.commit()
    repo.delete("b")
    repo.delete("d/1")
    repo.delete("d/2")
    repo.put("c")
    repo.put("e", "changed")
    assert repo.paths() == ["a", "c", "e"]
    assert repo.paths(delimiter="/") == ["a", "c", "e"]  # d/ is empty
    assert repo.paths("main@") == ["a", "b", "d/1", "d/2", "e"]
    assert [stats.size_bytes for stats in repo.stats()] == [1, 1, 7]
    assert repo.raw("GET", "/refs/main/objects", path="b").status == 404


def test_user_metadata_is_kept_after_commit(repo: Repo) -> None:
    repo.put("a", "x", sha256="0" * 64, Note="한글은 못 가도 ascii".encode("ascii", "ignore").decode())
    stats = repo.stats()[0]
    assert stats.metadata["sha256"] == "0" * 64
    assert set(stats.metadata) == {"sha256", "note"}  # header names are case-insensitive
    repo.commit()
    assert repo.api.objects_api.stat_object(repo.name, "main", "a").metadata == stats.metadata


def test_copy_keeps_content_and_metadata(repo: Repo) -> None:
    repo.put("a", "one", key="value")
    repo.commit()
    repo.put("a", "two")
    creation = sdk.ObjectCopyCreation(src_path="a", src_ref="main@")
    stats = repo.api.objects_api.copy_object(repo.name, "main", "copy", creation)
    assert (stats.path, stats.metadata) == ("copy", {"key": "value"})
    repo.api.objects_api.copy_object(repo.name, "main", "copy2", sdk.ObjectCopyCreation(src_path="a"))
    assert (repo.get("copy"), repo.get("copy2")) == (b"one", b"two")


def test_reset_drops_staged_changes_by_path_prefix_or_all(repo: Repo) -> None:
    for path in ("a", "d/1", "d/2", "e"):
        repo.put(path)
    repo.commit()
    for path in ("a", "d/1", "d%", "new"):
        repo.put(path, "other")
    repo.delete("e")

    def reset(kind: str, path: str | None = None) -> list[str]:
        repo.api.branches_api.reset_branch(repo.name, "main", sdk.ResetCreation(type=kind, path=path))
        return [path for path, _ in repo.staged()]

    assert reset("object", "a") == ["d%", "d/1", "e", "new"]
    assert reset("object", "never-there") == ["d%", "d/1", "e", "new"]
    assert reset("common_prefix", "d/") == ["d%", "e", "new"]
    assert reset("reset") == []
    assert repo.paths() == ["a", "d/1", "d/2", "e"]


def test_deleting_missing_object_is_not_an_error(repo: Repo) -> None:
    repo.delete("no")
    repo.put("staged")
    repo.delete("staged")
    assert repo.staged() == []
