"""Repositories, branches, tags and references: the embedded and the real lakeFS answer the same."""

import json
import time

import lakefs_sdk as sdk
import pytest
from lakefs_sdk import exceptions

from tests.lakefs.conftest import Repo


def error_of(repo: Repo, method: str, path: str, body: object = None) -> tuple[int, str]:
    data = None if body is None else json.dumps(body).encode()
    answer = repo.raw(method, path, data, {"Content-Type": "application/json"})
    return answer.status, json.loads(answer.data)["message"]


def test_config_and_health_endpoints_answer(repo: Repo) -> None:
    assert repo.api.health_check_api.health_check() is None
    config = repo.api.config_api.get_config()
    assert config.storage_config.blockstore_type == repo.server.storage_namespace.partition(":")[0]
    if repo.server.kind == "embedded":
        assert not config.storage_config.pre_sign_support
        assert not config.storage_config.pre_sign_multipart_upload
    assert config.version_config.version


def test_repository_is_created_listed_and_deleted(repo: Repo) -> None:
    found = repo.api.repositories_api.get_repository(repo.name)
    assert (found.id, found.default_branch) == (repo.name, "main")
    assert found.storage_namespace.startswith(repo.server.storage_namespace)
    listed = repo.api.repositories_api.list_repositories(prefix=repo.name)
    assert [item.id for item in listed.results] == [repo.name]
    first = repo.api.refs_api.log_commits(repo.name, "main").results
    assert [(c.message, c.parents, c.generation, c.committer) for c in first] == [("Repository created", [], 1, "")]
    again = sdk.RepositoryCreation(name=repo.name, storage_namespace=repo.server.namespace("again"))
    with pytest.raises(exceptions.ApiException, match="error creating repository: not unique"):
        repo.api.repositories_api.create_repository(again)
    repo.api.repositories_api.delete_repository(repo.name)
    for _ in range(600):  # lakeFS deletes in the background
        if repo.raw("GET", "").status != 200:
            break
        time.sleep(0.1)
    assert repo.raw("GET", "").status in (404, 410)


@pytest.mark.parametrize("namespace", ["gs://bucket/x", "mem://x", "nonsense"])
def test_unsupported_storage_namespace_is_refused(repo: Repo, namespace: str) -> None:
    body = {"name": f"{repo.name}-x", "storage_namespace": namespace}
    answer = repo.http.request(
        "POST",
        f"{repo.server.endpoint}/api/v1/repositories",
        json=body,
        headers={"Authorization": repo.api._api.configuration.auth_settings()["basic_auth"]["value"]},
    )
    assert answer.status == 400


def test_branch_is_created_listed_and_deleted(repo: Repo) -> None:
    head = repo.api.branches_api.get_branch(repo.name, "main").commit_id
    assert len(head) == 64
    assert repo.branch("dev") == head
    assert repo.branch("at-commit", head) == head
    listed = repo.api.branches_api.list_branches(repo.name)
    assert [(ref.id, ref.commit_id) for ref in listed.results] == [
        (name, head) for name in ("at-commit", "dev", "main")
    ]
    page = repo.api.branches_api.list_branches(repo.name, amount=1, after="at-commit")
    assert ([ref.id for ref in page.results], page.pagination.has_more) == (["dev"], True)
    assert page.pagination.next_offset == "dev"
    repo.api.branches_api.delete_branch(repo.name, "dev")
    assert [ref.id for ref in repo.api.branches_api.list_branches(repo.name, prefix="d").results] == []


