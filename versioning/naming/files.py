"""Recognize a model that is named by its file, for every command that takes the name of a model."""

from __future__ import annotations

import difflib
from pathlib import Path

from core.errors import UsageError
from core.i18n import tr
from utils import run_names
from utils.ensemble_file import ENSEMBLE_FILE, is_ensemble
from utils.servers import Servers
from versioning.naming.results import find_models
from versioning.versions import LOCK

SUFFIX = ".pth"


def named_file(text: str) -> Path | None:
    """Return the path if a text is written as one: it ends with .pth or ensemble.json, or begins with `.`, `~` or `/`.

    Raises UsageError if there is no such file.
    """
    path = Path(text).expanduser()
    is_model = path.suffix == SUFFIX or is_ensemble(path)
    written_as_path = is_model or text.startswith((".", "~")) or path.is_absolute() or "\\" in text
    if not written_as_path and not (path.is_dir() and "/" in text and not run_names.QUALIFIED.fullmatch(text)):
        return None
    if path.is_file():
        return path
    raise _no_file(path)


def plain_file(servers: Servers, text: str) -> Path | None:
    """Return the file of a name that is not written as a path. Raises UsageError if it is the name of a model, too."""
    path = Path(text)
    if not path.is_file() or text == LOCK:
        return None
    others = find_models(servers, text)
    if others:
        raise run_names.ambiguous(text, [*(choice.spelling for choice in others), f"./{text}"])
    return path


def _no_file(path: Path) -> UsageError:
    folder = path if path.is_dir() else path.parent
    patterns = (ENSEMBLE_FILE, f"*{SUFFIX}")  # in this order: the members of an ensemble are beside it
    known = [name for pattern in patterns for name in sorted(entry.name for entry in folder.glob(pattern))]
    near = difflib.get_close_matches(path.name, known, n=1) or known[:1]
    hint = tr(": did you mean {name}?", name=folder / near[0]) if near else ""
    problem = tr("a directory, not a model file") if path.is_dir() else tr("no such file")
    return UsageError(f"{path}: {problem}{hint}")
