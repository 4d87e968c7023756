"""Model registry: register, refuse, promote, roll back; interrupted registrations; the arithmetic of the gate."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from core.errors import UsageError
from dataset.classes import ClassMap
from registry import promotion
from registry.judging.reasons import check_gain, class_minimums
from registry.promotion import Promotion
from registry.versions import Registry
from segmentation.evaluation import EvaluationResult, metric_of_counts
from segmentation.intervals import MIN_GROUPS, gain_interval
from tests.support.lifecycle import NAME, REPO, Lifecycle
from tests.support.project import SOURCE
from utils import local_lakefs, mlflow_utils
from utils.lakefs_utils import LakeFS


@pytest.fixture
def lake(lifecycle: Lifecycle) -> Iterator[LakeFS]:
    with local_lakefs.start(lifecycle.project.folder / ".lakefs") as server:
        yield LakeFS(server.endpoint, server.access_key_id, server.secret_access_key, REPO, "main")


def test_scripts_promote_refuse_and_roll_back(lifecycle: Lifecycle) -> None:
    results = lifecycle.results
    assert results["first"].returncode == 0, results["first"].stderr
    assert results["worse"].returncode == 3, results["worse"].stdout + results["worse"].stderr
    assert "challenger: image-segmentation v2" in results["worse"].stdout
    assert re.search(r"  - miou [\d.]+, champion [\d.]+: gain -", results["worse"].stdout)
    assert results["better"].returncode == 0 and "champion: image-segmentation v3" in results["better"].stdout
    assert "on the same 16 images of val" in results["better"].stdout
    assert results["rollback"].returncode == 0 and "champion: image-segmentation v1" in results["rollback"].stdout
    assert results["infer"].returncode == 0 and "model: image-segmentation v1" in results["infer"].stdout
    assert lifecycle.project.predictions()["model_version"] == "image-segmentation v1"


def gate_of(lifecycle: Lifecycle, version: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(lifecycle.project.mlflow().get_model_version(NAME, version).tags["gate"])
    return content


def test_the_gate_stores_its_verdict_and_interval(lifecycle: Lifecycle) -> None:
    gates = [gate_of(lifecycle, version) for version in "123"]
    assert [gate["decision"] for gate in gates] == ["champion", "challenger", "champion"]
    assert [gate["against"] for gate in gates] == [None, "1", "1"]
    assert gates[1]["gain"] < 0 and gates[1]["reasons"] and not gates[2]["reasons"]
    low, high = gates[2]["interval"]
    assert 0 < low <= gates[2]["gain"] <= high
    run = lifecycle.project.mlflow().get_run(lifecycle.runs["better"])
    assert gates[2]["candidate"] == pytest.approx(run.data.metrics["best_val_miou"], abs=1e-4), (
        "the gate measures again"
    )
    assert run.data.tags["registered_version"] == "image-segmentation v3"


def test_the_pages_of_mlflow_describe_and_link_run_model_and_version(lifecycle: Lifecycle) -> None:
    client = lifecycle.project.mlflow()
    version = client.get_model_version_by_alias(NAME, "champion")
    run = client.get_run(str(version.run_id))
    note, tags = run.data.tags["mlflow.note.content"], run.data.tags
    for record in (tags["git_commit"], tags["model_sha256"], run.data.params["lakefs_data_path"]):
        assert record in note
    assert f"| val | {run.data.metrics['best_val_miou']:.4f} |" in note and "| class | IoU on val |" in note
    assert "git_commit_id" not in tags and "git_commit_id" not in version.tags
    kind = client.get_experiment(run.info.experiment_id).tags["mlflow.experimentKind"]
    assert kind == "custom_model_development"
    assert (version.description or "").startswith("Decision: champion.")
    assert f"**Model:** `{run.data.params['lakefs_model_path']}`" in (version.description or "")
    assert f"**Result:** val mIoU {run.data.metrics['best_val_miou']:.4f}, test mIoU" in (version.description or "")
    assert run.outputs is not None
    (output,) = run.outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert str(model.status) == "READY" and model.source_run_id == run.info.run_id
    linked = json.loads(model.tags["mlflow.modelVersions"])
    assert {"name": NAME, "version": str(version.version)} in linked
    metrics = {metric.key: (metric.value, metric.dataset_name) for metric in model.metrics or []}
    assert metrics["best_val_miou"] == (run.data.metrics["best_val_miou"], REPO)
    (folder,) = lifecycle.project.folder.glob(f"mlartifacts/models/{output.model_id}/artifacts")
    recorded = json.loads((folder / "MLmodel").read_text())
    assert json.loads(recorded["signature"]["inputs"])[0]["tensor-spec"] == {"dtype": "uint8", "shape": [-1, -1, -1, 3]}
    example = np.array(json.loads((folder / "input_example.json").read_text())["inputs"])
    assert example.ndim == 4 and example.shape[-1] == 3
    assert {file.name for file in folder.iterdir()} == {"MLmodel", "input_example.json"}, "the weights stay in lakeFS"


def test_only_promoted_versions_have_a_lakefs_tag(lifecycle: Lifecycle, lake: LakeFS) -> None:
    tags = {tag: commit for tag, commit in lake.list_refs("tags") if tag.startswith(f"model-{NAME}-")}
    assert set(tags) == {f"model-{NAME}-v1", f"model-{NAME}-v3"}, "a challenger has no tag"
    version = lifecycle.project.mlflow().get_model_version(NAME, "3")
    commit = lake.connection.sdk.commits_api.get_commit(REPO, tags[f"model-{NAME}-v3"])
    assert commit.parents == [version.tags["lakefs_model_commit"]] and version.tags["lakefs_tag"] == f"model-{NAME}-v3"
    assert commit.metadata["model_version"] == "3" and commit.metadata["mlflow_run_id"] == lifecycle.runs["better"]
    assert commit.metadata["git_commit"] == lifecycle.project.git("rev-parse", "HEAD")
    assert [f.sha256 for f in lake.objects(commit.id, "models/model.pth")] == [version.tags["model_sha256"]]
    assert [name for name, _ in lake.list_refs("branches")] == ["main"]


def test_a_rolled_back_version_is_not_promoted_by_the_next_call(lifecycle: Lifecycle) -> None:
    lifecycle.run("list", "register_model.py", "--list")
    rows = [line.split() for line in lifecycle.results["list"].stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == ["v3", "v2", "v1"]
    assert "rolled back" in lifecycle.results["list"].stdout and rows[1][1] == "challenger" and rows[2][1] == "champion"
    lifecycle.run("again", "register_model.py")
    assert lifecycle.results["again"].returncode == 0 and "already registered" in lifecycle.results["again"].stdout
    assert lifecycle.champion() == "1", "the rolled back version is not promoted again"
    lifecycle.run("nothing", "register_model.py", "--rollback")
    assert (
        lifecycle.results["nothing"].returncode == 2 and "replaced no champion" in lifecycle.results["nothing"].stderr
    )


def test_force_promotes_a_rolled_back_version_and_records_who_and_why(lifecycle: Lifecycle) -> None:
    lifecycle.run("refused", "register_model.py", "--run-id", lifecycle.runs["better"])
    assert lifecycle.results["refused"].returncode == 3 and "taken out of use" in lifecycle.results["refused"].stdout
    assert lifecycle.champion() == "1"
    lifecycle.run(
        "forced", "register_model.py", "--run-id", lifecycle.runs["better"], "--force", "the night shift needs it"
    )
    assert lifecycle.results["forced"].returncode == 0, lifecycle.results["forced"].stderr
    forced = gate_of(lifecycle, "3")["forced"]
    assert forced["why"] == "the night shift needs it" and "@" in forced["by"] and forced["at"].startswith("20")
    assert lifecycle.champion() == "3"
    lifecycle.run("rollback to v1", "register_model.py", "--rollback", "v1")
    assert lifecycle.champion() == "1"


def test_manual_selects_versions_from_a_table(lifecycle: Lifecycle) -> None:
    """The table has the newest version first: 1 is v3, 3 is v1."""
    project, output = lifecycle.project, lifecycle.project.folder / "compared"
    compared = project.run("register_model.py", "--manual", "--compare", "--output", str(output), answers="9\n1\n3\n")
    assert compared.returncode == 0 and f"A: {NAME} v3, B: {NAME} v1" in compared.stdout, compared.stderr
    (page,) = output.glob("*/compare.html")
    assert f"<h1>Comparison: {NAME} v3 and {NAME} v1</h1>" in page.read_text(encoding="utf-8")
    empty = project.run("register_model.py", "--manual", "--rollback")
    assert empty.returncode == 0 and "nothing chosen" in empty.stdout and lifecycle.champion() == "1"
    to_v3 = project.run("register_model.py", "--manual", "--rollback", answers="1\n")
    assert to_v3.returncode == 0 and lifecycle.champion() == "3", to_v3.stderr
    to_v1 = project.run("register_model.py", "--manual", "--rollback", answers="3\n")
    assert to_v1.returncode == 0 and lifecycle.champion() == "1", to_v1.stderr


STEPS = ("tag_model_commit", "set_alias", "set_tag")


@pytest.mark.parametrize("step", STEPS)
def test_an_interrupted_registration_is_finished_by_the_next_call(
    lifecycle: Lifecycle, lake: LakeFS, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(lifecycle.settings, registered_model=f"interrupted-in-{step}")
    client = mlflow_utils.connect(settings)
    run = client.get_run(lifecycle.runs["better"])

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(promotion if step == "tag_model_commit" else Registry, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            Promotion(Registry(client, settings), lake).register(run)
    (version,) = Registry(client, settings).versions()
    assert version.tags["registration"] == "pending"
    assert [v.version for v in Promotion(Registry(client, settings), lake).finish_pending()] == [version.version]
    assert Registry(client, settings).aliases() == {"champion": str(version.version)}
    done = client.get_model_version(version.name, str(version.version))
    assert done.tags["registration"] == "done" and done.tags["lakefs_tag"] in dict(lake.list_refs("tags"))
    assert Promotion(Registry(client, settings), lake).finish_pending() == []


def test_failed_limits_and_a_changed_champion_prevent_promotion(lifecycle: Lifecycle, lake: LakeFS) -> None:
    settings = lifecycle.settings
    client = mlflow_utils.connect(settings)
    strict = dataclasses.replace(
        settings,
        register_min_class_iou="0.0 background=0.999",
        register_max_mb=0.1,
        register_max_ms=1e-6,
        register_min_gain=0.99,
    )
    run = client.get_run(lifecycle.runs["worse"])
    Promotion(Registry(client, strict), lake).register(run)
    reasons = " | ".join(gate_of(lifecycle, "2")["reasons"])
    for part in ("class background: IoU", "model file", "ms per image", "needed at least 0.9900"):
        assert part in reasons
    gate = gate_of(lifecycle, "2") | {"decision": "champion", "against": "77"}
    client.set_model_version_tag(NAME, "2", "gate", json.dumps(gate))
    Promotion(Registry(client, settings), lake).finish(client.get_model_version(NAME, "2"))
    assert (
        "the champion changed from v77 to v1" in gate_of(lifecycle, "2")["reasons"][-1] and lifecycle.champion() == "1"
    )


def test_a_metric_that_cannot_be_reproduced_prevents_promotion(lifecycle: Lifecycle, lake: LakeFS) -> None:
    client = mlflow_utils.connect(lifecycle.settings)
    run = client.get_run(lifecycle.runs["worse"])
    run.data.metrics["best_val_miou"] = 0.9
    Promotion(Registry(client, lifecycle.settings), lake).register(run)
    assert any("0.9000 could not be reproduced" in reason for reason in gate_of(lifecycle, "2")["reasons"])


# --- the gate's arithmetic ---


def measured(counts: np.ndarray, groups: np.ndarray | None = None) -> EvaluationResult:
    classes = ClassMap((0, 1), ("a", "b"), ((0, 0, 0), (1, 1, 1)))
    names = tuple(map(str, range(len(counts))))
    return EvaluationResult(names, names if groups is None else tuple(map(str, groups)), classes, counts, 1.0)


def test_metrics_of_many_matrices_equal_those_of_each() -> None:
    counts = np.random.default_rng(1).integers(0, 50, (7, 3, 3))
    counts[:, 2] = 0  # the last class, for predictions unknown to the data, is never a label
    model = measured(counts)
    for metric in ("miou", "accuracy"):
        single = [model.only([i]).metric(metric) for i in range(7)]
        assert metric_of_counts(metric, counts) == pytest.approx(single)
        assert metric_of_counts(metric, counts.sum(0)) == pytest.approx(model.metric(metric))


def better(counts: np.ndarray, images: slice, pixels: int) -> np.ndarray:
    changed = counts.copy()
    changed[images, 0, 0] += pixels
    return changed


def test_the_interval_excludes_zero_only_for_a_consistent_gain() -> None:
    old = np.random.default_rng(2).integers(20, 60, (50, 3, 3))
    old[:, 2] = 0
    new = better(old, slice(None), 30)
    found = gain_interval(measured(old), measured(new), "miou", 0.95)
    assert found is not None and 0 < found[0] < found[1]
    assert sum(found) / 2 == pytest.approx(measured(new).metric("miou") - measured(old).metric("miou"))
    wider = gain_interval(measured(old), measured(new), "miou", 0.99)
    assert wider is not None and wider[0] < found[0] and found[1] < wider[1]
    one = gain_interval(measured(old), measured(better(old, slice(0, 1), 500)), "miou", 0.95)
    assert one is not None and one[0] <= 0, "only one image is better"


def test_frames_of_one_film_count_as_one_observation() -> None:
    """Ten films of ten equal frames: the interval is that of ten images, not of a hundred."""
    old = np.random.default_rng(3).integers(20, 60, (10, 3, 3))
    old[:, 2] = 0
    new = old + np.random.default_rng(4).integers(0, 20, (10, 3, 3)) * np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0]])
    films = np.repeat(np.arange(10), 10)
    frames = [measured(np.repeat(counts, 10, axis=0), films) for counts in (old, new)]
    for metric in ("miou", "accuracy"):
        of_films = gain_interval(frames[0], frames[1], metric, 0.95)
        assert of_films == pytest.approx(gain_interval(measured(old), measured(new), metric, 0.95))


def test_too_few_groups_have_no_interval() -> None:
    old = np.random.default_rng(5).integers(20, 60, (60, 3, 3))
    new = better(old, slice(None), 30)
    for groups in range(1, 5):
        films = np.arange(60) % groups
        found = gain_interval(measured(old, films), measured(new, films), "miou", 0.95)
        assert (found is None) == (groups < MIN_GROUPS)
    empty = np.zeros((3, 3, 3), np.int64)  # groups without a labelled pixel say nothing
    assert gain_interval(measured(np.concatenate([old[:2], empty])), measured(np.concatenate([new[:2], empty])),
                         "miou", 0.95) is None  # fmt: skip


def load_simulation() -> ModuleType:
    path = SOURCE / "benchmarks/gate_coverage.py"
    spec = importlib.util.spec_from_file_location("gate_coverage", path)
    assert spec is not None and spec.loader is not None
    simulation = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(simulation)
    return simulation


def test_ten_slices_rarely_refuse_equal_models_and_find_a_real_loss() -> None:
    """A short run of benchmarks/gate_coverage.py --slices: 0.5 % are expected of each slice, 2.5 % of all together."""
    simulation, random = load_simulation(), np.random.default_rng(7)
    alone, together = simulation.refusals(random, "films", 10, 5, 200, 0.95, None)
    assert alone > 0.12 and together <= 0.05, "an interval of 95 % for each would refuse many"
    assert simulation.refusals(random, "films", 10, 10, 50, 0.95, 1.0)[1] > 0.9, "a loss of 0.2 mIoU on one of them"


def test_the_interval_covers_the_true_gain_of_dependent_frames() -> None:
    """A short run of benchmarks/gate_coverage.py with a fixed seed; 2.6 % is three standard errors of 600 studies."""
    simulation, random = load_simulation(), np.random.default_rng(6)
    truth = simulation.true_gain(random, "unequal", 20_000)
    for groups in (5, 10):
        found = simulation.coverage(random, "unequal", groups, 600, 0.95, truth)
        assert all(0.95 - 0.026 <= covered <= 0.95 + 0.03 for covered in found.values()), (groups, found)


@pytest.mark.parametrize(
    ("minimum", "after", "passes", "needed"),
    [
        (0.0, 0.6, False, "needed more than 0"),
        (0.0, 0.61, True, ""),
        (0.01, 0.61, True, ""),  # an equal gain passes, though 0.61 - 0.6 < 0.01 in floats
        (0.01, 0.6099, False, "needed at least 0.0100"),
    ],
)
def test_an_equal_gain_passes_the_minimum_and_the_wording_says_so(
    minimum: float, after: float, passes: bool, needed: str
) -> None:
    reasons = check_gain(minimum, "miou", 0.6, after, None)
    assert (reasons == []) == passes and needed in "".join(reasons)


def test_class_minimums_reject_unknown_classes_and_values() -> None:
    names = ("road", "car")
    assert class_minimums(None, names) == {}
    assert class_minimums("0.2", names) == {"road": 0.2, "car": 0.2}
    assert class_minimums("road=0.5, 0.1", names) == {"road": 0.5, "car": 0.1}
    for wrong in ("raod=0.5", "raod=0", "2", "x", "road="):
        with pytest.raises(UsageError, match="REGISTER_MIN_CLASS_IOU"):
            class_minimums(wrong, names)


def test_invalid_options_are_usage_errors(lifecycle: Lifecycle, tmp_path: Path) -> None:
    for arguments, text in (
        (["--compare", "1"], "--compare takes A and B"),
        (["--force", " "], "--force ' ': expected a reason"),
        (["--rollback", "9"], "'9' is not a model"),
        (["--manual", "--run-id", "x"], "--run-id cannot be used with --manual"),
    ):
        done = lifecycle.project.run("register_model.py", *arguments)
        assert done.returncode == 2 and text in done.stderr, done.stderr
