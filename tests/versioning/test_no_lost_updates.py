"""Two clones of one branch: nothing that one of them published is undone by the other without --replace."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import config
from core.errors import AppError, UsageError
from core.hashing import file_sha256
from dataset.splitting.splits import SPLIT_MARK
from tests.support.servers import branches
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import LakeFS, LakePath
from versioning import sync
from versioning.base import REF_FILE, recorded_base
from versioning.commands import diff
from versioning.divergence import Divergence
from versioning.push import Mode, push
from versioning.status import status
from versioning.versions import compare

NAMES = [f"images/{number:02}.png" for number in range(20)]


@dataclasses.dataclass(frozen=True)
class Clone:
    """A clone of the project with its own data directory and cache."""

    settings: config.Settings
    lake: LakeFS

    @property
    def root(self) -> Path:
        return self.settings.data_dir

    def write(self, **contents: str | None) -> None:
        """Write files of images/ by their stem; None deletes one."""
        for name, content in contents.items():
            path = self.root / f"images/{name.removeprefix('n')}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.unlink()
            else:
                path.write_text(content)

    def read(self) -> dict[str, str]:
        files = (path for path in self.root.rglob("*") if path.is_file() and not path.name.startswith("."))
        return {path.relative_to(self.root).as_posix(): path.read_text() for path in files}

    def push(self, mode: Mode = "default") -> str:
        push(self.settings, self.lake, None, mode)
        return self.lake.head()

    def branch(self) -> dict[str, str]:
        """Return the content of the branch's data."""
        tree = self.lake.download(LakePath(self.lake.repo, self.lake.head(), "data/"), self.settings.cache_dir)
        files = (path for path in (tree / "data").rglob("*") if path.is_file())
        return {path.relative_to(tree / "data").as_posix(): path.read_text() for path in files}


@pytest.fixture
def clone(lake: LakeFS, lake_settings: config.Settings, tmp_path: Path) -> Callable[[str], Clone]:
    def make(name: str) -> Clone:
        folder = tmp_path / name
        return Clone(dataclasses.replace(lake_settings, data_dir=folder / "data", lakefs_local_dir=folder / "l"), lake)

    return make


@pytest.fixture
def pair(clone: Callable[[str], Clone]) -> tuple[Clone, Clone]:
    """Two clones with the same twenty files; the first one has published them."""
    mine, theirs = clone("mine"), clone("theirs")
    mine.write(**{f"n{number:02}": "first" for number in range(20)})
    mine.push()
    sync.pull(theirs.settings, theirs.lake, "main", force=False)
    return mine, theirs


def test_push_of_an_outdated_directory_is_refused(
    pair: tuple[Clone, Clone], capsys: pytest.CaptureFixture[str]
) -> None:
    mine, theirs = pair
    theirs.write(n00="theirs", n01=None, added="theirs")
    head = theirs.push()
    mine.write(n05="mine")
    with pytest.raises(UsageError, match="branch main has moved on since") as caught:
        mine.push()
    text = str(caught.value)
    for line in ("  reverted  images/00.png", "  restored  images/01.png", "  deleted   images/added.png"):
        assert line in text
    assert "images/05.png" not in text
    for offer in ("lake.py pull --merge", "--keep-remote", "--replace"):
        assert offer in text
    assert not status(mine.settings, mine.lake)
    assert "branch main has changes that are not here" in capsys.readouterr().out
    assert mine.lake.head() == head and recorded_base(mine.root) != recorded_base(theirs.root)


def test_merge_brings_the_changes_of_the_branch_and_keeps_ones_own(
    pair: tuple[Clone, Clone], capsys: pytest.CaptureFixture[str]
) -> None:
    mine, theirs = pair
    theirs.write(n00="theirs", n01=None, added="theirs")
    head = theirs.push()
    mine.write(n05="mine", n06=None, own="mine")
    sync.merge(mine.settings, mine.lake, "main", None)
    assert "2 written, 1 removed; own changes: 1 new, 1 changed, 1 removed" in capsys.readouterr().out
    expected = {**dict.fromkeys(NAMES, "first"), "images/00.png": "theirs", "images/05.png": "mine"}
    expected |= {"images/added.png": "theirs", "images/own.png": "mine"}
    del expected["images/01.png"], expected["images/06.png"]
    assert mine.read() == expected
    assert recorded_base(mine.root) == LakePath(mine.lake.repo, head, "data/")
    mine.push()
    assert mine.branch() == expected


