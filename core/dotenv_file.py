"""Read `.env` files and find misspelled keys."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from core.errors import UsageError
from core.i18n import tr


def read_dotenv(path: Path) -> dict[str, str]:
    """Return the keys and values of a `.env` file; none if there is no such file."""
    from dotenv import dotenv_values

    return {key: value for key, value in dotenv_values(path).items() if value is not None}


def check_known_keys(
    path: Path, keys: Iterable[str], settings: Iterable[str], own: tuple[str, ...], foreign: tuple[str, ...]
) -> None:
    """Raise UsageError for an unknown key that looks like one of `settings`: it is probably misspelled.

    Keys that start with a prefix in `foreign` belong to other programs; those with one in `own` are always checked.
    """
    known = [name.upper() for name in settings]
    for key in keys:
        if key in known or key.startswith(foreign):
            continue
        near = difflib.get_close_matches(key.upper(), known, n=1, cutoff=0.85)
        # MLflow has many variables of its own: only a nearly equal name counts as misspelled.
        ratio = difflib.SequenceMatcher(None, key, near[0]).ratio() if near else 0.0
        if key.startswith(own) or (near and (not key.startswith("MLFLOW_") or ratio > 0.9)):
            near = near or difflib.get_close_matches(key.upper(), known, n=1, cutoff=0)
            raise UsageError(
                tr("{path}: unknown key '{key}': did you mean '{near}'?", path=path, key=key, near=near[0])
            )
