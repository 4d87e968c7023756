"""Commits, the log, differences and merges: the embedded and the real lakeFS answer the same."""

import lakefs_sdk as sdk
import pytest
from lakefs_sdk import exceptions

from tests.lakefs.conftest import Repo


def test_commit_records_message_metadata_and_parents(repo: Repo) -> None:
    repo.put("a")
    before = repo.api.branches_api.get_branch(repo.name, "main").commit_id
    made = repo.commit(message="첫 커밋\n본문", metadata={"git": "abc", "::lakefs::x::url[url:ui]": "https://x"})
    assert len(made.id) == 64
    assert (made.parents, made.message, made.generation) == ([before], "첫 커밋\n본문", 2)
    assert made.metadata == {"git": "abc", "::lakefs::x::url[url:ui]": "https://x"}
    assert made.meta_range_id
    assert repo.api.commits_api.get_commit(repo.name, "main") == made
    assert repo.api.commits_api.get_commit(repo.name, made.id[:12]) == made
    assert repo.staged() == []
    assert repo.commit(date=1_000_000, allow_empty=True).creation_date == 1_000_000


def test_commit_without_changes_is_refused(repo: Repo) -> None:
    repo.put("a", "same", key="value")
    repo.commit()

    def refused() -> None:
        assert repo.staged() == []
        with pytest.raises(exceptions.BadRequestException, match="no changes"):
            repo.commit()

    refused()
    repo.put("a", "same", key="value")
    refused()
    repo.put("b")
    repo.delete("b")
    refused()
    repo.delete("a")
    repo.put("a", "same", key="value")
    refused()


@pytest.mark.parametrize("change", ["content", "metadata", "type"])
def test_changed_content_metadata_or_type_is_a_change(repo: Repo, change: str) -> None:
    repo.put("a", "same", key="value")
    repo.commit()
    if change == "content":
        repo.put("a", "diff", key="value")
    elif change == "metadata":
        repo.put("a", "same", key="other")
    else:
        headers = {"x-lakefs-meta-key": "value", "Content-Type": "image/png"}
        repo.raw("POST", "/branches/main/objects", b"same", headers, path="a")
    assert repo.staged() == [("a", "changed")]
    repo.commit()
    assert repo.diff("main~", "main") == [("a", "changed")]


def test_commit_on_unknown_branch_is_not_found(repo: Repo) -> None:
    with pytest.raises(exceptions.NotFoundException):
        repo.commit("no")


def create_history(repo: Repo) -> dict[str, str]:
    """Create main with commits one, two, three, dev from one with four, and merge; return commit ids by message."""
    ids: dict[str, str] = {}
    for message, path, branch in (("one", "a", "main"), ("two", "b/1", "main"), ("three", "a", "main")):
        repo.put(path, message, branch)
        ids[message] = repo.commit(branch, message, date=1000 + len(ids)).id
    repo.branch("dev", ids["one"])
    repo.put("c", "four", "dev")
    ids["four"] = repo.commit("dev", "four", date=1003).id
    ids["merged"] = repo.merge("dev", message="merged")
    return ids


def test_log_is_ordered_by_date_and_paged(repo: Repo) -> None:
    ids = create_history(repo)

    def log(**options: object) -> tuple[list[str], bool]:
        page = repo.api.refs_api.log_commits(repo.name, "main", **options)
        if page.pagination.has_more:
            assert page.pagination.next_offset == page.results[-1].id
        return [commit.message for commit in page.results], page.pagination.has_more

    first = "Repository created"
    # Sorted by date: only the commit that created the repository has the current time.
    assert sorted(log()[0]) == sorted(["merged", "four", "three", "two", "one", first])
    assert log()[0][:5] == ["merged", "four", "three", "two", "one"]
    assert log(first_parent=True)[0] == ["merged", "three", "two", "one", first]
    assert log(amount=2) == (["merged", "four"], True)
    assert log(amount=2, after=ids["four"]) == (["three", "two"], True)
    assert log(amount=2, limit=True) == (["merged", "four"], False)


