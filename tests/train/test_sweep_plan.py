"""sweep.yaml: every wrong file is one error that names line and key; nothing else is accepted."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import SETTINGS
from core.errors import UsageError
from train.sweep.plan import METRICS, SweepPlan, read_plan
from train.sweep.pruning import Pruner

GOOD = """\
name: lr-search
trials: 20
metric: best_val_accuracy
pruner: {type: median, startup_trials: 3}
settings:
  EPOCHS: 5
space:
  learning_rate:
    low: 1e-4
    high: 0.01
    log: true
  batch-size: {low: 4, high: 16, step: 4}
  loss: [ce, ce+dice]
  image_size: [[96, 128], 180 240, null]
  pretrained: [false]
"""


def read(folder: Path, text: str) -> SweepPlan:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return read_plan(path)


def test_plan_has_what_the_file_says(tmp_path: Path) -> None:
    plan = read(tmp_path, GOOD)
    assert (plan.name, plan.trials, plan.metric, plan.seed) == ("lr-search", 20, "best_val_accuracy", 0)
    assert plan.settings == {"epochs": 5} and plan.pruner == Pruner("median", startup_trials=3)
    rate, batch, loss, size, pretrained = plan.space
    assert (rate.low, rate.high, rate.log, rate.step) == (1e-4, 0.01, True, None)
    assert (batch.setting, batch.low, batch.high, batch.step) == ("batch_size", 4, 16, 4)
    assert loss.choices == ("ce", "ce+dice")
    assert [size.value(text) for text in size.choices] == [(96, 128), (180, 240), None]
    assert pretrained.value("false") is False and batch.value(8) == 8 and isinstance(rate.value(1e-3), float)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("trials: 20", "trial: 20", "line 2: trial: unknown key: did you mean trials?"),
        ("trials: 20", "trials: 0", "line 2: trials: expected a whole number, at least 1, found '0'"),
        ("trials: 20", "trials: many", "line 2: trials: expected a whole number, at least 1, found 'many'"),
        ("trials: 20", "trials: 20\ntrials: 30", "line 3: trials: given twice, first in line 2"),
        ("trials: 20\n", "", "trials is missing"),
        ("name: lr-search", "name: ../x", "line 1: name: expected 1 to 64 letters"),
        ("best_val_accuracy", "test_miou", "line 3: metric: the test split must not choose the settings"),
        ("best_val_accuracy", "val_loss", "line 3: metric: expected one of best_val_miou, best_val_accuracy"),
        ("median", "hyperband", "line 4: pruner.type: expected one of none, median, halving, found 'hyperband'"),
        ("startup_trials: 3", "startup: 3", "line 4: pruner.startup: unknown key: did you mean startup_trials?"),
        ("  EPOCHS: 5", "  epoch: 5", "line 6: settings.epoch: unknown key: did you mean epochs?"),
        ("  EPOCHS: 5", "  epochs: 0", "line 6: settings.epochs: '0': expected at least 1"),
        ("  EPOCHS: 5", "  data_dir: x", "line 6: settings.data_dir: does not change the trained model"),
        ("  EPOCHS: 5", "  loss: ce", "line 13: space.loss: is in settings: too"),
        ("    low: 1e-4", "    low: -1", "line 9: space.learning_rate.low: '-1': expected a number greater than 0"),
        ("    low: 1e-4", "    low: 1", "line 10: space.learning_rate.high: expected a number greater than 1"),
        ("    low: 1e-4\n", "", "line 8: space.learning_rate: low is missing"),
        ("    log: true", "    log: maybe", "line 11: space.learning_rate.log: expected true or false"),
        ("    log: true", "    log: true\n    step: 1", "line 12: space.learning_rate.step: not with log"),
        ("    log: true", "    choices: [1]", "line 9: space.learning_rate.low: not with choices"),
        ("step: 4", "step: 5", "line 12: space.batch-size.step: high is not reached from low by steps of 5"),
        ("step: 4", "step: 1.5", "line 12: space.batch-size.step: expected a whole number, at least 1"),
        (
            "[ce, ce+dice]",
            "[ce, hinge]",
            "line 13: space.loss[2]: 'hinge': expected ce, dice, lovasz, ce+dice, ce+lovasz, focal",
        ),
        ("[ce, ce+dice]", "[ce, ce]", "line 13: space.loss[2]: 'ce' is given twice"),
        ("loss: [ce, ce+dice]", "ema: [0.01, 1e-2]", "line 13: space.ema[2]: '1e-2' is given twice"),
        ("180 240, null]", "180x240, 180 240]", "line 14: space.image_size[3]: '180 240' is given twice"),
        ("[ce, ce+dice]", "{low: 1, high: 2}", "line 13: space.loss: not a number: give a list of values"),
        ("[ce, ce+dice]", "[]", "line 13: space.loss: expected a list of values"),
        ("loss: [", "seed: [1, 2]\n  loss: [", "line 13: space.seed: must be the same for all trials"),
        ("loss: [", "weights: [a, b]\n  loss: [", "line 13: space.weights: must be the same for all trials"),
        ("[ce, ce+dice]", "*anchor", "line 13: YAML aliases"),
        ("[ce, ce+dice]", "[ce", "not YAML"),
        ("pretrained: [false]", "pretrained: [maybe]", "line 15: space.pretrained[1]: 'maybe': expected true or false"),
    ],
)
def test_wrong_value_is_named_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(UsageError) as error:
        read(tmp_path, GOOD.replace(old, new, 1))
    text = str(error.value).removeprefix(str(tmp_path))
    assert message in text and text.startswith("/sweep.yaml") and "\n" not in text, text


def test_missing_and_empty_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.yaml: No such file"):
        read_plan(tmp_path / "none.yaml")
    for text, message in (("", "empty"), ("- 1\n", "expected keys such as"), ("a" * 200_000, "larger than")):
        with pytest.raises(UsageError, match=message):
            read(tmp_path, text)
    (tmp_path / "sweep.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_plan(tmp_path / "sweep.yaml")


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5000), st.floats(), st.text("abc:{}[]-!&*#|>'\"%@`\n ", max_size=8)
)
names = st.sampled_from([*list(SETTINGS), "low", "high", "step", "log", "choices", "type", "x"])
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["trials", "time_limit", "metric", "pruner", "seed", "settings"]), values), values
)
def test_any_file_is_a_plan_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, top: dict[str, object], space: object
) -> None:
    import yaml

    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump({"trials": 1, "space": space} | top))
    try:
        plan = read_plan(path)
    except UsageError as error:
        assert "\n" not in str(error) and "any.yaml" in str(error)
        return
    assert plan.metric in METRICS and plan.space
    for parameter in plan.space:
        assert parameter.choices or parameter.low < parameter.high


@settings(max_examples=150, deadline=None)
@given(st.text("abtrilsnecpo:{}[]-!&*#|>'\"%@`\n 01", max_size=60))
def test_any_text_is_a_plan_or_one_line(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        read_plan(path)
    assert "\n" not in str(error.value)
