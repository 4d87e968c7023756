"""Two clones of one branch: nothing that one of them published is undone by the other without --replace."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from core.errors import UsageError
from core.hashing import file_sha256
from dataset.splitting.fold_file import read_folds, write_folds
from dataset.splitting.splits import SPLIT_MARK
from tests.support.clones import Clone
from tests.support.servers import branches
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import LakePath
from versioning import sync
from versioning.base import REF_FILE, recorded_base
from versioning.commands import diff
from versioning.status import status

NAMES = [f"images/{number:02}.png" for number in range(20)]


def local_file(path: Path) -> LocalFile:
    return LocalFile(path, file_sha256(path))


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


def test_folds_of_the_branch_are_taken(pair: tuple[Clone, Clone]) -> None:
    mine, theirs = pair
    write_folds(mine.root, 3, {"00": 1, "01": 2, "02": 3})
    mine.push()
    sync.pull(theirs.settings, theirs.lake, "main", force=True)
    theirs.write(added="theirs")
    write_folds(theirs.root, 3, {"00": 1, "01": 2, "02": 3, "added": 2})
    theirs.push()
    mine.write(own="mine")
    write_folds(mine.root, 3, {"00": 1, "01": 2, "02": 3, "own": 1})
    sync.merge(mine.settings, mine.lake, "main", None)
    assert read_folds(mine.root, 3) == {"00": 1, "01": 2, "02": 3, "added": 2}
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