def test_hidden_branches_are_listed_only_on_request(repo: Repo) -> None:
    repo.api.branches_api.create_branch(repo.name, sdk.BranchCreation(name="secret", source="main", hidden=True))
    assert [ref.id for ref in repo.api.branches_api.list_branches(repo.name).results] == ["main"]
    shown = repo.api.branches_api.list_branches(repo.name, show_hidden=True).results
    assert [ref.id for ref in shown] == ["main", "secret"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", "/branches", {"name": "main", "source": "main"}, 409, "branch already exists: not unique"),
        ("POST", "/branches", {"name": "a/b", "source": "main"}, 400, None),
        ("POST", "/branches", {"name": "a.b", "source": "main"}, 400, None),
        ("POST", "/branches", {"name": "-a", "source": "main"}, 400, None),
        ("POST", "/branches", {"name": "가지", "source": "main"}, 400, None),
        ("POST", "/branches", {"name": "new", "source": "no"}, 404, "not found"),
        ("POST", "/branches", {"name": "v1", "source": "main"}, 409, "tag ID v1: conflict found"),
        ("GET", "/branches/no", None, 404, "not found"),
        ("DELETE", "/branches/no", None, 404, "not found"),
        ("DELETE", "/branches/main", None, 403, "cannot delete repository default branch"),
        ("PUT", "/branches/no", {"type": "reset"}, 404, "not found"),
        ("POST", "/tags", {"id": "v1", "ref": "main"}, 409, "tag already exists: not unique"),
        ("POST", "/tags", {"id": "main", "ref": "main"}, 409, "branch name main: conflict found"),
        ("POST", "/tags", {"id": "v2", "ref": "no"}, 404, "not found"),
        ("POST", "/tags", {"id": "a b", "ref": "main"}, 400, None),
        ("POST", "/tags", {"id": "a/b", "ref": "main"}, 400, None),
        ("GET", "/tags/no", None, 404, "not found"),
        ("DELETE", "/tags/no", None, 404, "not found"),
        ("GET", "/commits/no", None, 404, "not found"),
        ("GET", "/refs/no/commits", None, 404, "not found"),
        ("GET", "/refs/no/objects/ls", None, 404, "not found"),
        ("GET", "/refs/main~x/objects/ls", None, 400, None),
        ("GET", "/refs/main/objects/ls?amount=1001", None, 400, None),
        ("GET", "/refs/main/objects/stat?path=no", None, 404, "not found"),
        ("GET", "/refs/main/diff/no", None, 404, "not found"),
        ("GET", "/refs/no/diff/main", None, 404, "not found"),
        ("POST", "/branches/main/commits", {"message": "m"}, 400, "no changes"),
        ("POST", "/branches/main/commits", {"message": "m", "metadata": {"a": 1}}, 400, None),
        ("POST", "/branches/main/commits", {}, 400, None),
        ("POST", "/refs/main/merge/main", {}, 400, "no changes"),
        ("POST", "/refs/no/merge/main", {}, 404, "not found"),
        ("POST", "/refs/main/merge/no", {}, 404, "not found"),
        ("POST", "/branches/main/objects/copy?dest_path=a", {"src_path": "no"}, 404, "not found"),
        ("POST", "/branches/no/objects/copy?dest_path=a", {"src_path": "a"}, 404, "not found"),
    ],
)
def test_invalid_request_returns_lakefs_status_and_message(
    repo: Repo, method: str, path: str, body: object, status: int, message: str | None
) -> None:
    repo.api.tags_api.create_tag(repo.name, sdk.TagCreation(id="v1", ref="main"))
    found_status, found_message = error_of(repo, method, path, body)
    assert found_status == status
    assert message is None or message in found_message


@pytest.mark.parametrize("path", ["/branches", "/tags", "/refs/main/commits", "/branches/main", "/refs/main/diff/main"])
def test_unknown_repository_is_not_found(repo: Repo, path: str) -> None:
    repo.name = "unknown-repository"
    assert error_of(repo, "GET", path) == (404, "repository not found")


def test_wrong_credentials_are_unauthorized(repo: Repo) -> None:
    for keys in ({}, {"Authorization": "Basic eDp5"}, {"Authorization": "Bearer x"}):
        answer = repo.http.request("GET", f"{repo.server.endpoint}/api/v1/repositories", headers=keys)
        assert (answer.status, answer.json()) == (401, {"message": "error authenticating request"})


def test_tag_keeps_its_commit(repo: Repo) -> None:
    head = repo.api.branches_api.get_branch(repo.name, "main").commit_id
    for name in ("v1", "v1.0-정확도", "v2"):
        assert repo.api.tags_api.create_tag(repo.name, sdk.TagCreation(id=name, ref="main")).commit_id == head
    repo.put("later")
    repo.commit()
    assert repo.api.tags_api.get_tag(repo.name, "v1.0-정확도").commit_id == head
    assert [tag.id for tag in repo.api.tags_api.list_tags(repo.name, prefix="v1").results] == ["v1", "v1.0-정확도"]
    assert repo.paths("v1") == []
    repo.api.tags_api.delete_tag(repo.name, "v1")
    assert [tag.id for tag in repo.api.tags_api.list_tags(repo.name).results] == ["v1.0-정확도", "v2"]


def test_reference_expressions_resolve_to_commits(repo: Repo) -> None:
    commits = [repo.api.branches_api.get_branch(repo.name, "main").commit_id]
    for number in range(3):
        repo.put("a", str(number))
        commits.append(repo.commit().id)
    repo.put("a", "staged")
    expected = {
        "main": b"staged",
        "main$": b"staged",
        "main@": b"2",
        "main~0": b"2",
        "main~": b"1",
        "main~1": b"1",
        "main^": b"1",
        "main^1~1": b"0",
        "main~~": b"0",
        commits[2]: b"1",
        commits[2][:16]: b"1",
        f"{commits[3]}~2": b"0",
    }
    assert {ref: repo.get("a", ref) for ref in expected} == expected
    assert repo.api.commits_api.get_commit(repo.name, "main~3").id == commits[0]
    for ref in ("main~4", "main~9", "0" * 64):
        assert error_of(repo, "GET", f"/refs/{ref}/objects/ls")[0] == 404
    for ref in ("main^2", "main@~1", f"{commits[1]}@"):
        assert error_of(repo, "GET", f"/refs/{ref}/objects/ls")[0] in (400, 404)


def test_full_commit_id_takes_precedence_over_branch(repo: Repo) -> None:
    head = repo.api.branches_api.get_branch(repo.name, "main").commit_id
    assert error_of(repo, "POST", "/branches", {"name": head, "source": "main"})[0] == 409
    repo.put("a", "old")
    repo.commit()
    repo.branch(head[:12], "main")  # a branch takes precedence over a prefix of a commit id
    assert repo.get("a", head[:12]) == b"old"