def test_log_orders_commits_of_the_same_second(repo: Repo) -> None:
    repo.branch("dev")
    repo.put("a", branch="dev")
    ids = [repo.commit("dev").id]
    repo.put("b")
    ids.append(repo.commit().id)
    ids.append(repo.merge("dev"))
    repo.put("c", branch="dev")
    ids.append(repo.commit("dev").id)
    ids.append(repo.merge("dev"))
    log = repo.api.refs_api.log_commits(repo.name, "main").results
    assert [commit.id for commit in log[:-1]] == ids[::-1]


def test_diff_of_refs_lists_added_changed_and_removed(repo: Repo) -> None:
    for path in ("a", "b", "d/1", "d/2"):
        repo.put(path, "old")
    repo.commit()
    repo.branch("dev")
    repo.put("a", "new", "dev")
    repo.delete("b", "dev")
    repo.put("d/3", "added", "dev")
    repo.commit("dev")
    repo.put("e", "on main only")
    repo.commit()
    three = [("a", "changed"), ("b", "removed"), ("d/3", "added")]
    assert repo.diff("main", "dev", "three_dot") == three
    assert repo.diff("main", "dev") == [*three, ("e", "removed")]
    assert repo.diff("dev", "main") == [("a", "changed"), ("b", "added"), ("d/3", "removed"), ("e", "added")]
    assert repo.diff("main", "main") == []
    assert repo.diff("main", "dev", prefix="d/") == [("d/3", "added")]
    assert repo.diff("main", "dev", delimiter="/")[2:] == [("d/", "prefix_changed"), ("e", "removed")]
    assert repo.diff("main", "dev", amount=2, after="a") == [("b", "removed"), ("d/3", "added")]
    page = repo.api.refs_api.diff_refs(repo.name, "main", "dev", type="two_dot", amount=3)
    assert (page.pagination.has_more, page.pagination.next_offset) == (True, "d/3")
    assert [change.size_bytes for change in page.results] == [3, 3, 5]


def test_diff_of_branch_lists_staged_changes(repo: Repo) -> None:
    for path in ("a", "b", "c"):
        repo.put(path)
    repo.commit()
    repo.put("a", "changed")
    repo.delete("b")
    repo.put("c")  # unchanged
    repo.put("d/1")
    repo.put("d/2")
    assert repo.staged() == [("a", "changed"), ("b", "removed"), ("d/1", "added"), ("d/2", "added")]
    sizes = [change.size_bytes for change in repo.api.branches_api.diff_branch(repo.name, "main").results]
    assert sizes == [7, 0, 1, 1], "a removed object has no size here"
    assert repo.staged(amount=1, after="a") == [("b", "removed")]
    assert repo.staged(delimiter="/") == [("a", "changed"), ("b", "removed"), ("d/", "prefix_changed")]
    assert repo.staged(prefix="d/") == [("d/1", "added"), ("d/2", "added")]


def create_diverging_branches(repo: Repo) -> None:
    """Change `both` differently and `same` equally on two branches, and other files on each."""
    for path in ("both", "same", "ours", "theirs", "deleted", "unchanged"):
        repo.put(path, "base")
    repo.commit()
    repo.branch("dev")
    for branch, own in (("main", "ours"), ("dev", "theirs")):
        repo.put("both", branch, branch)
        repo.put("same", "equal", branch)
        repo.put(own, own, branch)
        repo.put(f"new-{own}", own, branch)
    repo.delete("deleted", "dev")
    repo.commit()
    repo.commit("dev")


def read_contents(repo: Repo, ref: str = "main") -> dict[str, str]:
    return {path: repo.get(path, ref).decode() for path in repo.paths(ref)}


def test_merge_with_conflict_changes_nothing(repo: Repo) -> None:
    create_diverging_branches(repo)
    assert ("both", "conflict") in repo.diff("main", "dev", "three_dot")
    head = repo.api.branches_api.get_branch(repo.name, "main").commit_id
    answer = repo.raw("POST", "/refs/dev/merge/main", b"{}", {"Content-Type": "application/json"})
    assert answer.status == 409
    assert repo.api.branches_api.get_branch(repo.name, "main").commit_id == head
    with pytest.raises(exceptions.BadRequestException, match="strategy"):
        repo.merge("dev", strategy="mine")


