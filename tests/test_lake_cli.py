"""lake.py as a person uses it, on the embedded and on a real server; lakefs.lock, --data-ref and experiment branches."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.git import read_facts
from core.hashing import file_sha256
from tests.project import Project, make_project
from tests.servers import Server
from utils import local_lakefs
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import LakeFS, LakePath
from versioning.lockfile import Lock, write_lock

REPO = "image-segmentation-local-repo"


def lake(project: Project, *arguments: str, code: int = 0) -> str:
    """What `lake.py` printed, on both streams, when it ended with this exit code."""
    done = project.run("lake.py", *arguments)
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def train(project: Project, *arguments: str) -> str:
    done = project.run("train.py", "--batch-size", "4", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def data_of(project: Project) -> dict[str, bytes]:
    root = project.folder / "data"
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def paint(project: Project, value: int, pixels: int = 10) -> str:
    """Give the first mask a square of one class; returns its path below data/."""
    mask = min((project.folder / "data/masks").glob("*.png"))
    with Image.open(mask) as picture:
        values, palette = np.array(picture), picture.getpalette()
    values[:pixels, :pixels] = value
    changed = Image.fromarray(values).convert("P")
    changed.putpalette(palette or [])
    changed.save(mask)
    return f"masks/{mask.name}"


def commit_id(output: str) -> str:
    return output.split("data commit: ")[1].split(maxsplit=1)[0]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path / "project", pictures=12)


@pytest.fixture
def served(project: Project, lakefs_server: Server) -> Project:
    """The project on a named server, embedded or real, in a repository of its own."""
    project.env = {
        "LAKEFS_ENDPOINT": lakefs_server.endpoint,
        "LAKEFS_ACCESS_KEY_ID": lakefs_server.access_key_id,
        "LAKEFS_SECRET_ACCESS_KEY": lakefs_server.secret_access_key,
        "LAKEFS_STORAGE_NAMESPACE": lakefs_server.storage_namespace,
        "LAKEFS_REPO": f"repo-{secrets.token_hex(6)}",
    }
    return project


def test_the_days_of_a_data_set(served: Project) -> None:
    """Push, change, status, diff, push, log, tag, pull an older one, refuse to lose, force, revert, keep, verify."""
    assert "has no repository" in lake(served, "status", code=2)
    for command in (["tag"], ["tag", "-d", "v1"], ["branches"]):
        assert "no such repository: train.py or lake.py push creates it" in lake(served, *command, code=2)
    first_data = data_of(served)
    first = commit_id(lake(served, "push", "-m", "first pictures"))
    assert f"as on main, {len(first_data)} files" in lake(served, "status")
    assert f"existing commit {first}" in lake(served, "push"), "what is unchanged is not committed again"

    mask = paint(served, 3)
    gone = max(first_data)
    (served.folder / "data" / gone).unlink()
    (served.folder / "data/images/한글 새.txt").write_text("new")
    (served.folder / "data/.hidden").write_text("not data")
    said = lake(served, "status", code=1)
    assert "differs from main: 1 new, 1 changed, 1 removed" in said
    for mark, name in (("new", "images/한글 새.txt"), ("changed", mask), ("removed", gone)):
        assert f"  {mark:8} {name}\n" in said
    refused = lake(served, "pull", "main", code=2)
    assert "2 files that are in no commit would be lost" in refused and mask in refused
    second_data = data_of(served)
    second = commit_id(lake(served, "push", "-m", "one mask is better"))
    assert second != first and "as on main" in lake(served, "status")

    differs = lake(served, "diff", "main~1", second[:16])
    assert f"changed  data/{mask}" in differs and f"removed  data/{gone}" in differs
    assert "added 1, removed 1, changed 1" in differs
    row = next(line.split() for line in differs.splitlines() if line.startswith("3 "))
    assert row[1] == "triangle" and row[2] == "+100" and row[3] == "-0"
    assert "added 0, removed 0, changed 0" in lake(served, "diff", "main", second)
    log = [line.split() for line in lake(served, "log", "-n", "2").splitlines()[2:]]
    assert [line[0] for line in log] == [second[:12], first[:12]]
    assert "better" in log[0] and served.git("rev-parse", "HEAD")[:12] in log[0]

    assert first in lake(served, "tag", "v0.1-initial", "main~1") and first in lake(served, "tag")
    lake(served, "pull", "v0.1-initial")
    assert {k: v for k, v in data_of(served).items() if k != ".hidden"} == first_data
    lake(served, "pull", first[:20])
    lake(served, "pull", "main")
    assert data_of(served) == second_data
    paint(served, 2)
    assert "lost" in lake(served, "pull", "v0.1-initial", code=2) and data_of(served) != second_data
    lake(served, "pull", "v0.1-initial", "--force")
    assert {k: v for k, v in data_of(served).items() if k != ".hidden"} == first_data

    assert f"reverted {second[:12]} on main" in lake(served, "revert", second)
    assert "as on main" in lake(served, "status"), "the branch holds the first pictures again"
    assert "cannot be reverted" in lake(served, "revert", second, code=1)
    (served.folder / "data" / gone).unlink()
    paint(served, 1)
    lake(served, "push", "--keep-remote")
    assert f"  {'removed':8} {gone}" in lake(served, "status", code=1)
    assert "*main" in lake(served, "branches")
    assert "0 of" in lake(served, "verify", "v0.1-initial")
    assert "-d takes the name of one tag" in lake(served, "tag", "-d", code=2)
    assert "tag name 'a b': expected none of blanks" in lake(served, "tag", "a b", code=2)
    assert "'-3': a whole number of at least 1" in lake(served, "log", "-n", "-3", code=2)
    lake(served, "tag", "-d", "v0.1-initial")
    wrong = lake(served, "pull", "v0.1-initial", code=2)
    assert "'v0.1-initial' is not a branch, tag or commit" in wrong and "main" in wrong
    assert "no " in lake(served, "pull", "lock", code=2)


def test_two_pushes_at_once(served: Project, tmp_path: Path) -> None:
    """Both change one mask, and each adds a file: both end well, and each is told a commit of exactly its own files."""
    lake(served, "push")
    other = Project(tmp_path / "other", served.env)
    shutil.copytree(served.folder, other.folder)
    both, folders = (served, other), []
    for value, project in enumerate(both, 1):
        paint(project, value)
        (project.folder / f"data/images/{value}.txt").write_text("new")
        folders.append(data_of(project))
    pushes = [project.start("lake.py", "push") for project in both]
    said = [push.communicate(timeout=120)[0] for push in pushes]
    assert [push.returncode for push in pushes] == [0, 0], said
    assert "sync-" not in lake(served, "branches"), "no private branch is left"
    for project, folder, output in zip(both, folders, said, strict=True):
        shutil.rmtree(project.folder / ".lakefs", ignore_errors=True)
        shutil.rmtree(project.folder / "data")
        lake(project, "pull", commit_id(output))
        assert data_of(project) == folder
    lake(served, "pull", "main")
    assert all(content in (folders[0].get(name), folders[1].get(name)) for name, content in data_of(served).items())


def test_what_was_fetched_needs_no_server(served: Project) -> None:
    """A full commit id means one thing for ever; what is not in the cache is an error where the server is down."""
    first_data = data_of(served)
    first = commit_id(lake(served, "push"))
    paint(served, 3)
    second_data = data_of(served)
    second = commit_id(lake(served, "push"))
    for commit in (first, second):
        shutil.rmtree(served.folder / "data")
        assert "was not contacted" not in lake(served, "pull", commit)
    served.env["LAKEFS_ENDPOINT"] = "http://127.0.0.1:9"
    repo = served.env["LAKEFS_REPO"]
    for ref, wanted in ((first, first_data), (f"lakefs://{repo}/{second}/data/", second_data), (first, first_data)):
        assert "lakeFS http://127.0.0.1:9 was not contacted: everything is in the cache" in lake(served, "pull", ref)
        assert data_of(served) == wanted
    checked = served.run("train.py", "--check-only", "--data-ref", second)
    assert checked.returncode == 0 and "was not contacted" in checked.stdout, checked.stderr
    trained = served.run("train.py", "--smoke", "--data-ref", second)
    assert trained.returncode == 1 and "the server does not answer" in trained.stderr
    assert "pairs" in trained.stdout and "epoch" not in trained.stdout
    for ref in ("main", second[:20], "main~1"):
        assert "the server does not answer" in lake(served, "pull", ref, code=1)
    paint(served, 1)
    assert "the server does not answer" in lake(served, "pull", second, code=1), "this mask may be of any commit"
    lake(served, "pull", second, "--force")
    cached = next((served.folder / ".lakefs/cache/commits" / repo / first / "data/masks").iterdir())
    cached.unlink()
    assert "the server does not answer" in lake(served, "pull", first, code=1)


def break_files(store: Path, *sha256s: str) -> None:
    """Change a byte of contents in the embedded store."""
    for sha256 in sha256s:
        content = store / "content" / sha256
        if content.exists():
            content.chmod(0o600)
            content.write_bytes(bytes([content.read_bytes()[0] ^ 1]) + content.read_bytes()[1:])
        else:
            with sqlite3.connect(store / "lakefs.db") as db:
                (data,) = db.execute("SELECT data FROM blobs WHERE sha256=?", (sha256,)).fetchone()
                db.execute("UPDATE blobs SET data=? WHERE sha256=?", (bytes([data[0] ^ 1]) + data[1:], sha256))


def test_verify_reads_the_model_of_the_lock_too(project: Project) -> None:
    data = commit_id(lake(project, "push"))
    with local_lakefs.start(project.folder / ".lakefs") as server:
        store = LakeFS(server.endpoint, server.access_key_id, server.secret_access_key, REPO, "main")
        file = project.folder / "model.pth"
        file.write_bytes(b"a model")
        sha256 = file_sha256(file)
        model = store.publish({"model.pth": LocalFile(file, sha256)}, "models/", "model", {}, mirror=False).commit_id
    paths = LakePath(REPO, data, "data/"), LakePath(REPO, model, "models/model.pth")
    write_lock(project.folder, Lock(paths[0], "0" * 64, paths[1], sha256, "run"))
    said = lake(project, "verify", "lock")
    assert f"{data}: 0 of" in said and f"{model}: 0 of" in said
    break_files(project.folder / ".lakefs", sha256)
    said = lake(project, "verify", "lock", code=1)
    assert f"{data}: 0 of" in said and f"{model}: 1 of" in said and "models/model.pth: expected" in said


def test_verify_finds_a_broken_byte_in_the_store(project: Project) -> None:
    big = project.folder / "data/notes.bin"
    big.write_bytes(bytes(200_000))
    commit = commit_id(lake(project, "push"))
    assert "0 of" in lake(project, "verify", "main")
    store = project.folder / ".lakefs"
    content = next(path for path in (store / "content").rglob("*") if path.is_file())
    content.write_bytes(b"\1" + content.read_bytes()[1:])
    with sqlite3.connect(store / "lakefs.db") as db:  # small files lie in the database
        sha256, data = db.execute("SELECT sha256, data FROM blobs WHERE data IS NOT NULL AND size > 500").fetchone()
        db.execute("UPDATE blobs SET data=? WHERE sha256=?", (data[:-1] + bytes([data[-1] ^ 1]), sha256))
    said = lake(project, "verify", commit, code=1)
    assert f"{commit}: 2 of" in said and "data/notes.bin: expected" in said and f"expected {sha256}, found" in said


def test_a_pull_that_was_cut_off_is_said_and_finished(project: Project) -> None:
    first = data_of(project)
    lake(project, "push")
    for mask in (project.folder / "data/masks").glob("*.png"):
        mask.unlink()
        (project.folder / "data/images" / mask.name).unlink()
    (project.folder / "data/other.txt").write_text("second")
    lake(project, "push")
    dying = (
        "import itertools, sys, lake\nfrom versioning import sync\nfrom core.process import run_script\n"
        "place, count = sync._copy_verified, itertools.count()\n"
        "def die(*a):\n    if next(count) > 5: raise KeyboardInterrupt\n    place(*a)\n"
        "sync._copy_verified = die\nrun_script(lake.main)\n"
    )
    (project.folder / "dying.py").write_text(dying)
    assert project.run("dying.py", "pull", "main~1").returncode == 130
    for script, *arguments in (("lake.py", "push"), ("lake.py", "status"), ("train.py", "--smoke")):
        done = project.run(script, *arguments)
        assert done.returncode == 2 and "was interrupted: run python lake.py pull" in done.stderr, done.stderr
    lake(project, "pull", "main~1")
    assert data_of(project) == first


def test_a_git_commit_brings_back_its_data_and_model(project: Project) -> None:
    files, models, locks = [], [], []
    for value, tag in ((1, "v1.0-acc1"), (2, "v1.1-acc2")):
        paint(project, value, 20)
        output = train(project, "--epochs", "1")
        assert "git add lakefs.lock && git commit -F" in output
        lock = (project.folder / "lakefs.lock").read_text()
        assert lock == json.dumps(json.loads(lock), indent=2, sort_keys=True) + "\n"
        assert read_facts(project.folder).dirty == "false", "the lock is no change of the code"
        files.append(data_of(project))
        models.append((project.folder / "models/model.pth").read_bytes())
        locks.append(json.loads(lock))
        assert "same as the local files" in lake(project, "status")
        project.git("add", "lakefs.lock")
        project.git("commit", "--quiet", "-F", "models/git_commit_message.txt")
        project.git("tag", tag)
    run = project.runs()[0]
    assert locks[1]["data"]["commit"] == run.data.tags["lakefs_data_commit"] != locks[0]["data"]["commit"]
    assert locks[1]["model"]["sha256"] == run.data.tags["model_sha256"]

    project.git("checkout", "--quiet", "v1.0-acc1")
    said = lake(project, "status", code=1)
    assert "as on main" in said and said.count("lake.py pull lock restores it") == 2
    (project.folder / "models/model.pth").write_bytes(b"my own")
    assert "model.pth" in lake(project, "pull", "lock", code=2) and data_of(project) == files[1]
    (project.folder / "models/model.pth").unlink()
    lake(project, "pull", "lock")
    assert data_of(project) == files[0] and (project.folder / "models/model.pth").read_bytes() == models[0]
    assert "same as the local files" in lake(project, "status"), "newer data on the branch are no disagreement"

    lake(project, "pull", "main")
    smoke = train(project, "--smoke", "--data-ref", "lock")
    tags = project.runs()[0].data.tags
    assert tags["lakefs_data_commit"] == locks[0]["data"]["commit"] and "git add lakefs.lock" not in smoke
    assert data_of(project) == files[1], "the data folder is left alone"
    assert json.loads((project.folder / "lakefs.lock").read_text()) == locks[0], "--smoke writes no lock"
    (project.folder / "lakefs.lock").write_text("<<<<<<< HEAD\n")
    assert "lakefs.lock: not a valid lock" in lake(project, "status", code=2)


@pytest.fixture
def store(project: Project) -> Iterator[LakeFS]:
    """The project's embedded store, seen from outside."""
    with local_lakefs.start(project.folder / ".lakefs") as server:
        yield LakeFS(server.endpoint, server.access_key_id, server.secret_access_key, REPO, "main")