def test_conflicts_are_listed_and_nothing_is_written(pair: tuple[Clone, Clone]) -> None:
    mine, theirs = pair
    theirs.write(n00="theirs", n01=None, n02="same", added="theirs", n03="theirs")
    theirs.push()
    mine.write(n00="mine", n01="mine", n02="same", added="mine", n03=None)
    before, base = mine.read(), recorded_base(mine.root)
    with pytest.raises(UsageError, match="both changed 4 files: nothing was written") as caught:
        sync.merge(mine.settings, mine.lake, "main", None)
    listed = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert listed == ["images/00.png", "images/01.png", "images/03.png", "images/added.png"]
    assert mine.read() == before and recorded_base(mine.root) == base
    with pytest.raises(UsageError, match="both changed 4 files"):
        mine.push("keep-remote")
    copy = Clone(dataclasses.replace(mine.settings, data_dir=mine.root.with_name("copy")), mine.lake)
    shutil.copytree(mine.root, copy.root)
    sync.merge(mine.settings, mine.lake, "main", "local")
    assert mine.read() == before
    sync.merge(copy.settings, copy.lake, "main", "branch")
    assert copy.read() == theirs.read()
    mine.push()
    assert mine.branch() == before


def test_keep_remote_neither_deletes_nor_reverts(pair: tuple[Clone, Clone]) -> None:
    mine, theirs = pair
    theirs.write(n00="theirs", n01=None, added="theirs")
    theirs.push()
    mine.write(n05="mine", own="mine")
    local = mine.read()
    mine.push("keep-remote")
    expected = {**theirs.read(), "images/05.png": "mine", "images/own.png": "mine"}
    assert mine.branch() == expected and mine.read() == local
    with pytest.raises(UsageError, match="has moved on since"):
        mine.push()
    sync.merge(mine.settings, mine.lake, "main", None)
    assert mine.read() == expected


def test_replace_makes_the_branch_equal_to_the_directory(pair: tuple[Clone, Clone]) -> None:
    mine, theirs = pair
    theirs.write(n00="theirs", added="theirs")
    theirs.push()
    mine.write(n05="mine")
    head = mine.push("replace")
    assert mine.branch() == mine.read()
    base = recorded_base(mine.root)
    assert base is not None and mine.lake.contains("main", base.ref) and mine.lake.contains("main", head)


def test_commits_that_leave_the_data_alone_do_not_matter(pair: tuple[Clone, Clone], tmp_path: Path) -> None:
    mine, theirs = pair
    model = tmp_path / "model.pth"
    model.write_bytes(b"model")
    theirs.lake.publish({"model.pth": local_file(model)}, "models/", "model", {}, mirror=False)
    mine.write(n05="mine")
    mine.push()
    theirs.write(n05="mine")
    theirs.push()


def test_directory_of_another_branch_is_compared_from_the_merge_base(pair: tuple[Clone, Clone]) -> None:
    mine, theirs = pair
    mine.lake.start_experiment("trial")
    mine.write(n00="trial")
    mine.push()
    mine.lake.connection.branch = "main"
    mine.write(n00="better", n01="better")
    mine.push()
    assert mine.branch()["images/00.png"] == "better"
    sync.pull(theirs.settings, theirs.lake, "trial", force=True)
    with pytest.raises(UsageError, match="has moved on since"):
        theirs.push()


def test_deleting_a_tenth_of_the_files_needs_replace(pair: tuple[Clone, Clone]) -> None:
    mine, _ = pair
    mine.write(n00=None, n01=None)
    mine.push()
    mine.write(n02=None, n03=None)
    with pytest.raises(UsageError, match="lacks 2 of the 18 files of branch main") as caught:
        mine.push()
    assert "images/02.png" in str(caught.value) and "--replace" in str(caught.value)
    mine.push("replace")
    assert len(mine.branch()) == 16


