"""Cherry-picks, and reverts and merges at the limits: the embedded and the real lakeFS answer the same.

A commit with metadata is cherry-picked at most once: real lakeFS 1.84 loses it from its cache afterwards.
"""

import json

import lakefs_sdk as sdk
import pytest
from lakefs_sdk import exceptions

from tests.lakefs.conftest import Repo


def cherry_pick(repo: Repo, ref: str, branch: str = "main", **options: object) -> sdk.Commit:
    creation = sdk.CherryPickCreation(ref=ref, **options)
    return repo.api.branches_api.cherry_pick(repo.name, branch, creation)


def answer_to(repo: Repo, where: str, body: object) -> tuple[int, str]:
    answer = repo.raw("POST", where, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return answer.status, answer.json()["message"]


@pytest.fixture
def dev(repo: Repo) -> Repo:
    """Create the branch dev with the commits "first" (adds b, metadata) and "second" (changes a), beside main."""
    repo.put("a", "base")
    repo.commit()
    repo.branch("dev")
    repo.put("b", "dev", "dev")
    repo.commit("dev", "first", metadata={"key": "value"})
    repo.put("a", "changed", "dev")
    repo.commit("dev", "second")
    return repo


def test_cherry_pick_applies_the_changes_of_one_commit(dev: Repo) -> None:
    head = dev.api.branches_api.get_branch(dev.name, "main").commit_id
    picked = dev.api.commits_api.get_commit(dev.name, "dev~1")
    made = cherry_pick(dev, "dev~1")
    assert (made.message, made.parents, made.generation) == ("first", [head], 3)
    origin = {"cherry-pick-origin": picked.id, "cherry-pick-committer": picked.committer}
    assert made.metadata == {"key": "value"} | origin
    assert dev.api.branches_api.get_branch(dev.name, "main").commit_id == made.id
    assert {path: dev.get(path) for path in dev.paths()} == {"a": b"base", "b": b"dev"}


def test_cherry_pick_accepts_message_and_metadata(dev: Repo) -> None:
    overrides = sdk.CommitOverrides(message="because", metadata={"other": "metadata"})
    made = cherry_pick(dev, "dev", commit_overrides=overrides)
    assert made.message == "because"
    assert made.metadata["other"] == "metadata" and set(made.metadata) == {
        "other",
        "cherry-pick-origin",
        "cherry-pick-committer",
    }
    assert dev.get("a") == b"changed" and dev.paths() == ["a"]


def test_cherry_pick_with_conflict_changes_nothing(dev: Repo) -> None:
    dev.put("a", "main")
    head = dev.commit().id
    with pytest.raises(exceptions.ApiException, match="conflict found") as error:
        cherry_pick(dev, "dev")
    assert error.value.status == 409
    assert dev.api.branches_api.get_branch(dev.name, "main").commit_id == head


def test_cherry_pick_refuses_branch_with_staged_changes(dev: Repo) -> None:
    dev.put("staged")
    assert answer_to(dev, "/branches/main/cherry-pick", {"ref": "dev"}) == (400, "uncommitted changes (dirty branch)")


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"ref": "dev", "parent_number": 0}, 400, "parentNumber"),
        ({"ref": "dev", "parent_number": -1}, 400, "parentNumber"),
        ({"ref": "dev", "parent_number": 2}, 400, "given commit does not have the given parent number"),
        ({"ref": "dev", "parent_number": "1"}, 400, "parent_number"),
        ({"ref": "dev", "commit_overrides": {"message": ["x"]}}, 400, "message"),
        ({"ref": "dev", "commit_overrides": {"metadata": {"a": ["x"]}}}, 400, "metadata"),
        ({"ref": "dev", "commit_overrides": []}, 400, "commit_overrides"),
        ({"ref": "dev~3"}, 400, "given commit does not have the given parent number"),  # the repository's first commit
        ({"ref": "no"}, 404, "not found"),
        ({}, 400, "ref"),
    ],
)
def test_invalid_cherry_pick_is_refused(dev: Repo, body: object, status: int, message: str) -> None:
    found_status, found = answer_to(dev, "/branches/main/cherry-pick", body)
    assert found_status == status and message in found, found


def test_cherry_pick_of_merge_commit_needs_a_parent_number(dev: Repo) -> None:
    dev.branch("old", "main")
    merged = dev.merge("dev")
    assert answer_to(dev, "/branches/old/cherry-pick", {"ref": merged}) == (
        400,
        "must specify 1-based parent number for cherry-picking merge commit",
    )
    assert cherry_pick(dev, merged, "old", parent_number=1).message == "Merge 'dev' into 'main'"
    assert dev.paths("old") == ["a", "b"]


def test_commit_without_changes_is_not_cherry_picked(dev: Repo) -> None:
    dev.commit("dev", allow_empty=True)
    assert answer_to(dev, "/branches/main/cherry-pick", {"ref": "dev"}) == (400, "update branch: no changes")


def test_revert_of_first_commit_changes_nothing(repo: Repo) -> None:
    where = "/branches/main/revert"
    assert answer_to(repo, where, {"ref": "main", "parent_number": 0}) == (400, "update branch: no changes")
    assert answer_to(repo, where, {"ref": "main", "parent_number": 1})[0] == 400
    assert answer_to(repo, where, {"ref": "main", "parent_number": -1})[0] == 400
    assert answer_to(repo, where, {"ref": "main"})[0] == 400, "without a parent number"
    creation = sdk.RevertCreation(ref="main", parent_number=0, allow_empty=True)
    repo.api.branches_api.revert_branch(repo.name, "main", creation)
    assert repo.api.commits_api.get_commit(repo.name, "main").message == "Revert main"


def test_commit_that_emptied_a_repository_can_be_merged_into_its_first_commit(repo: Repo) -> None:
    repo.branch("dev")
    repo.put("a", branch="dev")
    repo.commit("dev")
    repo.delete("a", "dev")
    emptied = repo.commit("dev").id
    made = repo.api.commits_api.get_commit(repo.name, repo.merge(emptied, message="merged"))
    assert (made.message, made.parents[1], repo.paths()) == ("merged", emptied, [])
    repo.put("a")
    repo.delete("a")
    with pytest.raises(exceptions.BadRequestException, match="no changes"):
        repo.commit()


def test_first_commit_has_no_tree(repo: Repo) -> None:
    assert repo.api.commits_api.get_commit(repo.name, "main").meta_range_id == ""
    repo.put("a")
    repo.delete("a")
    with pytest.raises(exceptions.BadRequestException, match="no changes"):
        repo.commit()