def test_training_on_somebody_elses_version(project: Project, store: LakeFS) -> None:
    theirs = {"LAKEFS_REPO": "somebody-else"}
    assert project.run("lake.py", "push", env=theirs).returncode == 0
    their_commit = store.resolve("main", "somebody-else")
    shutil.rmtree(project.folder / "data")
    source = "lakefs://somebody-else/main/data/"
    both = project.run("train.py", "--data-ref", source, "--data-dir", "data")
    assert both.returncode == 2 and "not allowed with" in both.stderr
    assert "pairs: train" in train(project, "--check-only", "--data-ref", "lakefs://somebody-else/main")
    train(project, "--epochs", "1", "--data-ref", source)
    path = project.runs()[0].data.params["lakefs_data_path"]
    assert path == f"lakefs://somebody-else/{their_commit}/data/"
    assert not list(store.objects("main", "data/")), "no data were published"
    lock = json.loads((project.folder / "lakefs.lock").read_text())
    assert (lock["data"]["repository"], lock["model"]["repository"]) == ("somebody-else", REPO)
    lake(project, "pull", "lock")
    assert len(data_of(project)) == len(list(store.objects("main", "data/", "somebody-else")))
    nowhere = project.run("train.py", "--check-only", "--data-ref", "nowhere")
    assert nowhere.returncode == 2 and "'nowhere' is not a branch, tag or commit" in nowhere.stderr

    cached = next((project.folder / ".lakefs/cache/commits/somebody-else" / their_commit / "data/masks").iterdir())
    content, before = cached.read_bytes(), cached.stat()
    cached.chmod(0o600)
    cached.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(cached, ns=(before.st_atime_ns, before.st_mtime_ns))  # a disk that loses bits: no stat tells
    broken = project.run("train.py", "--smoke", "--data-ref", source)
    assert broken.returncode == 1 and "remove the cache folder" in broken.stderr and cached.name in broken.stderr
    os.utime(cached)
    train(project, "--smoke", "--data-ref", source)  # a file that was changed is fetched again
    assert cached.read_bytes() == content


