"""Checks of single values of a stranger's file: each returns the value with its type, or raises ValueError that names it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from core.i18n import tr
from segmentation.archive.entries import shown

MAX_TEXT = 10_000  # characters of a recorded text, such as a warning


def invalid_value(name: str, value: object, expected: str) -> ValueError:
    """Return the error of a value that is not as expected."""
    return ValueError(tr("{name}: {found}, expected {expected}", name=name, found=shown(value), expected=expected))


def whole(value: object, name: str, low: int, high: int) -> int:
    """Return a whole number from low to high."""
    if type(value) is not int or not low <= value <= high:
        raise invalid_value(name, value, tr("a whole number from {low} to {high}", low=low, high=high))
    return value


def number(value: object, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    """Return a finite number from low to high."""
    if type(value) not in (int, float) or not low <= float(value) <= high or not math.isfinite(value):  # type: ignore[arg-type]
        expected = tr("a finite number")
        if math.isfinite(low):
            expected = tr("a number from {minimum} to {maximum}", minimum=f"{low:g}", maximum=f"{high:g}")
        raise invalid_value(name, value, expected)
    return float(value)  # type: ignore[arg-type]


def text(value: object, name: str, limit: int = MAX_TEXT) -> str:
    """Return a text of at most `limit` characters."""
    if type(value) is not str or len(value) > limit:
        raise invalid_value(name, value, tr("a text of at most {limit} characters", limit=limit))
    return value


def items(value: object, name: str, limit: int) -> Sequence[Any]:
    """Return a list or tuple of at most `limit` values."""
    if not isinstance(value, list | tuple) or len(value) > limit:
        raise invalid_value(name, value, tr("a list of at most {limit} values", limit=limit))
    return value


def pair(value: object, name: str) -> tuple[Any, Any]:
    """Return a list of two values."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise invalid_value(name, value, tr("two values"))
    return value[0], value[1]


def mapping(value: object, name: str) -> Mapping[str, Any]:
    """Return a dict whose keys are texts."""
    if type(value) is not dict or not all(type(key) is str for key in value):
        raise invalid_value(name, value, tr("names with values"))
    return value