def test_renamed_files_are_not_deleted_ones(pair: tuple[Clone, Clone], capsys: pytest.CaptureFixture[str]) -> None:
    mine, _ = pair
    for number, name in enumerate(NAMES):
        (mine.root / name).write_text(f"content {number}")
    mine.push()
    (mine.root / "images").rename(mine.root / "masks")
    assert not status(mine.settings, mine.lake)
    shown = capsys.readouterr().out
    assert "0 new, 0 changed, 0 removed, 20 renamed" in shown
    assert "  renamed  images/00.png -> masks/00.png" in shown
    mine.push()
    assert "  renamed  images/00.png -> masks/00.png" in capsys.readouterr().out
    diff(mine.lake, mine.settings, "main~1", "main")
    shown = capsys.readouterr().out
    assert "renamed  data/images/00.png -> data/masks/00.png" in shown and "changed 0, renamed 20" in shown
    sync.pull(mine.settings, mine.lake, "main~1", force=False)
    assert "  renamed  masks/00.png -> images/00.png" in capsys.readouterr().out


@pytest.mark.parametrize("known", [True, False])
def test_directory_without_a_record_undoes_nothing(pair: tuple[Clone, Clone], known: bool) -> None:
    mine, _ = pair
    if known:  # a damaged or interrupted record counts as none
        (mine.root / REF_FILE).write_text((mine.root / REF_FILE).read_text().replace('""', "pull"))
    else:
        (mine.root / REF_FILE).unlink()
    mine.write(own="mine")
    mine.push()
    (mine.root / REF_FILE).unlink()
    mine.write(n00="mine", n01=None)
    with pytest.raises(UsageError, match="not known which version of branch main it comes from") as caught:
        mine.push()
    assert "  reverted  images/00.png" in str(caught.value) and "  deleted   images/01.png" in str(caught.value)
    mine.push("replace")
    assert mine.branch() == mine.read()


