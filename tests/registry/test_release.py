"""Releases of promoted models: what they state, their signature, and what --require-signature refuses."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import subprocess
import sys
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementMessage

import infer
import register_model
from core.errors import AppError, UsageError
from core.hashing import file_sha256
from core.i18n import set_language
from registry.overview import overview
from registry.records import version_lineage
from tests.support.lab import Lab
from utils.lakefs_utils import LakePath
from utils.lineage import RELEASE_TAG, Lineage
from utils.run_names import CHAMPION
from versioning.provenance.card import model_card
from versioning.provenance.measurements import Measurements
from versioning.provenance.openlineage import run_event
from versioning.provenance.record import ModelRecord
from versioning.provenance.release import CARD, EVENT, STATEMENT, SigningKey, verified_release, write_release
from versioning.provenance.signing import SIGNATURE, make_key, sign_directory, verify_directory
from versioning.provenance.statement import require_same_origin, statement
from versioning.provenance.verdict import Verdict

RUN, COMMIT, GIT = "0123456789abcdef" * 2, "c" * 64, "d" * 40
HOSTILE = "<script>|alert(1)\n\n# x"


@pytest.fixture(autouse=True)
def _english() -> None:
    set_language("en")


def record(**changes: Any) -> ModelRecord:
    lineage = Lineage(
        run_id=RUN,
        version="cells v3",
        model_path=LakePath("repo", COMMIT, "models/model.pth"),
        model_sha256="a" * 64,
        data_path=LakePath("repo", "b" * 64, "data/"),
        git_commit=GIT,
        metrics={},
    )
    metrics = {
        "best_val_miou": 0.5,
        "best_val_accuracy": 0.9,
        "val_iou": {"cell": 0.5, HOSTILE: None},
        "val_classes": "1/2",
    }
    made = ModelRecord(
        name="cells",
        version="3",
        lineage=lineage,
        git={"git_remote": "https://example.org/cells.git", "git_patch_sha256": "e" * 64, "git_dirty": "true"},
        data_manifest_sha256="f" * 64,
        parameters={"epochs": "12", "model": "compact_fpn"},
        metrics=Measurements.parse(json.dumps(metrics), "metrics.json"),
        gate=Verdict(CHAMPION, (HOSTILE,), None, {}),
        started=datetime.fromisoformat("2026-01-02T03:04:05+00:00"),
        finished=datetime.fromisoformat("2026-01-02T04:04:05+00:00"),
    )
    return dataclasses.replace(made, **changes)


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    make_key(tmp_path / "key", None)
    return SigningKey(tmp_path / "key", None)


@pytest.fixture
def release(tmp_path: Path, key: SigningKey) -> Path:
    """A signed directory with a small file in place of the model."""
    model, folder = tmp_path / "model.pth", tmp_path / "release"
    model.write_bytes(bytes(range(256)))
    folder.mkdir()
    made = record()
    made = dataclasses.replace(made, lineage=dataclasses.replace(made.lineage, model_sha256=file_sha256(model)))
    write_release(folder, made, {"model.pth": model}, key)
    return folder


def test_the_statement_names_code_patch_data_and_products() -> None:
    made = statement(record(), {"model.pth": "a" * 64, "metrics.json": "b" * 64})
    parsed = json_format.Parse(json.dumps(made), StatementMessage())
    Statement.copy_from_pb(parsed).validate()
    predicate = json_format.Parse(json.dumps(made["predicate"]), Provenance())  # unknown fields are an error
    assert predicate.build_definition.build_type and predicate.run_details.builder.id
    assert {subject["name"] for subject in made["subject"]} == {"model.pth", "metrics.json"}
    build = made["predicate"]["buildDefinition"]
    assert {source["name"]: source["digest"] for source in build["resolvedDependencies"]} == {
        "code": {"gitCommit": GIT},
        "changes.patch": {"sha256": "e" * 64},
        "data": {"sha256": "f" * 64},
    }
    assert build["externalParameters"]["epochs"] == "12"
    assert made["predicate"]["runDetails"]["metadata"]["startedOn"] == "2026-01-02T03:04:05Z"


def test_the_event_has_what_openlineage_requires() -> None:
    for made in (record(), record(git={}), record(started=None, finished=None, parameters={})):
        event = run_event(made)
        assert {"eventTime", "producer", "schemaURL", "run", "job"} <= event.keys() and event["eventType"] == "COMPLETE"
        uuid.UUID(event["run"]["runId"])
        datetime.fromisoformat(event["eventTime"])
        facets = [*event["job"]["facets"].values(), *(f for d in event["inputs"] for f in d["facets"].values())]
        assert all({"_producer", "_schemaURL"} <= facet.keys() for facet in facets)
        for dataset in (*event["inputs"], *event["outputs"]):
            assert dataset["namespace"] == "lakefs://repo" and dataset["name"]
        assert all(re.match(r"[a-z+]+:", facet["_producer"]) for facet in facets)


def test_the_card_escapes_names_and_says_how_many_classes_a_mean_is_of(release: Path) -> None:
    card = (release / CARD).read_text(encoding="utf-8")
    assert "<script>" not in card and "\n# x" not in card
    assert "| val | 0.5000 | 1/2 | 0.9000 |" in card and GIT in card and "with uncommitted changes" in card


def test_the_card_has_the_calibration_where_it_was_measured() -> None:
    figures = {"val_iou": {}, "test_iou": {}, "temperature": 1.75, "val_ece": 0.01, "val_ece_uncalibrated": 0.125}
    card = model_card(record(metrics=Measurements.parse(json.dumps(figures), "metrics.json")), {})
    assert "divided by the temperature 1.75, which was fitted on val" in card
    assert "| val | 0.1250 | 0.0100 |" in card and "| test | not measured | not measured |" in card
    assert "class probabilities may be too confident" in model_card(record(), {})


def test_the_card_escapes_what_the_registry_says_of_the_promotion() -> None:
    hostile = "x\n\n# Approved\n<img src=y> [free](javascript:z)"
    compared = {"compared": 2, "split": hostile, "figure": hostile, "champion": 0.5, "gain": 0.1}
    gate = {
        **compared,
        "decision": CHAMPION,
        "against": hostile,
        "reasons": [hostile],
        "forced": {"by": hostile, "at": hostile, "why": hostile},
    }
    card = model_card(record(gate=Verdict.parse(json.dumps(gate), "gate")), {})
    assert "\n# Approved" not in card and "<img" not in card and not re.search(r"(?<!\\)\[free", card)


def test_each_flipped_byte_of_each_file_is_refused(release: Path, key: SigningKey) -> None:
    public = key.path.with_name("key.pub")
    lineage = dataclasses.replace(record().lineage, model_sha256=file_sha256(release / "model.pth"))
    verify_directory(release, public)
    require_same_origin((release / STATEMENT).read_bytes(), lineage)
    files, generator, refused = sorted(release.iterdir()), random.Random(14), 0
    assert {file.name for file in files} == {"model.pth", STATEMENT, EVENT, CARD, SIGNATURE}
    for number in range(100):
        file = files[number % len(files)]
        content = file.read_bytes()
        place = generator.randrange(len(content))
        changed = bytearray(content)
        changed[place] ^= 1 << generator.randrange(8)
        file.unlink()  # a hard link of the original
        file.write_bytes(changed)
        with pytest.raises(AppError):
            verify_directory(release, public)
        refused += 1
        file.write_bytes(content)
    assert refused == 100
    verify_directory(release, public)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "evil.py").write_text("x"),
        lambda folder: (folder / CARD).unlink(),
        lambda folder: (folder / SIGNATURE).write_text("{}"),
        lambda folder: (folder / SIGNATURE).write_bytes(b"\xff\0"),
    ],
    ids=["added", "removed", "empty signature", "no JSON"],
)
def test_added_removed_and_damaged_files_are_refused(
    release: Path, key: SigningKey, change: Callable[[Path], object]
) -> None:
    change(release)
    with pytest.raises(AppError, match="does not fit key"):
        verify_directory(release, key.path.with_name("key.pub"))


def test_another_key_and_unusable_keys_are_named(release: Path, key: SigningKey, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other", None)
    with pytest.raises(AppError, match="does not fit key"):
        verify_directory(release, other)
    for wrong in (key.path, release / CARD, tmp_path / "missing"):
        with pytest.raises(UsageError, match="not a public key"):
            verify_directory(release, wrong)
        if wrong != key.path:
            with pytest.raises(UsageError, match="not a usable private key"):
                sign_directory(release, wrong, None)
    with pytest.raises(UsageError, match="a key is never replaced"):
        make_key(key.path, None)
    assert key.path.stat().st_mode & 0o777 == 0o600


def test_an_encrypted_key_needs_its_password(release: Path, tmp_path: Path) -> None:
    public = make_key(tmp_path / "locked", "correct horse")
    for password in (None, "wrong"):
        with pytest.raises(UsageError, match="not a usable private key"):
            sign_directory(release, tmp_path / "locked", password)
    (release / SIGNATURE).unlink()
    sign_directory(release, tmp_path / "locked", "correct horse")
    verify_directory(release, public)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_sha256": "0" * 64},
        {"data_path": LakePath("repo", "0" * 64, "data/")},
        {"git_commit": "0" * 40},
        {"version": "cells v4"},
        {"run_id": "f" * 32},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_registry_that_names_something_else_is_refused(release: Path, changes: dict[str, Any]) -> None:
    lineage = dataclasses.replace(record().lineage, model_sha256=file_sha256(release / "model.pth"))
    with pytest.raises(AppError, match="one of them was changed"):
        require_same_origin((release / STATEMENT).read_bytes(), dataclasses.replace(lineage, **changes))


def test_statements_of_another_kind_are_refused() -> None:
    for content in (b"", b"[]", b"{}", b'{"subject": 3, "predicate": {}}'):
        with pytest.raises(AppError, match="not one of a model"):
            require_same_origin(content, record().lineage)


def test_a_promotion_publishes_a_release_that_both_verifiers_accept(
    lab: Lab, key: SigningKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = lab.data(["t"], [f"v{i}" for i in range(12)])
    lab.settings = dataclasses.replace(lab.settings, signing_key=key.path)
    number = str(lab.promotion.register(lab.run(0.8, data)).version)
    assert lab.aliases()["champion"] == number
    path = LakePath.parse(lab.tags(number)[RELEASE_TAG])
    lineage, cache = version_lineage(lab.registry.find(f"{lab.name}/{number}")), tmp_path / "cache"
    public = key.path.with_name("key.pub")
    folder = verified_release(lab.lake, path, public, lineage, cache)
    command = ["-m", "model_signing", "verify", "key", str(folder), "--signature", str(folder / SIGNATURE)]
    done = subprocess.run(
        [sys.executable, *command, "--public_key", str(public)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    stated = json.loads((folder / STATEMENT).read_bytes())
    assert stated["subject"][0]["digest"]["sha256"] == lineage.model_sha256
    for name, value in lab.environment().items():
        monkeypatch.setenv(name, value)
    predict = ["--require-signature", str(public), "--output", str(tmp_path / "out")]
    assert infer.main(predict) == 0 and len(list((tmp_path / "out").glob("*.png"))) == 12
    lab.client.set_model_version_tag(lab.name, number, "git_commit", "1" * 40)
    with pytest.raises(AppError, match="one of them was changed"):
        infer.main(predict)


@pytest.mark.parametrize("tag", ["git_commit", "lakefs_data_path", "run_id"])
def test_a_version_whose_tags_were_changed_is_not_signed(lab: Lab, key: SigningKey, tag: str) -> None:
    data, other = lab.data(["t"], [f"v{i}" for i in range(12)]), lab.data(["t", "u"], [f"v{i}" for i in range(12)])
    lab.settings = dataclasses.replace(lab.settings, signing_key=key.path)
    number = str(lab.promotion.register(lab.run(0.8, data)).version)
    first = lab.tags(number)[RELEASE_TAG]
    value = {"git_commit": "1" * 40, "lakefs_data_path": str(other), "run_id": "f" * 32}[tag]
    lab.client.set_model_version_tag(lab.name, number, tag, value)
    if tag == "run_id":  # MLflow's own record of the run counts, which nobody can change
        lab.promotion.rollback(lab.registry.find(f"{lab.name}/{number}"))
        return
    with pytest.raises(AppError, match=f"the metadata of its commit say {tag} .* not signed"):
        lab.promotion.rollback(lab.registry.find(f"{lab.name}/{number}"))
    assert lab.tags(number)[RELEASE_TAG] == first and lab.aliases()["champion"] == number


@pytest.mark.parametrize("text", ["{", "[]", "3", "[" * 100_000])
def test_a_verdict_that_is_no_record_is_one_line(lab: Lab, text: str) -> None:
    data = lab.data(["t"], [f"v{i}" for i in range(12)])
    number = str(lab.promotion.register(lab.run(0.8, data)).version)
    lab.client.set_model_version_tag(lab.name, number, "gate", text[:4000])
    with pytest.raises(AppError, match=f"v{number}: tag gate: .*judge the run again by --run-id"):
        overview(lab.registry)


def test_an_unsigned_release_is_refused_with_the_cure(lab: Lab, key: SigningKey, tmp_path: Path) -> None:
    data = lab.data(["t"], [f"v{i}" for i in range(12)])
    number = str(lab.promotion.register(lab.run(0.8, data)).version)
    lineage, public = version_lineage(lab.registry.find(f"{lab.name}/{number}")), key.path.with_name("key.pub")
    with pytest.raises(AppError, match=f"is not signed: run SIGNING_KEY=KEY register_model.py --rollback {number}"):
        verified_release(lab.lake, LakePath.parse(lab.tags(number)[RELEASE_TAG]), public, lineage, tmp_path)
    lab.settings = dataclasses.replace(lab.settings, signing_key=key.path)
    lab.promotion.rollback(lab.registry.find(f"{lab.name}/{number}"))
    path = LakePath.parse(lab.tags(number)[RELEASE_TAG])
    assert (verified_release(lab.lake, path, public, lineage, tmp_path) / SIGNATURE).is_file()


@pytest.mark.parametrize("problem", ["missing", "password"])
def test_an_unusable_key_is_refused_before_anything_is_registered(
    lab: Lab, key: SigningKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: str
) -> None:
    lab.run(0.8, lab.data(["t"], [f"v{i}" for i in range(12)]))
    for name, value in lab.environment().items():
        monkeypatch.setenv(name, value)
    chosen = key.path
    if problem == "missing":
        chosen = tmp_path / "typo.pem"
    else:
        monkeypatch.setenv("SIGNING_KEY_PASSWORD", "hush-hush")  # the key is not encrypted
    with pytest.raises(UsageError, match=f"SIGNING_KEY={chosen}: not a usable private key") as caught:
        register_model.main(["--signing-key", str(chosen)])
    assert "hush" not in str(caught.value)
    assert not lab.client.search_model_versions(f"name='{lab.name}'")


def test_an_encrypted_key_signs_with_its_password(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.run(0.8, lab.data(["t"], [f"v{i}" for i in range(12)]))
    for name, value in {**lab.environment(), "SIGNING_KEY_PASSWORD": "hush-hush"}.items():
        monkeypatch.setenv(name, value)
    key = tmp_path / "team.key"
    assert register_model.main(["--make-signing-key", str(key)]) == 0
    assert b"ENCRYPTED" in key.read_bytes()
    assert register_model.main(["--signing-key", str(key)]) == 0
    public = ["--require-signature", f"{key}.pub", "--output", str(tmp_path / "out")]
    assert infer.main(public) == 0


def test_a_name_too_long_for_its_overlay_is_a_fault_of_one_image(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.promotion.register(lab.run(0.8, lab.data(["t"], [*(f"v{i}" for i in range(12)), "n" * 246])))
    for name, value in lab.environment().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(AppError, match="a name of at most 243 bytes"):
        infer.main(["--output", str(tmp_path / "out")])
    assert len(list((tmp_path / "out").glob("*.png"))) == 12


def test_the_command_makes_a_key_pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert register_model.main(["--make-signing-key", str(tmp_path / "team.key")]) == 0
    assert "team.key.pub" in capsys.readouterr().out
    assert (tmp_path / "team.key.pub").read_text().startswith("-----BEGIN PUBLIC KEY-----")
