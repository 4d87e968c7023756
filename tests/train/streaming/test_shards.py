"""lake.py shards: a commit of shards, on which train.py trains as on the commit that they are of."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from pathlib import Path

import pytest
import torch

from core.errors import AppError
from core.hashing import file_sha256
from dataset.directory import data_files
from dataset.sources.synthetic import generate_sample
from tests.support.project import SOURCE, Project, make_project
from tests.train.streaming.test_streamed_files import publish, settings_of
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import LakeFS, LakePath
from versioning.checkout import checked_data
from versioning.streaming.files import shards_of
from versioning.streaming.shards import INDEX, PREFIX, read_index, write_shards

pytest.importorskip("webdataset")

OPTIONS = ("--epochs", "2", "--batch-size", "5", "--image-size", "64", "64")
EVERY_STEP = {"CHECKPOINT_MINUTES": "0.0000001"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = make_project(tmp_path_factory.mktemp("shards"), images=20)
    (project.folder / "tests/support").mkdir(parents=True)
    shutil.copy(SOURCE / "tests/support/kill_training.py", project.folder / "tests/support/kill_training.py")
    done = project.run("lake.py", "push", "-m", "data")
    assert done.returncode == 0, done.stdout + done.stderr
    return project


def weights(project: Project) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(project.folder / "models/model.pth", weights_only=True)["state_dict"]
    return state


def test_training_on_shards_is_one_on_their_source(project: Project) -> None:
    done = project.run("train.py", *OPTIONS, "--data-ref", "main")
    assert done.returncode == 0, done.stdout + done.stderr
    reference, lock = weights(project), json.loads((project.folder / "lakefs.lock").read_text())["data"]
    source = f"lakefs://{lock['repository']}/{lock['commit']}/data/"
    done = project.run("lake.py", "shards", lock["commit"], "--to", "shards-1", "--shard-mb", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"^shards of (.*): ([0-9a-f]{64})$", done.stdout, re.MULTILINE)
    assert found is not None and found[1] == source
    shutil.rmtree(project.folder / ".lakefs/cache")
    killed = project.run(
        "-m", "tests.support.kill_training", "train_step", "4", *OPTIONS, "--data-ref", "shards-1", env=EVERY_STEP
    )
    assert killed.returncode < 0 and f"/{found[2]}/shards/" in killed.stdout, killed.stdout + killed.stderr
    done = project.run("train.py", "--resume", "last")
    assert done.returncode == 0 and f"/{found[2]}/shards/" in done.stdout, done.stdout + done.stderr
    assert all(torch.equal(value, reference[name]) for name, value in weights(project).items())
    assert json.loads((project.folder / "lakefs.lock").read_text())["data"] == lock
    run = project.runs()[0]
    assert run.data.params["lakefs_data_path"] == source
    assert run.data.params["data_shards"] == f"lakefs://{lock['repository']}/{found[2]}/shards/"
    done = project.run("lake.py", "trace", run.info.run_id, "--long")
    assert done.returncode == 0 and source in done.stdout and found[2] in done.stdout, done.stdout + done.stderr


def test_refusals_are_one_line(project: Project) -> None:
    done = project.run("lake.py", "shards", "main", "--to", "main")
    assert done.returncode == 2 and "experiment branch 'main'" in done.stderr
    done = project.run("train.py", "--data-ref", "shards-1", "--stream", "never")
    assert done.returncode == 2 and "shards are always streamed" in done.stderr and done.stderr.count("\n") == 1


def test_shards_are_deterministic_complete_and_bounded(lake: LakeFS, tmp_path: Path) -> None:
    root = tmp_path / "data"
    generate_sample(root, seed=0, count=12)
    (root / "notes.txt").write_text("kept")
    commit, settings = publish(lake, root), settings_of(lake, tmp_path)
    source, data = checked_data(settings, lake, commit)
    assert source is not None
    heads = []
    for branch in ("one", "two"):
        write_shards(settings, lake, source, data, branch, 100_000)
        heads.append(lake.head(branch))
        lake.connection.branch = "main"
    objects = [{f.path: f.sha256 for f in lake.objects(head, PREFIX)} for head in heads]
    assert objects[0] == objects[1]
    tree = lake.download(LakePath(lake.repo, heads[0], PREFIX), tmp_path / "cache") / PREFIX
    shards = sorted(tree.glob("*.tar"))
    assert len(shards) > 3 and all(shard.stat().st_size < 120_000 for shard in shards)
    entries = {entry.name: entry for entry in read_index((tree / INDEX).read_bytes(), source)}
    assert entries.keys() == data_files(root).keys()
    for name, path in data_files(root).items():
        entry = entries[name]
        content = (tree / entry.object).read_bytes()[entry.offset : entry.offset + entry.size]
        assert content == path.read_bytes()
    with tarfile.open(shards[0]) as tar:  # as WebDataset's own reader splits names into samples
        names = [member.name.split(".", 1) for member in tar.getmembers()]
    assert [kind for _, kind in names] == ["image.png", "mask.png"] * (len(names) // 2)
    assert not list(lake.objects(heads[0], "data/x")) and settings.cache_dir.exists()

    pinned, from_shards = checked_data(settings, lake, heads[0])
    assert pinned == source and str(shards_of(from_shards.source)).endswith("/shards/")
    assert from_shards.pairs == data.pairs
    for pair in from_shards.pairs:
        assert from_shards.source.read(pair.image, pair.image_sha256)
        assert from_shards.source.read(pair.mask, pair.mask_sha256)


def test_shards_of_other_files_are_refused(lake: LakeFS, tmp_path: Path) -> None:
    """A commit that states to have the shards of another commit: its files are compared with those of that commit."""
    root, settings = tmp_path / "data", settings_of(lake, tmp_path)
    generate_sample(root, seed=0, count=12)
    first = publish(lake, root)
    source, data = checked_data(settings, lake, first)
    assert source is not None
    write_shards(settings, lake, source, data, "one", 1e6)
    head, lake.connection.branch = lake.head(), "main"
    image = root / "images/sample_0000.png"
    image.write_bytes((root / "images/sample_0001.png").read_bytes())
    other = publish(lake, root)
    tree = lake.download(LakePath(lake.repo, head, PREFIX), tmp_path / "cache") / PREFIX
    files = {path.relative_to(tree).as_posix(): path for path in tree.rglob("*") if path.is_file()}
    files[INDEX] = tmp_path / INDEX
    files[INDEX].write_bytes((tree / INDEX).read_bytes().replace(first.encode(), other.encode()))
    published = {name: LocalFile(path, file_sha256(path)) for name, path in files.items()}
    metadata = {"shards_of": f"lakefs://{lake.repo}/{other}/data/"}
    wrong = lake.publish(published, PREFIX, "m", metadata, mirror=True).commit_id
    with pytest.raises(AppError, match=r"does not have the files of .* 1 changed"):
        checked_data(settings, lake, wrong)
    with pytest.raises(AppError, match="not the index of the shards of"):
        read_index(b"{}", source)
