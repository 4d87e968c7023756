"""An ensemble is registered, released, signed, downloaded, traced and predicted with as one model, by one path and one hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import secrets
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow.entities import Run

import infer
from core.errors import AppError, UsageError
from core.hashing import file_sha256
from lineage import trace
from registry.records import version_lineage
from segmentation import evaluation, predictor
from segmentation.model_file import load_model
from tests.support.ensembles import make_members, publish_ensemble, write_ensemble
from tests.support.lab import CPU, SIDE, Lab, road_and_car
from utils import mlflow_lakefs, mlflow_utils
from utils.ensemble_file import ENSEMBLE_FILE, Ensemble, Member, read_ensemble
from utils.identifiers import Sha256
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import LakePath
from utils.lineage import RELEASE_TAG, Lineage
from utils.servers import Servers
from versioning import status, sync
from versioning.lockfile import Lock
from versioning.naming import results
from versioning.provenance.release import CARD, STATEMENT, SigningKey, verified_release
from versioning.provenance.signing import make_key
from versioning.pulling import model_copy

FILES = {ENSEMBLE_FILE, "fold-1.pth", "fold-2.pth"}


@pytest.fixture
def members(tmp_path: Path) -> Path:
    """The files of an ensemble of two networks for the classes of the lab."""
    lineage = {"git_commit": "none", "unique": secrets.token_hex(8)}  # the labs share one MLflow
    models = [replace(model, classes=road_and_car(), lineage=lineage) for model in make_members(2, (SIDE, SIDE))]
    return write_ensemble(tmp_path / "trained", models)


@pytest.fixture
def data(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> LakePath:
    monkeypatch.setattr(evaluation, "segment", predictor.segment)
    for name, value in lab.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DEVICE", "cpu")
    mlflow_lakefs.register()
    return lab.data(["t"], [f"v{i}" for i in range(12)])


@pytest.fixture
def run(lab: Lab, data: LakePath, members: Path) -> Run:
    """A run whose members each held out every other image of the data."""
    images = [hashlib.sha256(image).hexdigest() for image, _ in lab.made.values()]
    found = read_ensemble(members).members
    parts = (replace(member, held_out=tuple(images[place::2])) for place, member in enumerate(found))
    members.write_bytes(Ensemble(tuple(parts)).to_json())
    return publish_ensemble(lab, data, members)


def lineage_of(run: Run) -> Lineage:
    return mlflow_utils.run_lineage(run)


def test_the_members_come_with_the_ensemble_and_are_verified(lab: Lab, run: Run, tmp_path: Path) -> None:
    lineage = lineage_of(run)
    file = lab.lake.verified_file(lineage.model_path, lineage.model_sha256, tmp_path / "cache")
    assert {path.name for path in file.parent.iterdir()} == FILES
    assert len(load_model(file, lineage.model_sha256, CPU).members) == 2
    member = file.with_name("fold-2.pth")
    member.chmod(0o600)
    member.write_bytes(b"damaged")
    again = lab.lake.verified_file(lineage.model_path, lineage.model_sha256, tmp_path / "cache")
    assert load_model(again, lineage.model_sha256, CPU), "a damaged member is downloaded again"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: Ensemble((e.members[0], Member("fold-2.pth", "0" * 64))), "fold-2.pth: SHA-256 differs from its record"),
        (lambda e: Ensemble((*e.members, Member("fold-3.pth", "0" * 64))), "fold-3.pth: no such file"),
    ],
)  # fmt: skip
def test_a_download_without_the_right_members_is_refused(
    lab: Lab, data: LakePath, members: Path, tmp_path: Path, change: object, message: str
) -> None:
    assert callable(change)
    content: bytes = change(read_ensemble(members)).to_json()
    refuse_download(lab, members, content, message, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", "ensemble.json: format: expected 1, found nothing"),
        (b'{"format":1,"members":[{"file":"../x.pth","sha256":"' + b"0" * 64 + b'"}]}', "members 1: file of a member: expected letters"),
        (b'{"format":1,"members":[{"file":"ensemble.json","sha256":"' + b"0" * 64 + b'"}]}', "members 1: file of a member"),
        (b'{"format":1,"members":' + b"[" + b",".join([b"0"] * 1000) + b"]}", "expected 1 to 100 members, found 1000"),
    ],
)  # fmt: skip
def test_a_hostile_ensemble_in_lakefs_is_refused(
    lab: Lab, data: LakePath, members: Path, tmp_path: Path, content: bytes, message: str
) -> None:
    refuse_download(lab, members, content, message, tmp_path)


def refuse_download(lab: Lab, members: Path, content: bytes, message: str, tmp_path: Path) -> None:
    members.write_bytes(content)
    names = [ENSEMBLE_FILE, "fold-1.pth", "fold-2.pth"]
    files = {name: LocalFile(members.with_name(name), file_sha256(members.with_name(name))) for name in names}
    commit = lab.lake.publish(files, "models/", "model", {}, mirror=False).commit_id
    path = LakePath(lab.lake.repo, commit, f"models/{ENSEMBLE_FILE}")
    with pytest.raises(AppError, match=message) as caught:
        lab.lake.verified_file(path, file_sha256(members), tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_a_promoted_ensemble_is_one_version_and_its_signed_release_has_all_members(
    lab: Lab, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_key(tmp_path / "key", None)
    key, public = SigningKey(tmp_path / "key", None), tmp_path / "key.pub"
    lab.settings = dataclasses.replace(lab.settings, signing_key=key.path)
    version = lab.promotion.register(run)
    lineage = version_lineage(lab.registry.find(f"{lab.name}/{version.version}"))
    assert lineage.model_path.path == f"models/{ENSEMBLE_FILE}" and lab.aliases()["champion"] == "1"
    size = sum((Path(tmp_path / "trained") / name).stat().st_size for name in FILES)
    assert json.loads(lab.tags("1")["gate"])["megabytes"] == round(size / 1e6, 3), "the sum of the members"
    folder = verified_release(lab.lake, LakePath.parse(lab.tags("1")[RELEASE_TAG]), public, lineage, tmp_path / "c")
    stated = {one["name"]: one["digest"]["sha256"] for one in json.loads((folder / STATEMENT).read_bytes())["subject"]}
    assert stated.keys() >= FILES and stated[ENSEMBLE_FILE] == lineage.model_sha256
    assert all(name in (folder / CARD).read_text() for name in FILES)
    out = tmp_path / "out"
    assert infer.main(["--require-signature", str(public), "--output", str(out)]) == 0
    listing = json.loads((out / "predictions.json").read_bytes())
    assert [row["file"] for row in listing["ensemble"]] == ["fold-1.pth", "fold-2.pth"]
    assert listing["ensemble"][0]["sha256"] == stated["fold-1.pth"]
    loaded = mlflow.pyfunc.load_model(f"models:/{lab.name}@champion")
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    assert loaded.predict(pixels).shape == (SIDE, SIDE)
    assert trace.trace(lab.settings, lab.lake, lab.client, str(out)), "the chain of a prediction is intact"


def test_the_limit_of_the_size_counts_all_members(lab: Lab, run: Run, members: Path) -> None:
    lab.settings = dataclasses.replace(
        lab.settings, register_max_mb=1.5 * members.with_name("fold-1.pth").stat().st_size / 1e6
    )
    lab.promotion.register(run)
    assert "model file" in lab.reasons("1") and lab.aliases() == {"challenger": "1"}


def test_each_member_is_in_the_trace(lab: Lab, run: Run, members: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for target in (run.info.run_id, str(members), str(members.with_name("fold-2.pth"))):
        capsys.readouterr()
        assert trace.trace(lab.settings, lab.lake, lab.client, target)
        report = capsys.readouterr().out
        assert "models/fold-1.pth" in report and "models/fold-2.pth" in report, target
    members.with_name("fold-2.pth").write_bytes(b"other")
    assert not trace.trace(lab.settings, lab.lake, lab.client, str(members.with_name("fold-2.pth")))
    assert "fold-2.pth_sha256: says" in capsys.readouterr().out


def test_a_member_that_is_not_the_one_of_the_ensemble_is_a_fault(
    lab: Lab, data: LakePath, members: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_ensemble(members.parent / "other", [replace(make_members(3)[2], classes=road_and_car())])
    ensemble = read_ensemble(members)
    run = publish_ensemble(lab, data, members)
    changed = LocalFile(other.with_name("fold-1.pth"), ensemble.members[1].sha256)
    changed = LocalFile(changed.path, file_sha256(changed.path))
    commit = lab.lake.publish({"fold-2.pth": changed}, "models/", "changed", {}, mirror=False).commit_id
    path = LakePath(lab.lake.repo, commit, f"models/{ENSEMBLE_FILE}")
    moved = lab.client.create_run(run.info.experiment_id).info.run_id
    lab.client.log_param(moved, "lakefs_model_path", str(path))
    lab.client.log_param(moved, "lakefs_data_path", str(data))
    lab.client.set_tag(moved, "model_sha256", file_sha256(members))
    lab.client.set_terminated(moved)
    assert not trace.trace(lab.settings, lab.lake, lab.client, moved)
    assert "models/ensemble.json: SHA-256 expected" in capsys.readouterr().out


def test_the_lock_brings_all_members_and_status_names_the_one_that_differs(
    lab: Lab, run: Run, data: LakePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lineage = lineage_of(run)
    settings = dataclasses.replace(lab.settings, data_dir=tmp_path / "data", model_path=tmp_path / "m/model.pth")
    lock = Lock(data, Sha256("0" * 64), lineage.model_path, Sha256(lineage.model_sha256), lineage.run_id)  # type: ignore[arg-type]
    model = model_copy.locked_model(settings, lab.lake, lock)
    sync._copy_model(settings, lock, model)
    assert {path.name for path in (tmp_path / "m").iterdir()} == FILES
    assert not list(status._lock_against_files(settings, lock, {}))[1:], "only the data differ"
    member = tmp_path / "m/fold-1.pth"
    member.write_bytes(b"an own file")
    assert f"differs from {member} (another file)" in list(status._lock_against_files(settings, lock, {}))[1]
    assert model_copy.model_at_risk(lab.lake, lock, model, settings.cache_dir) == ["fold-1.pth"]
    member.unlink()
    assert f"differs from {member} (missing)" in list(status._lock_against_files(settings, lock, {}))[1]


def test_a_tag_in_lakefs_names_the_ensemble(lab: Lab, run: Run, tmp_path: Path) -> None:
    lineage = lineage_of(run)
    lab.lake.set_tag("v9.0-acc1", lineage.model_path.commit)
    found = results.find_tag(Servers(lab.settings, client=lab.client, lake=lab.lake), "v9.0-acc1")
    assert found is not None and found.lineage is not None and found.lineage.model_path == lineage.model_path


def test_a_local_ensemble_predicts_and_a_wrong_name_is_suggested(
    lab: Lab, data: LakePath, members: Path, tmp_path: Path
) -> None:
    from PIL import Image

    Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(tmp_path / "one.png")
    out, images = tmp_path / "out", str(tmp_path / "one.png")
    assert infer.main(["--model", str(members), "--input", images, "--output", str(out), "--tta"]) == 0
    listing = json.loads((out / "predictions.json").read_bytes())
    assert listing["model_sha256"] == file_sha256(members) and len(listing["ensemble"]) == 2
    with pytest.raises(UsageError, match=r"a directory, not a model file: did you mean .*ensemble.json\?"):
        infer.main(["--model", str(members.parent), "--input", images, "--output", str(out)])


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_the_export_is_one_file_with_the_logits_of_the_ensemble(kind: str, members: Path, tmp_path: Path) -> None:
    if kind == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)
    from inference.export import _write_and_load, largest_difference

    model = load_model(members, file_sha256(members), CPU)
    folder = tmp_path / "export"
    folder.mkdir()
    exported = _write_and_load(model, kind, folder / "file")
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert largest_difference(model, exported) <= 1e-4
    single = load_model(members.with_name("fold-1.pth"), file_sha256(members.with_name("fold-1.pth")), CPU)
    images = torch.randn(1, 3, 32, 48)
    with torch.inference_mode():
        assert (exported(images) - single.network(images)).abs().max() > 1e-3


def test_mlflow_ignores_the_files_of_an_earlier_model(lab: Lab, data: LakePath, members: Path, tmp_path: Path) -> None:
    """models/ in lakeFS has model.pth of an earlier run beside the ensemble: MLmodel says which of them it is."""
    lab.run(0.9, data)
    run = publish_ensemble(lab, data, members)
    uri = str(lineage_of(run).model_path).rpartition("/")[0]
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    assert mlflow.pyfunc.load_model(uri).predict(pixels).shape == (SIDE, SIDE)
