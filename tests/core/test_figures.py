"""A figure reads the same wherever it is shown: one function writes it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from core.figures import format_figure, format_gain
from segmentation.means import Coverage, english_mean, format_cell, format_mean, format_metric
from tools.catalogue import PACKAGES
from train.reports.html import _cell

OWN = ("core/figures.py", "action/pull_request.py")  # the action runs without the project's packages


@pytest.mark.parametrize("value", [0.86505, 0.83785, 0.01795, 0.0, 1.0])
def test_list_registration_report_and_commit_message_agree(value: float) -> None:
    coverage = Coverage(2, 2)
    shown = {
        format_figure(value),
        format_cell("best_val_miou", value, {"val_classes": "2/2"}),  # register_model.py --list
        format_metric("best_val_miou", value, {"val_classes": "2/2"}),  # the line of a registration
        format_mean(value, coverage),  # report and console
        english_mean(value, coverage),  # commit message, MLflow, plots
        _cell(value),
        f"{value:.4f}",  # messages of the catalogue
    }
    assert len(shown) == 1 and format_gain(value) == f"+{format_figure(value)}"


def test_absent_classes_are_named_wherever_a_mean_is_shown() -> None:
    stored = {"val_classes": "9/11"}
    assert (
        format_metric("best_val_miou", 0.5, stored) == english_mean(0.5, Coverage(9, 11)) == "0.5000 (9 of 11 classes)"
    )
    assert format_cell("best_val_miou", 0.5, stored) == "0.5000 (9/11)"


def test_no_module_formats_figures_on_its_own() -> None:
    root = PACKAGES[0].parent
    found = []
    for path in (file for package in PACKAGES for file in package.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if name not in OWN:
            found += [f"{name}:{line}" for line in _own_formats(path)]
    assert found == [], "use core/figures.py"


def _own_formats(path: Path) -> list[int]:
    """Return the lines of f-strings that format a number as core/figures.py does."""
    specs = [
        (node.lineno, node.format_spec.values[0].value)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FormattedValue)
        and isinstance(node.format_spec, ast.JoinedStr)
        and node.format_spec.values
        and isinstance(node.format_spec.values[0], ast.Constant)
    ]
    return [line for line, spec in specs if spec in (".3f", ".4f", "+.3f", "+.4f", ".2%", ".0%")]
