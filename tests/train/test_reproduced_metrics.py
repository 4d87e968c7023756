"""train.py --reproduce compares every metric that the run recorded."""

from __future__ import annotations

import math

import pytest

from core.errors import AppError
from train.reproduce import compare_metrics
from train.reproduction.recipe import COMPARED, Recipe
from utils.lakefs_utils import LakePath


def recipe(**figures: list[float]) -> Recipe:
    return Recipe(
        run_id="r" * 32,
        commit="c" * 40,
        patch=b"",
        settings={},
        smoke=False,
        data_path=LakePath("repo", "d" * 64, "data/"),
        environment={},
        packages=[],
        figures={**{name: [0.25, 0.5] for name in COMPARED}, **figures},
    )


def test_metrics_of_the_test_split_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    recorded = recipe(test_miou=[0.75], test_accuracy=[0.875])
    assert compare_metrics(recorded, recorded.figures, 0.0) == 0
    shown = capsys.readouterr().out
    assert "test_miou" in shown and "test_accuracy" in shown and "all metrics are bit-identical" in shown
    with pytest.raises(AppError, match=r"could not be reproduced: largest difference 0\.25"):
        compare_metrics(recorded, {**recorded.figures, "test_miou": [0.5]}, 0.0)


def test_metrics_that_older_code_does_not_report_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    recorded = recipe(test_miou=[0.75], test_accuracy=[])
    now = {name: recorded.figures[name] for name in COMPARED}
    assert compare_metrics(recorded, now, 0.0) == 0
    assert "not compared: test_miou" in capsys.readouterr().err


def test_a_metric_that_became_nan_is_not_within_any_tolerance() -> None:
    recorded = recipe()
    assert compare_metrics(recorded, recorded.figures, 0.0) == 0
    with pytest.raises(AppError, match="could not be reproduced: largest difference inf"):
        compare_metrics(recorded, {**recorded.figures, COMPARED[0]: [0.25, math.nan]}, 1.0)
    with pytest.raises(AppError, match="its reproduction 0"):
        compare_metrics(recorded, {name: recorded.figures[name] for name in COMPARED[1:]}, 1.0)
