"""The version of the project, which pyproject.toml reads from here."""

from __future__ import annotations

from pathlib import Path

from core import git

NAME = "lakefs-image-segmentation"
VERSION = "1.0"
ROOT = Path(__file__).resolve().parents[2]


def describe() -> str:
    """Return the version and, in a clone, the Git commit and whether files of the project differ from it."""
    facts = git.read_facts(ROOT)
    if facts.commit == git.NONE:
        return f"{NAME} {VERSION}"
    changed = ", modified" if facts.dirty == "true" else ""
    return f"{NAME} {VERSION} (Git {facts.commit[:12]}{changed})"