def register(project: Project, run_id: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return project.run("register_model.py", "--threshold", "0", "--run-id", run_id, *arguments)


def test_an_experiment_goes_to_its_branch_and_comes_back_when_registered(
    project: Project, store: LakeFS, tmp_path: Path
) -> None:
    lake(project, "push")
    main = store.head()
    wrong = project.run("train.py", "--smoke", "--experiment-branch", "a/b")
    assert wrong.returncode == 2 and "experiment branch 'a/b'" in wrong.stderr
    paint(project, 2)
    train(project, "--epochs", "1", "--experiment-branch", "wider")
    run = project.runs()[0]
    tags = run.data.tags
    assert (tags["lakefs_branch"], tags["lakefs_target_branch"]) == ("wider", "main")
    assert store.head() == main, "the target is left alone"
    assert store.contains("wider", tags["lakefs_model_commit"]) and store.contains("wider", main)
    assert "is not on branch main" in lake(project, "status", code=1)
    low = project.run("register_model.py", "--threshold", "0.99", "--run-id", run.info.run_id)
    assert low.returncode == 3 and store.head() == main

    other = tmp_path / "other.pth"
    other.write_bytes(b"a model that main got meanwhile")
    files = {"model.pth": LocalFile(other, file_sha256(other))}
    store.publish(files, "models/", "another model", {}, mirror=False)
    kept = register(project, run.info.run_id, "--keep-branch")
    assert kept.returncode == 0 and "merged wider into main" in kept.stdout, kept.stdout + kept.stderr
    head = store.head()
    metadata = store.commit_metadata(head)
    assert (metadata["mlflow_run_id"], metadata["model_sha256"]) == (run.info.run_id, tags["model_sha256"])
    version = project.mlflow().get_model_version_by_alias("image-segmentation", "champion")
    commit = str(version.source).split("/")[3]
    assert store.contains("main", commit)
    for ref in ("main", commit):
        assert [file.sha256 for file in store.objects(ref, "models/model.pth")] == [tags["model_sha256"]]
    assert [name for name, _ in store.list_refs("branches")] == ["main", "wider"]
    again = register(project, run.info.run_id)
    assert again.returncode == 0 and "already registered" in again.stdout and store.head() == head
    assert "deleted the branch wider" in again.stdout and [name for name, _ in store.list_refs("branches")] == ["main"]
    assert "same as the local files" in lake(project, "status")

    mask = paint(project, 3, 30)
    train(project, "--epochs", "1", "--experiment-branch", "clash")
    clash = project.runs()[0].info.run_id
    paint(project, 1, 50)
    lake(project, "push")
    before = store.head()
    refused = register(project, clash, "--force", "whatever the gate says")
    assert refused.returncode == 1 and f"both sides changed data/{mask}" in refused.stderr, refused.stderr
    assert store.head() == before and "clash" in dict(store.list_refs("branches"))
