"""lakeFS's high-level clients, the Python package `lakefs` and the program `lakectl`, work with every server."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lakefs.conftest import Repo

lakefs = pytest.importorskip("lakefs")
from lakefs import exceptions as errors  # noqa: E402
from lakefs.client import Client  # noqa: E402


@pytest.fixture
def package(repo: Repo) -> Any:
    """The test's repository in the package, with a separate client: the default client is shared by all tests."""
    server = repo.server
    client = Client(host=server.endpoint, username=server.access_key_id, password=server.secret_access_key)
    return lakefs.Repository(repo.name, client)


def paths(ref: Any, **options: Any) -> list[str]:
    return [item.path for item in ref.objects(**options)]


def test_lakefs_package_uploads_lists_and_deletes_objects(package: Any) -> None:
    main = package.branch("main")
    made = main.object("a/text.txt").upload("첫 줄\nsecond\n", content_type="text/plain", metadata={"key": "value"})
    stats = made.stat()
    assert (stats.path, stats.size_bytes, stats.content_type) == ("a/text.txt", 15, "text/plain")
    assert stats.metadata == {"key": "value"}
    with pytest.raises(errors.ObjectExistsException):
        main.object("a/text.txt").upload("other", mode="x")
    main.object("b").upload(b"", mode="xb")
    assert main.object("b").reader().read() == b""
    assert made.copy("main", "c/copy").reader("r").read() == "첫 줄\nsecond\n"
    assert (paths(main), paths(main, prefix="a"), paths(main, delimiter="/")) == (
        ["a/text.txt", "b", "c/copy"],
        ["a/text.txt"],
        ["a/", "b", "c/"],
    )
    assert not main.object("no").exists()
    made.delete()
    main.delete_objects(["b", main.object("c/copy")])
    assert paths(main) == []
    with pytest.raises(errors.ObjectNotFoundException):
        main.object("a/text.txt").reader().read()


def test_lakefs_package_streams_and_seeks(package: Any) -> None:
    data = bytes(range(256)) * 400
    with package.branch("main").object("a").writer("wb", metadata={"k": "v"}) as writer:
        for start in range(0, len(data), 1000):
            writer.write(data[start : start + 1000])
    with package.branch("main").object("a").reader("rb") as reader:
        assert (reader.read(10), reader.tell()) == (data[:10], 10)
        assert reader.seek(-5, os.SEEK_END) == len(data) - 5
        assert reader.read(100) == data[-5:]
        assert reader.read(1) == b""
        reader.seek(70_000)
        assert reader.read() == data[70_000:]
        reader.seek(len(data) + 5)
        assert reader.read() == b""
    package.branch("main").object("lines").upload("one\ntwo\n")
    assert list(package.branch("main").object("lines").reader("r")) == ["one\n", "two\n"]


def test_lakefs_package_commits_diffs_tags_and_reverts(package: Any) -> None:
    main = package.branch("main")
    for number in range(3):
        main.object("a").upload(str(number))
        main.object(f"new{number}").upload("x")
        assert [change.path for change in main.uncommitted()] == ["a", f"new{number}"]
        main.commit(f"commit {number}", metadata={"number": str(number)})
    main.object("a").upload("staged")
    main.reset_changes()
    head = main.get_commit()
    assert (head.message, head.metadata) == ("commit 2", {"number": "2"})
    for ref, content in (("main", "2"), ("main~1", "1"), ("main^", "1"), ("main~2", "0"), (head.id[:10], "2")):
        assert package.ref(ref).object("a").reader("r").read() == content
    assert [commit.message for commit in main.log(max_amount=2)] == ["commit 2", "commit 1"]
    changes = [(change.type, change.path) for change in package.ref("main~1").diff("main")]
    assert changes == [("changed", "a"), ("added", "new2")]
    tag = package.tag("v1").create("main~1")
    assert tag.get_commit().message == "commit 1"
    assert [found.id for found in package.tags()] == ["v1"]
    assert main.revert("main").message.startswith("Revert")
    assert main.object("a").reader("r").read() == "1"
    assert {branch.id for branch in package.branches()} == {"main"}


def test_lakefs_package_merges_branches_and_reports_conflicts(package: Any) -> None:
    dev = package.branch("dev").create("main")
    dev.object("a").upload("dev")
    dev.commit("on dev")
    merged = dev.merge_into("main", message="m")
    assert package.ref(merged).get_commit().message == "m"
    package.branch("main").object("a").upload("main")
    package.branch("main").commit("on main")
    dev.object("a").upload("dev again")
    dev.commit("on dev again")
    with pytest.raises(errors.ConflictException):
        dev.merge_into("main")
    dev.merge_into("main", strategy="source-wins")
    assert package.branch("main").object("a").reader("r").read() == "dev again"
    dev.delete()
    with pytest.raises(errors.NotFoundException):
        dev.get_commit()


