"""The life of a model: registered, refused, promoted, rolled back; registrations that were cut off; the gate itself."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import UsageError
from dataset.classes import ClassMap
from registry import promotion
from registry.gate import class_minimum, gain_interval
from registry.promotion import Promotion
from registry.versions import Registry
from segmentation.evaluation import EvaluationResult
from tests.life import NAME, REPO, Life
from utils import local_lakefs, mlflow_utils
from utils.lakefs_utils import LakeFS


@pytest.fixture
def lake(life: Life) -> Iterator[LakeFS]:
    with local_lakefs.start(life.project.folder / ".lakefs") as server:
        yield LakeFS(server.endpoint, server.access_key_id, server.secret_access_key, REPO, "main")


def test_the_life_of_a_model(life: Life) -> None:
    said = life.said
    assert said["first"].returncode == 0, said["first"].stderr
    assert said["worse"].returncode == 3, said["worse"].stdout + said["worse"].stderr
    assert "challenger: image-segmentation v2" in said["worse"].stdout
    assert re.search(r"  - miou [\d.]+, champion [\d.]+: gain -", said["worse"].stdout)
    assert said["better"].returncode == 0 and "champion: image-segmentation v3" in said["better"].stdout
    assert "on the same 16 images of val" in said["better"].stdout
    assert said["back"].returncode == 0 and "champion: image-segmentation v1" in said["back"].stdout
    assert said["infer"].returncode == 0 and "model: image-segmentation v1" in said["infer"].stdout
    assert life.project.predictions()["model_version"] == "image-segmentation v1"


def gate_of(life: Life, version: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(life.project.mlflow().get_model_version(NAME, version).tags["gate"])
    return content


def test_the_verdicts_are_kept(life: Life) -> None:
    gates = [gate_of(life, version) for version in "123"]
    assert [gate["decision"] for gate in gates] == ["champion", "challenger", "champion"]
    assert [gate["against"] for gate in gates] == [None, "1", "1"]
    assert gates[1]["gain"] < 0 and gates[1]["reasons"] and not gates[2]["reasons"]
    low, high = gates[2]["interval"]
    assert 0 < low <= gates[2]["gain"] <= high
    run = life.project.mlflow().get_run(life.runs["better"])
    assert gates[2]["candidate"] == pytest.approx(run.data.metrics["best_val_miou"], abs=1e-4), "measured again"
    assert run.data.tags["registered_version"] == "image-segmentation v3"


def test_a_promotion_has_its_tag_in_lakefs(life: Life, lake: LakeFS) -> None:
    tags = {tag: commit for tag, commit in lake.list_refs("tags") if tag.startswith(f"model-{NAME}-")}
    assert set(tags) == {f"model-{NAME}-v1", f"model-{NAME}-v3"}, "a challenger has none"
    version = life.project.mlflow().get_model_version(NAME, "3")
    commit = lake.connection.sdk.commits_api.get_commit(REPO, tags[f"model-{NAME}-v3"])
    assert commit.parents == [version.tags["lakefs_model_commit"]] and version.tags["lakefs_tag"] == f"model-{NAME}-v3"
    assert commit.metadata["model_version"] == "3" and commit.metadata["mlflow_run_id"] == life.runs["better"]
    assert commit.metadata["git_commit"] == life.project.git("rev-parse", "HEAD")
    assert [f.sha256 for f in lake.objects(commit.id, "models/model.pth")] == [version.tags["model_sha256"]]
    assert [name for name, _ in lake.list_refs("branches")] == ["main"]


def test_list_and_the_next_plain_call(life: Life) -> None:
    life.do("list", "register_model.py", "--list")
    rows = [line.split() for line in life.said["list"].stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == ["v3", "v2", "v1"]
    assert "rolled back" in life.said["list"].stdout and rows[1][1] == "challenger" and rows[2][1] == "champion"
    life.do("again", "register_model.py")
    assert life.said["again"].returncode == 0 and "already registered" in life.said["again"].stdout
    assert life.champion() == "1", "what was rolled back does not come back unasked"
    life.do("nothing", "register_model.py", "--rollback")
    assert life.said["nothing"].returncode == 2 and "replaced no champion" in life.said["nothing"].stderr


def test_a_rolled_back_version_comes_back_by_force_alone_with_who_and_why(life: Life) -> None:
    life.do("asked", "register_model.py", "--run-id", life.runs["better"])
    assert life.said["asked"].returncode == 3 and "taken out of use" in life.said["asked"].stdout
    assert life.champion() == "1"
    life.do("forced", "register_model.py", "--run-id", life.runs["better"], "--force", "the night shift needs it")
    assert life.said["forced"].returncode == 0, life.said["forced"].stderr
    forced = gate_of(life, "3")["forced"]
    assert forced["why"] == "the night shift needs it" and "@" in forced["by"] and forced["at"].startswith("20")
    assert life.champion() == "3"
    life.do("back again", "register_model.py", "--rollback", "v1")
    assert life.champion() == "1"


def test_versions_are_chosen_from_the_table(life: Life) -> None:
    """The table has the newest version first: 1 is v3, 3 is v1."""
    project, output = life.project, life.project.folder / "compared"
    compared = project.run("register_model.py", "--manual", "--compare", "--output", str(output), answers="9\n1\n3\n")
    assert compared.returncode == 0 and f"A: {NAME} v3, B: {NAME} v1" in compared.stdout, compared.stderr
    (sheet,) = output.glob("*/compare.png")
    assert sheet.read_bytes().startswith(b"\x89PNG")
    nobody = project.run("register_model.py", "--manual", "--rollback")
    assert nobody.returncode == 0 and "nothing chosen" in nobody.stdout and life.champion() == "1"
    forth = project.run("register_model.py", "--manual", "--rollback", answers="1\n")
    assert forth.returncode == 0 and life.champion() == "3", forth.stderr
    back = project.run("register_model.py", "--manual", "--rollback", answers="3\n")
    assert back.returncode == 0 and life.champion() == "1", back.stderr


STEPS = ("tag_model_commit", "set_alias", "set_tag")


@pytest.mark.parametrize("step", STEPS)
def test_a_registration_that_is_cut_off_is_finished_by_the_next_call(
    life: Life, lake: LakeFS, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(life.settings, registered_model=f"cut-in-{step}")
    client = mlflow_utils.connect(settings)
    run = client.get_run(life.runs["better"])

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(promotion if step == "tag_model_commit" else Registry, step, cut)
        with pytest.raises(KeyboardInterrupt):
            Promotion(Registry(client, settings), lake).register(run)
    (version,) = Registry(client, settings).versions()
    assert version.tags["registration"] == "pending"
    assert [v.version for v in Promotion(Registry(client, settings), lake).finish_pending()] == [version.version]
    assert Registry(client, settings).aliases() == {"champion": str(version.version)}
    done = client.get_model_version(version.name, str(version.version))
    assert done.tags["registration"] == "done" and done.tags["lakefs_tag"] in dict(lake.list_refs("tags"))
    assert Promotion(Registry(client, settings), lake).finish_pending() == []


def test_conditions_and_a_champion_that_changes_meanwhile(life: Life, lake: LakeFS) -> None:
    settings = life.settings
    client = mlflow_utils.connect(settings)
    strict = dataclasses.replace(
        settings,
        register_min_class_iou="0.0 background=0.999",
        register_max_mb=0.1,
        register_max_ms=1e-6,
        register_min_gain=0.99,
    )
    run = client.get_run(life.runs["worse"])
    Promotion(Registry(client, strict), lake).register(run)
    reasons = " | ".join(gate_of(life, "2")["reasons"])
    for part in ("class background: IoU", "model file", "ms a picture", "needed more than 0.9900"):
        assert part in reasons
    gate = gate_of(life, "2") | {"decision": "champion", "against": "77"}
    client.set_model_version_tag(NAME, "2", "gate", json.dumps(gate))
    Promotion(Registry(client, settings), lake).finish(client.get_model_version(NAME, "2"))
    assert "the champion changed from v77 to v1" in gate_of(life, "2")["reasons"][-1] and life.champion() == "1"


def test_a_figure_that_is_not_found_again_speaks_against_the_model(life: Life, lake: LakeFS) -> None:
    client = mlflow_utils.connect(life.settings)
    run = client.get_run(life.runs["worse"])
    run.data.metrics["best_val_miou"] = 0.9
    Promotion(Registry(client, life.settings), lake).register(run)
    assert any("0.9000 was not found again" in reason for reason in gate_of(life, "2")["reasons"])


# --- the gate's arithmetic ------------------------------------------------------------------------------------------


def measured(counts: np.ndarray) -> EvaluationResult:
    classes = ClassMap((0, 1), ("a", "b"), ((0, 0, 0), (1, 1, 1)))
    return EvaluationResult(tuple(map(str, range(len(counts)))), classes, counts.astype(np.int64), 1.0)


def test_resampling_gives_the_figures_of_the_confusion_matrix() -> None:
    random = np.random.default_rng(1)
    counts = random.integers(0, 50, (7, 3, 3))
    counts[:, 2] = 0  # the class that stands for what the data do not know is never a label
    model = measured(counts)
    for figure in ("miou", "accuracy"):
        assert model.resampled(figure, np.ones((1, 7), np.int64))[0] == pytest.approx(model.metric(figure))
        twice = np.array([[2, 0, 1, 0, 0, 0, 4]])
        repeated = measured(np.concatenate([counts[[0, 0, 2]], counts[[6] * 4]]))
        assert model.resampled(figure, twice)[0] == pytest.approx(repeated.metric(figure))


def test_the_interval_holds_the_gain_and_tells_chance_from_gain() -> None:
    random = np.random.default_rng(2)
    old = random.integers(20, 60, (50, 3, 3))
    old[:, 2] = 0
    new = old.copy()
    new[:, 0, 0] += 30  # every picture is a little better
    low, high = gain_interval(measured(old), measured(new), "miou", 0.95)
    gain = measured(new).metric("miou") - measured(old).metric("miou")
    assert 0 < low < gain < high
    assert gain_interval(measured(old), measured(new), "miou", 0.95) == (low, high), "the same call, the same interval"
    one = old.copy()
    one[0, 0, 0] += 500  # one picture alone is better
    low, _ = gain_interval(measured(old), measured(one), "miou", 0.95)
    assert low <= 0 < measured(one).metric("miou") - measured(old).metric("miou")


def test_minimum_of_classes() -> None:
    names = ("road", "car")
    assert class_minimum(None, names) == {}
    assert class_minimum("0.2", names) == {"road": 0.2, "car": 0.2}
    assert class_minimum("road=0.5, 0.1", names) == {"road": 0.5, "car": 0.1}
    for wrong in ("raod=0.5", "raod=0", "2", "x", "road="):
        with pytest.raises(UsageError, match="REGISTER_MIN_CLASS_IOU"):
            class_minimum(wrong, names)


def test_wrong_use(life: Life, tmp_path: Path) -> None:
    for arguments, text in (
        (["--compare", "1"], "--compare takes A and B"),
        (["--force", " "], "--force needs a reason"),
        (["--rollback", "9"], "'image-segmentation/9' is not registered"),
        (["--manual", "--run-id", "x"], "not allowed with"),
    ):
        done = life.project.run("register_model.py", *arguments)
        assert done.returncode == 2 and text in done.stderr, done.stderr
