"""The quality gate and the branch protection of a real lakeFS: invalid data and models never reach main."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import config
from core.errors import AppError
from dataset.directory import IMAGE_SUFFIXES
from dataset.layout.resolve import layout_metadata
from tests.support import servers
from tests.support.project import make_project
from tests.support.publish_helpers import write_local_files
from tests.support.servers import Server
from utils.lakefs_utils import LakeFS, connect
from versioning import server_setup

needs_a_server = pytest.mark.skipif(not servers.real_available(), reason="no lakefs program and no LAKEFS_ENDPOINT")
LINEAGE = {"git_commit": "0" * 40, "mlflow_run_id": "run"}
PAIRS = {"images/a.jpg": b"a", "masks/a.png": b"a", "train/images/x/b.jpeg": b"b", "train/masks/x/b.PNG": b"b"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with servers.real(tmp_path_factory.mktemp("real")) as server:
        yield server


def settings_of(server: Server) -> config.Settings:
    return config.load_settings(**server.settings(app_lang="en"))


@pytest.fixture
def lake(server: Server) -> Iterator[LakeFS]:
    """A new repository whose main branch has the gate and is protected."""
    with connect(settings_of(server), create=True) as lake:
        server_setup.install_gate(lake, require_passed=False)
        yield lake


def put_data(lake: LakeFS, folder: Path, contents: dict[str, bytes], metadata: dict[str, str] = LINEAGE) -> None:
    lake.publish(write_local_files(folder, contents), "data/", "data", metadata, mirror=True)


def put_model(lake: LakeFS, folder: Path, **changes: object) -> None:
    put_model_file(lake, folder, "model.pth", changes)


def put_model_file(lake: LakeFS, folder: Path, name: str, changes: Mapping[str, object]) -> None:
    model = write_local_files(folder, {name: secrets.token_bytes(100)})
    judge = "best_val" if name == "model.pth" else "oof"
    metrics = {"finite": True, "passed": True, f"{judge}_miou": 0.5, f"{judge}_accuracy": 1, "mlflow_run_id": "run"}
    text = json.dumps({**metrics, "model_sha256": model[name].sha256, **changes})
    files = {**model, **write_local_files(folder, {"metrics.json": text.encode()})}
    lake.publish(files, "models/", "model", LINEAGE, mirror=False)


@needs_a_server
def test_valid_data_and_models_pass_the_gate(lake: LakeFS, tmp_path: Path) -> None:
    put_data(lake, tmp_path, {**PAIRS, "classes.json": b"[]", "splits/train.txt": b"a"})
    put_model(lake, tmp_path)
    put_model(lake, tmp_path, passed=False)  # below the gate, but a valid result
    put_data(lake, tmp_path, {"images/c.webp": b"c", "masks/c.tif": b"c"}, {"git_commit": "0", "import_source": "s3"})


@needs_a_server
def test_a_model_of_folds_passes_by_its_out_of_fold_metrics(lake: LakeFS, tmp_path: Path) -> None:
    put_model(lake, tmp_path)
    put_model_file(lake, tmp_path, "ensemble.json", {})
    for changes, reason in (
        ({"oof_miou": 2}, "oof_miou is not from 0 to 1"),
        ({"model_sha256": "0" * 64}, "another model file"),
    ):
        with pytest.raises(AppError, match=reason):
            put_model_file(lake, tmp_path, "ensemble.json", changes)


@needs_a_server
@pytest.mark.parametrize(
    "contents",
    [
        {**PAIRS, "images/lonely.png": b"c"},
        {**PAIRS, "masks/lonely.png": b"c"},
        {**PAIRS, "images/a.png": b"twin"},
        {**PAIRS, "images/b.jpeg": b"other folder", "train/masks/b.png": b"other folder"},
    ],
)
def test_image_without_mask_is_refused(lake: LakeFS, tmp_path: Path, contents: dict[str, bytes]) -> None:
    put_data(lake, tmp_path, PAIRS)
    head = lake.head()
    with pytest.raises(AppError, match=r"(?s)412 .*without exactly one partner: (images|masks)/"):
        put_data(lake, tmp_path, contents)
    assert lake.head() == head


@needs_a_server
def test_names_that_differ_pass_the_gate_if_the_commit_says_so(lake: LakeFS, tmp_path: Path) -> None:
    renamed = {"imgs/a.jpg": b"a", "masks/a_mask.png": b"a"}
    with pytest.raises(AppError, match="without exactly one partner: masks/a_mask"):
        put_data(lake, tmp_path, renamed)
    put_data(lake, tmp_path, renamed, {**LINEAGE, **layout_metadata(renamed)})
    assert len(list(lake.objects("main", "data/"))) == 2


def test_layout_is_in_the_metadata_only_where_names_differ_and_all_pairs_are_complete() -> None:
    assert layout_metadata(PAIRS) == {} == layout_metadata(["images/a.png", "masks/a.png"])
    renamed = ["imgs/a.png", "imgs/b.png", "masks/a_mask.png", "masks/b_mask.png"]
    text = "imgs/ + masks/ + splits/ (mask NAME_mask belongs to image NAME)"
    assert layout_metadata(renamed) == {"data_layout": text}
    assert layout_metadata(["images/a.png", "masks/a_mask.png"]) != {}
    assert layout_metadata(renamed[1:]) == {}, "a mask without its image"


def test_gate_knows_the_suffixes_of_images() -> None:
    gate = (Path(server_setup.__file__).parents[1] / "_lakefs_actions/quality_gate.yaml").read_text()
    assert f"(?i:{'|'.join(suffix[1:] for suffix in IMAGE_SUFFIXES)})" in gate


@needs_a_server
def test_pair_broken_only_by_the_merge_is_refused(lake: LakeFS, tmp_path: Path) -> None:
    put_data(lake, tmp_path, PAIRS)
    lake.create_branch("older", lake.head())
    lake.connection.sdk.objects_api.delete_object(lake.repo, "older", "data/masks/a.png")
    lake.publisher.commit_staged("older", "half", LINEAGE)
    put_data(lake, tmp_path, {**PAIRS, "images/c.png": b"c", "masks/c.png": b"c"})  # main changes meanwhile
    with pytest.raises(AppError, match="1 image of data/ without exactly one partner: images/a"):
        lake.publisher.merge_into_target("older", "half", LINEAGE)


@needs_a_server
@pytest.mark.parametrize("key", ["git_commit", "mlflow_run_id"])
def test_merge_without_origin_metadata_is_refused(lake: LakeFS, tmp_path: Path, key: str) -> None:
    metadata = {name: value for name, value in LINEAGE.items() if name != key}
    with pytest.raises(AppError, match=f"the commit's metadata lacks {key}"):
        put_data(lake, tmp_path, PAIRS, metadata)
    assert next(lake.objects("main", "data/"), None) is None


@needs_a_server
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"finite": False}, "finite is not true"),
        ({"best_val_miou": None}, "best_val_miou is not from 0 to 1"),
        ({"best_val_accuracy": 85}, "best_val_accuracy is not from 0 to 1"),
        ({"mlflow_run_id": "other"}, "another run"),
        ({"model_sha256": "0" * 64}, "another model file"),
    ],
)
def test_metrics_that_do_not_match_the_model_are_refused(
    lake: LakeFS, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(AppError, match=words):
        put_model(lake, tmp_path, **changes)


@needs_a_server
@pytest.mark.parametrize(
    ("contents", "words"),
    [({"model.pth": b"m"}, "metrics.json is missing"), ({"metrics.json": b"NaN"}, "is not a JSON object")],
)
def test_model_without_readable_metrics_is_refused(
    lake: LakeFS, tmp_path: Path, contents: dict[str, bytes], words: str
) -> None:
    with pytest.raises(AppError, match=words):
        lake.publish(write_local_files(tmp_path, contents), "models/", "model", LINEAGE, mirror=False)


@needs_a_server
def test_model_below_the_configured_minimum_is_refused(lake: LakeFS, tmp_path: Path) -> None:
    server_setup.install_gate(lake, require_passed=True)
    put_model(lake, tmp_path)
    with pytest.raises(AppError, match="passed is not true"):
        put_model(lake, tmp_path, passed=False)


@needs_a_server
def test_main_accepts_merges_only(lake: LakeFS, tmp_path: Path) -> None:
    file = write_local_files(tmp_path, {"a": b"a"})["a"]
    with pytest.raises(AppError, match="403"):
        for _ in range(100):  # the server caches its settings for up to six seconds
            lake.upload("main", "data/notes.txt", file)
            time.sleep(0.1)
    with pytest.raises(AppError, match="403"):
        lake.publisher.commit_staged("main", "direct", LINEAGE)


@needs_a_server
def test_setup_is_idempotent_and_training_passes_the_gate(server: Server, tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", images=30)
    project.env = {
        "LAKEFS_ENDPOINT": server.endpoint,
        "LAKEFS_ACCESS_KEY_ID": server.access_key_id,
        "LAKEFS_SECRET_ACCESS_KEY": server.secret_access_key,
        "LAKEFS_STORAGE_NAMESPACE": server.storage_namespace,
        "LAKEFS_REPO": f"repo-{secrets.token_hex(6)}",
    }
    first, second = (project.run("lake.py", "setup") for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "installed the quality gate" in first.stdout and "only merges can change it" in first.stdout
    assert second.stdout.count("already") == 3
    trained = project.run("train.py", "--smoke")
    assert trained.returncode == 0, trained.stdout + trained.stderr
    metrics = json.loads((project.folder / "models/metrics.json").read_text())
    run = project.runs()[0]
    assert metrics["mlflow_run_id"] == run.info.run_id and metrics["model_sha256"] == run.data.tags["model_sha256"]
    assert metrics["finite"] and metrics["best_val_miou"] == run.data.metrics["best_val_miou"]
    assert metrics["passed"] == (metrics["best_val_miou"] >= metrics["threshold"])


@pytest.mark.skipif(bool(os.environ.get("LAKEFS_ENDPOINT")), reason="the named server has its first user")
@needs_a_server
def test_new_server_gets_its_first_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with servers.real(tmp_path, first_admin=False) as server:
        settings = settings_of(server)
        with connect(settings) as lake, pytest.raises(AppError, match="401"):
            lake.head()
        for _ in range(2):
            server_setup.create_first_admin(settings)
        with connect(settings, create=True) as lake:
            assert len(lake.head()) == 64
    shown = capsys.readouterr().out
    assert "created the first user, admin" in shown and "first user: exists already" in shown
    with pytest.raises(AppError, match="does not answer"):
        server_setup.create_first_admin(settings)


@pytest.mark.skipif(shutil.which("lakefs") is None, reason="no lakefs program")
def test_official_quickstart_is_supported(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", images=30)
    with servers.quickstart(tmp_path) as server:
        project.env = {
            "LAKEFS_ENDPOINT": server.endpoint,
            "LAKEFS_ACCESS_KEY_ID": server.access_key_id,
            "LAKEFS_SECRET_ACCESS_KEY": server.secret_access_key,
        }
        for command in (["lake.py", "setup"], ["train.py", "--smoke"]):
            done = project.run(*command)
            assert done.returncode == 0, done.stdout + done.stderr
        imported = project.run("-m", "utils.minio_utils", "import", "s3://bucket/prefix")
        assert imported.returncode == 2 and "stores its files on 'local': import needs S3" in imported.stderr


def test_embedded_server_needs_no_setup(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", images=0, git=False)
    done = project.run("lake.py", "setup")
    assert done.returncode == 0 and "nothing to do" in done.stdout, done.stderr
    assert not (project.folder / ".lakefs").exists()