def test_lakefs_package_transaction_commits_everything_or_nothing(package: Any) -> None:
    main = package.branch("main")
    with main.transact(commit_message="together", commit_metadata={"k": "v"}, tag="done") as transaction:
        transaction.object("a").upload("1")
        transaction.object("b").upload("2")
        assert paths(main) == []
    assert paths(main) == paths(package.ref("done")) == ["a", "b"]
    assert "together" in [commit.message for commit in main.log()]
    with pytest.raises(ZeroDivisionError), main.transact(commit_message="fails") as transaction:
        transaction.object("c").upload(str(1 // 0))
    with pytest.raises(errors.TransactionException), main.transact(commit_message="loses") as transaction:
        transaction.object("a").upload("inside")
        main.object("a").upload("outside")
        main.commit("meanwhile")
    assert main.object("a").reader("r").read() == "outside"
    assert [branch.id for branch in package.branches()] == ["main"]


def test_lakefs_package_raises_its_exception_for_each_error(package: Any) -> None:
    main = package.branch("main")
    with pytest.raises(errors.BadRequestException, match="no changes"):
        main.commit("nothing")
    with pytest.raises(errors.NotFoundException):
        package.branch("new").create("no-such-source")
    with pytest.raises(errors.ConflictException):
        package.branch("main").create("main")
    assert package.branch("main").create("main", exist_ok=True).id == "main"
    with pytest.raises(errors.ForbiddenException):
        main.delete()
    with pytest.raises(errors.ConflictException):
        lakefs.Repository(package.id, package._client).create("local://anything/else")
    with pytest.raises(errors.NotFoundException):
        list(lakefs.Repository("no-such-repository", package._client).branches())


@pytest.fixture
def lakectl(repo: Repo, tmp_path: Path) -> Callable[..., str]:
    """Run lakectl on the test's server and return its output; "@" in arguments stands for the repository."""
    if not shutil.which("lakectl"):
        pytest.skip("lakectl is not on PATH")
    keys = {
        "LAKECTL_SERVER_ENDPOINT_URL": repo.server.endpoint,
        "LAKECTL_CREDENTIALS_ACCESS_KEY_ID": repo.server.access_key_id,
        "LAKECTL_CREDENTIALS_SECRET_ACCESS_KEY": repo.server.secret_access_key,
    }
    env = {**os.environ, **keys, "HOME": str(tmp_path), "TERM": "dumb", "LAKECTL_OPTIONS_NO_COLOR": "true"}

    def run(*arguments: str, code: int = 0) -> str:
        command = ["lakectl", *(text.replace("@", f"lakefs://{repo.name}") for text in arguments)]
        ended = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ended.returncode == code, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr

    return run


def test_lakectl_transfers_objects_and_commits(lakectl: Callable[..., str], repo: Repo, tmp_path: Path) -> None:
    folder = tmp_path / "up"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("hello")
    (folder / "sub" / "b.bin").write_bytes(os.urandom(300_000))
    lakectl("fs", "upload", "-s", str(folder / "a.txt"), "@/main/single.txt", "--content-type", "text/plain")
    lakectl("fs", "upload", "-r", "-s", str(folder), "@/main/d/")
    assert lakectl("fs", "cat", "@/main/single.txt") == "hello"
    assert "text/plain" in lakectl("fs", "stat", "@/main/single.txt")
    listed = lakectl("fs", "ls", "@/main/")
    assert "single.txt" in listed and "d/" in listed and "a.txt" not in listed
    assert "d/sub/b.bin" in lakectl("fs", "ls", "-r", "@/main/")
    assert "+ added d/a.txt" in lakectl("diff", "@/main")
    head = repo.api.branches_api.get_branch(repo.name, "main").commit_id
    assert "Commit for branch" in lakectl("commit", "@/main", "-m", "첫 커밋", "--meta", "key=value")
    lakectl("fs", "download", "-r", "@/main/d/", str(tmp_path / "down"))
    assert (tmp_path / "down/sub/b.bin").read_bytes() == (folder / "sub/b.bin").read_bytes()
    lakectl("fs", "rm", "@/main/single.txt")
    lakectl("fs", "rm", "-r", "@/main/d/sub/")
    assert lakectl("diff", "@/main").count("- removed") == 2
    lakectl("commit", "@/main", "-m", "less")
    log = lakectl("log", "@/main", "--amount", "2")
    assert "첫 커밋" in log and "less" in log and "key  " in log and "Repository created" not in log
    assert "+ added d/a.txt" in lakectl("diff", f"@/{head}", "@/main")
    lakectl("fs", "cat", "@/main/no", code=1)
    lakectl("commit", "@/main", "-m", "nothing", code=1)


def test_lakectl_manages_branches_tags_and_repositories(
    lakectl: Callable[..., str], repo: Repo, tmp_path: Path
) -> None:
    lakectl("branch", "create", "@/dev", "-s", "@/main")
    assert "dev" in lakectl("branch", "list", "@")
    assert "Commit ID" in lakectl("branch", "show", "@/dev")
    (tmp_path / "a").write_text("x")
    lakectl("fs", "upload", "-s", "a", "@/dev/a")
    lakectl("branch", "reset", "@/dev", "--yes")
    assert repo.staged("dev") == []
    lakectl("fs", "upload", "-s", "a", "@/dev/a")
    lakectl("commit", "@/dev", "-m", "on dev")
    lakectl("merge", "@/dev", "@/main", "-m", "merged")
    lakectl("tag", "create", "@/v1", "@/main")
    assert "v1" in lakectl("tag", "list", "@") and "v1" in lakectl("tag", "show", "@/v1")
    lakectl("branch", "revert", "@/main", "main", "-m", "1", "--yes")
    assert (repo.paths(), repo.paths("v1")) == ([], ["a"])
    lakectl("tag", "delete", "@/v1", "--yes")
    lakectl("branch", "delete", "@/dev", "--yes")
    other = f"{repo.name}-2"
    lakectl("repo", "create", f"lakefs://{other}", repo.server.namespace(other))
    assert other in lakectl("repo", "list", "--amount", "1000")
    lakectl("repo", "delete", f"lakefs://{other}", "--yes")
