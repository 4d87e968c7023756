"""Which files are the code of a run: by suffix, or listed in `.codefiles`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path, PurePosixPath

LOCK_NAME = "lakefs.lock"  # names the data and model that belong to the code: see versioning/lockfile.py
# Further files that the code of a run consists of, in the syntax of .gitignore; with `!`, files that it does not.
LIST_NAME = ".codefiles"
NOTEBOOK = ".ipynb"
CODE_SUFFIXES = (
    *(".py", ".pyi", ".pyx", ".pxd", ".sh", ".c", ".cc", ".cpp", ".cxx", ".cu", ".cuh", ".h", ".hpp", ".hxx"),
    *(".rs", ".go", ".java", ".js", ".ts", ".jl", ".r", ".R", ".lua", ".m", ".f90", NOTEBOOK),
)


class CodeFiles:
    """The rule by which paths, relative to the project with `/`, are code."""

    def __init__(self, folder: Path) -> None:
        self._listed = _read_list(folder / LIST_NAME)

    def __contains__(self, path: str) -> bool:
        listed = self._listed(path)
        if listed is not None:
            return listed
        parts = PurePosixPath(path).parts
        hidden = any(part.startswith(".") for part in parts[:-1])  # of editors and tools: .vscode, .venv, .idea
        return path != LOCK_NAME and not hidden and path.endswith(CODE_SUFFIXES)

    def is_listed(self, path: str) -> bool:
        """Return whether `.codefiles` names the file."""
        return bool(self._listed(path))


def lock_path(folder: Path) -> Path:
    """Return the path of the lock in a directory, whether there is one or not."""
    return folder / LOCK_NAME


def _read_list(path: Path) -> Callable[[str], bool | None]:
    """Return whether a path is included (True), excluded (False) or not mentioned (None) by a list."""
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return lambda _: None
    import pathspec

    spec = pathspec.GitIgnoreSpec.from_lines(text.splitlines())

    @functools.cache
    def included(name: str) -> bool | None:
        return spec.check_file(name).include

    return included