@pytest.mark.parametrize(("strategy", "both"), [("source-wins", "dev"), ("dest-wins", "main")])
def test_merge_strategy_resolves_conflicts(repo: Repo, strategy: str, both: str) -> None:
    create_diverging_branches(repo)
    ours, theirs = (repo.api.branches_api.get_branch(repo.name, name).commit_id for name in ("main", "dev"))
    made = repo.api.commits_api.get_commit(repo.name, repo.merge("dev", strategy=strategy, metadata={"k": "v"}))
    assert made.parents == [ours, theirs]
    assert (made.message, made.generation) == ("Merge 'dev' into 'main'", 4)
    assert made.metadata == {"k": "v", ".lakefs.merge.strategy": strategy}
    assert read_contents(repo) == {
        "both": both,
        "same": "equal",
        "ours": "ours",
        "theirs": "theirs",
        "new-ours": "ours",
        "new-theirs": "theirs",
        "unchanged": "base",
    }
    with pytest.raises(exceptions.BadRequestException, match="no changes"):
        repo.merge("dev")
    assert repo.merge("dev", allow_empty=True)
    assert repo.diff("main", "dev", "three_dot") == []


@pytest.mark.parametrize("changed_by", ["main", "dev"])
def test_deletion_on_one_side_and_change_on_the_other_conflict(repo: Repo, changed_by: str) -> None:
    repo.put("a")
    repo.commit()
    repo.branch("dev")
    repo.put("a", "changed", changed_by)
    repo.delete("a", "main" if changed_by == "dev" else "dev")
    repo.commit()
    repo.commit("dev")
    assert repo.diff("main", "dev", "three_dot") == [("a", "conflict")]
    with pytest.raises(exceptions.ApiException) as error:
        repo.merge("dev")
    assert error.value.status == 409
    repo.merge("dev", strategy="source-wins")
    assert repo.paths() == (["a"] if changed_by == "dev" else [])


def test_merge_creates_merge_commit_unless_squashed(repo: Repo) -> None:
    repo.branch("dev")
    repo.put("a", "x", "dev")
    head = repo.commit("dev").id
    made = repo.api.commits_api.get_commit(repo.name, repo.merge("dev", message="m"))
    assert made.parents[1] == head  # a merge commit even if main has not changed
    assert made.metadata == {".lakefs.merge.strategy": "default"}
    repo.put("b", "x", "dev")
    repo.commit("dev")
    squashed = repo.api.commits_api.get_commit(repo.name, repo.merge("dev", squash_merge=True))
    assert squashed.parents == [made.id]
    assert repo.paths() == ["a", "b"]
    assert repo.merge(head[:16], "dev", allow_empty=True)  # any reference can be merged


def test_merge_and_revert_refuse_branch_with_staged_changes(repo: Repo) -> None:
    repo.put("z")
    repo.commit()
    repo.branch("dev")
    repo.put("a", "x", "dev")
    repo.commit("dev")
    repo.put("b")
    for action in (
        lambda: repo.merge("dev"),
        lambda: repo.api.branches_api.revert_branch(repo.name, "main", sdk.RevertCreation(ref="main", parent_number=0)),
    ):
        with pytest.raises(exceptions.BadRequestException, match=r"uncommitted changes \(dirty branch\)"):
            action()
    assert repo.paths() == ["b", "z"]
    repo.delete("b")
    repo.put("z")  # staged without a change: not dirty, and dropped by the merge
    repo.merge("dev")
    assert (repo.paths(), repo.staged()) == (["a", "z"], [])


def test_merge_ignores_staged_changes_of_source(repo: Repo) -> None:
    repo.branch("dev")
    repo.put("a", "x", "dev")
    repo.commit("dev")
    repo.put("b", "x", "dev")
    repo.merge("dev")
    assert (repo.paths(), repo.staged("dev")) == (["a"], [("b", "added")])


