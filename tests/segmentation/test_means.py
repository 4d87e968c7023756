"""A mean over classes says of how many, in both languages and from what is stored."""

from __future__ import annotations

import pytest

from core.i18n import set_language
from segmentation.means import Coverage, format_mean, format_metric


def test_absent_classes_are_named_with_the_mean() -> None:
    set_language("en")
    assert Coverage.of([0.5, None, 0.25]) == Coverage(2, 3)
    assert format_mean(0.375, Coverage(2, 3)) == "0.3750 (2 of 3 classes)"
    assert format_mean(0.375, Coverage(3, 3)) == "0.3750"
    assert format_mean(0.375, None) == "0.3750", "an older record does not say"


@pytest.mark.parametrize(("stored", "expected"), [("9/11", Coverage(9, 11)), ("", None), (None, None), ("x", None)])
def test_coverage_is_stored_as_text(stored: str | None, expected: Coverage | None) -> None:
    assert Coverage.parse(stored) == expected
    assert expected is None or str(expected) == stored


def test_only_means_of_the_same_split_have_a_coverage() -> None:
    set_language("en")
    tags = {"val_classes": "9/11", "test_classes": "11/11"}
    assert format_metric("best_val_miou", 0.5, tags) == "0.5000 (9 of 11 classes)"
    assert format_metric("test_miou", 0.5, tags) == "0.5000"
    assert format_metric("best_val_accuracy", 0.5, tags) == "0.5000"
