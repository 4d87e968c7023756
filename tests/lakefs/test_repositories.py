"""Metadata and options of repositories: the embedded and the real lakeFS answer the same."""

import json

import pytest

from tests.lakefs.conftest import Repo


def answer_to(repo: Repo, method: str, where: str, body: object = None) -> tuple[int, object]:
    data = None if body is None else json.dumps(body).encode()
    answer = repo.raw(method, where, data, {"Content-Type": "application/json"})
    return answer.status, answer.json() if answer.data.startswith(b"{") else None


def create(repo: Repo, **options: object) -> tuple[int, object]:
    """Create the repository `<name>-2` and let `repo` name it."""
    keys = repo.api._api.configuration.auth_settings()["basic_auth"]["value"]
    namespace = repo.server.namespace("second")
    repo.name += "-2"
    body = {"name": repo.name, "storage_namespace": namespace, **options}
    url = f"{repo.server.endpoint}/api/v1/repositories"
    answer = repo.http.request("POST", url, json=body, headers={"Authorization": keys})
    return answer.status, answer.json()


def test_metadata_is_set_by_key_and_deleted(repo: Repo) -> None:
    def change(method: str, body: object, wanted: dict[str, str]) -> None:
        assert answer_to(repo, method, "/metadata", body)[0] == 204
        assert answer_to(repo, "GET", "/metadata") == (200, wanted)

    assert answer_to(repo, "GET", "/metadata") == (200, {})
    change("POST", {"metadata": {"a": "1", "b": "2"}}, {"a": "1", "b": "2"})
    change("POST", {"metadata": {"b": "한글"}}, {"a": "1", "b": "한글"})
    change("POST", {"metadata": {}}, {"a": "1", "b": "한글"})
    change("DELETE", {"keys": ["a", "unknown"]}, {"b": "한글"})
    change("DELETE", {"keys": []}, {"b": "한글"})
    assert "metadata" not in repo.raw("GET", "").json()
    repo.api.repositories_api.delete_repository(repo.name)


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("POST", {}),
        ("POST", {"metadata": {"a": 1}}),
        ("POST", {"metadata": {"a": ["b"]}}),
        ("POST", {"metadata": ["a"]}),
        ("POST", ["metadata"]),
        ("DELETE", {}),
        ("DELETE", {"keys": "a"}),
        ("DELETE", {"keys": [1]}),
    ],
)
def test_invalid_metadata_is_refused(repo: Repo, method: str, body: object) -> None:
    assert answer_to(repo, method, "/metadata", body)[0] == 400
    assert answer_to(repo, "GET", "/metadata") == (200, {})


def test_metadata_of_unknown_repository_is_not_found(repo: Repo) -> None:
    repo.name = "unknown-repository"
    assert answer_to(repo, "GET", "/metadata") == (404, {"message": "repository not found"})
    assert answer_to(repo, "POST", "/metadata", {"metadata": {"a": "b"}})[0] == 404


def test_unknown_storage_id_is_refused(repo: Repo) -> None:
    assert create(repo, storage_id="other") == (400, {"message": "storage id: invalid value: validation error"})
    assert create(repo, storage_id="")[0] == 201


# Method, path, body, and the status of success
CHANGES: list[tuple[str, str, dict[str, object] | None, int]] = [
    ("POST", "/branches/main/objects?path=a", {}, 201),
    ("POST", "/branches/main/commits", {"message": "m"}, 201),
    ("POST", "/branches", {"name": "b", "source": "main~1"}, 201),
    ("POST", "/tags", {"id": "t", "ref": "main"}, 201),
    ("POST", "/refs/main/merge/b", {}, 200),
    ("POST", "/branches/main/objects/copy?dest_path=b", {"src_path": "a"}, 201),
    ("PUT", "/branches/main", {"type": "reset"}, 204),
    ("DELETE", "/branches/main/objects?path=a", None, 204),
    ("PUT", "/branches/main", {"type": "reset"}, 204),
    ("POST", "/branches/main/revert", {"ref": "main", "parent_number": 0}, 204),
    ("POST", "/branches/main/cherry-pick", {"ref": "main~1"}, 201),
    ("PUT", "/branches/main/hard_reset?ref=main~1", None, 204),
    ("DELETE", "/branches/b", None, 204),
    ("DELETE", "/tags/t", None, 204),
    ("DELETE", "", None, 204),
]


def with_force(where: str, body: dict[str, object] | None) -> tuple[str, dict[str, object] | None]:
    """Return path and body with the option `force`, which is in the body of those requests that have one."""
    if body and "/objects?" not in where:
        return where, body | {"force": True}
    if where.startswith("/refs") or "/copy" in where:
        return where, {**(body or {}), "force": True}
    return f"{where}{'&' if '?' in where else '?'}force=true", body


def test_read_only_repository_changes_only_by_force(repo: Repo) -> None:
    status, created = create(repo, read_only=True)
    assert status == 201 and isinstance(created, dict) and created["read_only"] is True
    assert repo.raw("GET", "").json()["read_only"] is True
    for method, where, body, success in CHANGES:
        assert answer_to(repo, method, where, body) == (403, {"message": "read-only repository"}), where
        forced, forced_body = with_force(where, body)
        assert answer_to(repo, method, forced, forced_body)[0] == success, (forced, forced_body)


def test_batch_deletion_in_read_only_repository_lists_errors_by_path(repo: Repo) -> None:
    create(repo, read_only=True)
    assert answer_to(repo, "POST", "/branches/main/objects?path=a&force=true", {})[0] == 201
    error = {"path": "a", "status_code": 403, "message": "read-only repository"}
    where = "/branches/main/objects/delete"
    assert answer_to(repo, "POST", where, {"paths": ["a"]}) == (200, {"errors": [error]})
    assert repo.paths() == ["a"]
    assert answer_to(repo, "POST", f"{where}?force=true", {"paths": ["a"]}) == (200, {"errors": []})
    assert repo.paths() == []


def test_metadata_of_read_only_repository_can_change(repo: Repo) -> None:
    create(repo, read_only=True)
    assert answer_to(repo, "POST", "/metadata", {"metadata": {"a": "b"}})[0] == 204
    assert answer_to(repo, "GET", "/metadata") == (200, {"a": "b"})


def test_embedded_server_creates_no_sample_data_or_bare_repository(repo: Repo) -> None:
    if repo.server.kind == "real":
        pytest.skip("real lakeFS can")
    status, answer = create(repo, sample_data=True)
    assert status == 501 and "sample data" in str(answer) and "LAKEFS_ENDPOINT" in str(answer)