def test_branch_that_moves_during_the_publication_is_detected(
    pair: tuple[Clone, Clone], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = pair
    mine.write(n00="mine")
    theirs.write(n00="theirs")
    publisher, done = mine.lake.publisher, list[str]()
    merge = publisher.merge_into_target

    def overtaken(source: str, message: str, metadata: Mapping[str, str]) -> str | None:
        if not done:
            done.append(source)
            theirs.push()
        return merge(source, message, metadata)

    monkeypatch.setattr(publisher, "merge_into_target", overtaken)
    with pytest.raises(UsageError, match="has moved on since"):
        mine.push()
    assert mine.branch()["images/00.png"] == "theirs"
    assert branches(mine.lake) == ["main"], "no private branch is left"


def test_branch_that_gains_files_during_the_publication_keeps_them(
    pair: tuple[Clone, Clone], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = pair
    mine.write(n00="mine")
    theirs.write(added="theirs")
    publisher, done = mine.lake.publisher, list[str]()
    merge = publisher.merge_into_target

    def overtaken(source: str, message: str, metadata: Mapping[str, str]) -> str | None:
        if not done:
            done.append(source)
            theirs.push()
        return merge(source, message, metadata)

    monkeypatch.setattr(publisher, "merge_into_target", overtaken)
    mine.push()
    assert mine.branch() == {**mine.read(), "images/added.png": "theirs"}
    with pytest.raises(UsageError, match="has moved on since"):
        mine.push()


def test_interrupted_merge_is_finished_by_the_command_that_it_names(
    pair: tuple[Clone, Clone], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = pair
    theirs.write(n00="theirs", n01=None, added="theirs")
    head = theirs.push()
    mine.write(n05="mine")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sync, "_write", interrupt)
        sync.merge(mine.settings, mine.lake, "main", None)
    with pytest.raises(UsageError, match=f"run python lake.py pull --merge lakefs://{mine.lake.repo}/{head}/data/"):
        mine.push()
    sync.merge(mine.settings, mine.lake, f"lakefs://{mine.lake.repo}/{head}/data/", None)
    assert mine.read() == {**theirs.read(), "images/05.png": "mine"}
    mine.push()


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_split_files_of_train_are_taken_together(pair: tuple[Clone, Clone]) -> None:
    mine, theirs = pair
    for one in pair:
        (one.root / "splits").mkdir()
    write_splits(mine.root, train=["00", "01"], val=["02"])
    mine.push()
    sync.pull(theirs.settings, theirs.lake, "main", force=True)
    theirs.write(added="theirs")
    write_splits(theirs.root, train=["00", "01"], val=["02", "added"])
    theirs.push()
    mine.write(own="mine")
    write_splits(mine.root, train=["00", "01", "own"], val=["02"])
    sync.merge(mine.settings, mine.lake, "main", None)
    for name in ("splits/train.txt", "splits/val.txt"):
        assert mine.read()[name] == theirs.read()[name]
    assert mine.read()["images/own.png"] == "mine"


def write_splits(root: Path, **names: list[str]) -> None:
    for split, listed in names.items():
        (root / f"splits/{split}.txt").write_text(f"{SPLIT_MARK}0\n" + "".join(f"{name}\n" for name in listed))


def test_read_only_directory_is_published_without_a_record(
    pair: tuple[Clone, Clone], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, _ = pair
    (mine.root / REF_FILE).unlink()

    def refuse(path: Path, content: bytes) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("versioning.base.write_atomically", refuse)
    mine.push()
    assert ".lakefs_ref.yaml: cannot be written (Permission denied)" in capsys.readouterr().err


def test_record_of_another_lakectl_directory_is_left_alone(
    pair: tuple[Clone, Clone], capsys: pytest.CaptureFixture[str]
) -> None:
    mine, _ = pair
    foreign = f'src: lakefs://datasets/main/camvid/\nat_head: {"a" * 64}\nactive_operation: ""\n'
    (mine.root / REF_FILE).write_text(foreign)
    mine.push()
    assert (mine.root / REF_FILE).read_text() == foreign
    assert "connects this directory with lakefs://datasets/main/camvid/" in capsys.readouterr().err


def test_three_way_merge_of_every_combination() -> None:
    for base in (None, "b"):
        for local in (None, "b", "l", "s"):
            for branch in (None, "b", "r", "s"):
                sides = [{"x": side} if side else {} for side in (base, local, branch)]
                divergence = Divergence(*sides)
                conflict = len({base, local, branch}) == 3
                taken, conflicts = divergence.merged(lambda name: None)
                assert conflicts == (["x"] if conflict else []), (base, local, branch)
                after = taken.get("x", local) if not conflict else local
                assert after == (local if conflict else branch if local == base else local), (base, local, branch)
                lost = branch not in (base, local)
                assert divergence.undone() == (["x"] if lost else [])


def test_renames_are_paired_once_and_by_file_name() -> None:
    changes = compare({"b/1": "x", "b/2": "x", "c": "y"}, {"a/2": "x", "a/3": "x", "d": "z"})
    assert changes.renamed == {"b/1": "a/3", "b/2": "a/2"}
    assert changes.counts() == "1 new, 0 changed, 1 removed, 2 renamed"


def local_file(path: Path) -> LocalFile:
    return LocalFile(path, file_sha256(path))


@pytest.mark.skipif(shutil.which("lakectl") is None, reason="no lakectl program")
def test_lakectl_local_status_agrees(pair: tuple[Clone, Clone], lakefs_server_kind: str, tmp_path: Path) -> None:
    if lakefs_server_kind != "real":
        pytest.skip("lakectl local needs a real server")
    mine, theirs = pair
    mine.write(n05="mine")

    def lakectl(clone: Clone) -> str:
        keys = clone.settings
        environment = {
            **os.environ,
            "HOME": str(tmp_path),
            "LAKECTL_SERVER_ENDPOINT_URL": str(keys.lakefs_endpoint),
            "LAKECTL_CREDENTIALS_ACCESS_KEY_ID": str(keys.lakefs_access_key_id),
            "LAKECTL_CREDENTIALS_SECRET_ACCESS_KEY": str(keys.lakefs_secret_access_key),
            "LAKECTL_SERVER_RETRIES_ENABLED": "false",
        }
        command = ["lakectl", "local", "status", str(clone.root), "--no-color"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "No diff found" in lakectl(theirs)
    changed = lakectl(mine)
    assert "images/05.png" in changed and "images/04.png" not in changed
    mine.push()
    assert "No diff found" in lakectl(mine)
    remote = lakectl(theirs)
    assert "remote" in remote and "images/05.png" in remote and "images/04.png" not in remote
    sync.merge(theirs.settings, theirs.lake, "main", None)
    assert "No diff found" in lakectl(theirs)
    with pytest.raises(AppError):
        sync.pull(theirs.settings, theirs.lake, "nowhere", force=False)