def test_revert_undoes_a_commit_and_validates_parent_number(repo: Repo) -> None:
    ids = create_history(repo)
    revert = repo.api.branches_api.revert_branch
    revert(repo.name, "main", sdk.RevertCreation(ref=ids["two"], parent_number=0))
    assert repo.paths() == ["a", "c"]
    assert repo.api.commits_api.get_commit(repo.name, "main").message == f"Revert {ids['two']}"
    with pytest.raises(exceptions.ApiException, match="must specify 1-based parent number"):
        revert(repo.name, "main", sdk.RevertCreation(ref=ids["merged"], parent_number=0))
    with pytest.raises(exceptions.BadRequestException, match="given commit does not have the given parent number"):
        revert(repo.name, "main", sdk.RevertCreation(ref=ids["merged"], parent_number=3))
    with pytest.raises(exceptions.ApiException, match="conflict found") as error:
        revert(repo.name, "main", sdk.RevertCreation(ref=ids["one"], parent_number=1))
    assert error.value.status == 409
    revert(repo.name, "main", sdk.RevertCreation(ref=ids["merged"], parent_number=1))
    assert repo.paths() == ["a"]


def test_three_dot_diff_starts_at_merge_base(repo: Repo) -> None:
    ids = create_history(repo)
    repo.branch("old", ids["two"])
    assert repo.diff("main", "dev", "three_dot") == repo.diff("main", "main", "three_dot") == []
    assert repo.diff("old", "dev", "three_dot") == [("c", "added")]
    assert repo.diff("dev", "old", "three_dot") == [("b/1", "added")]
    assert repo.diff("old", "main", "three_dot") == [("a", "changed"), ("c", "added")]


def test_log_filters_by_prefix_and_merge_base_is_found(repo: Repo) -> None:
    ids = create_history(repo)

    def log(*prefixes: str) -> set[str]:
        found = repo.api.refs_api.log_commits(repo.name, "main", prefixes=list(prefixes)).results
        return {commit.id for commit in found}

    assert log("b/") == {ids["two"]}
    assert log("a") == {ids["one"], ids["three"]}
    assert log("b/", "a") == {ids["one"], ids["two"], ids["three"]}
    assert log("nowhere/") == set()
    bases = [("main", ids["one"], "one"), (ids["two"], ids["three"], "two"), (ids["three"], ids["four"], "one")]
    for left, right, base in bases:
        found = repo.api.refs_api.find_merge_base(repo.name, left, right)
        assert found.base_commit_id == ids[base]


def test_revert_accepts_message_and_metadata(repo: Repo) -> None:
    repo.put("a", b"1")
    undone = repo.commit()
    overrides = sdk.CommitOverrides(message="because", metadata={"key": "value"})
    creation = sdk.RevertCreation(ref=undone.id, parent_number=0, commit_overrides=overrides)
    repo.api.branches_api.revert_branch(repo.name, "main", creation)
    head = repo.api.commits_api.get_commit(repo.name, "main")
    assert (head.message, head.metadata["key"]) == ("because", "value")


def test_log_includes_commit_older_than_its_parent(repo: Repo) -> None:
    repo.branch("side")
    repo.put("a")
    now = repo.commit().id
    repo.put("b", branch="side")
    old = repo.commit("side", date=1).id
    merged = repo.merge("side")
    log = repo.api.refs_api.log_commits(repo.name, "main").results
    assert {merged, now, old} < {commit.id for commit in log} and len(log) == 4


def test_hard_reset_points_branch_to_another_commit(repo: Repo) -> None:
    start = repo.branch("side")
    repo.put("a")
    end = repo.commit().id
    for ref, wanted, paths in (("main", end, ["a"]), (start, start, [])):
        repo.api.experimental_api.hard_reset_branch(repo.name, "side", ref)
        assert repo.api.branches_api.get_branch(repo.name, "side").commit_id == wanted and repo.paths("side") == paths
