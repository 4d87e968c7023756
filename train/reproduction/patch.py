"""The recorded code changes of a run: what they would change, whether that is code of this project, and consent to it.

A patch is a stranger's program. Git applies it to an index of its own first, in which nothing is executed and no file of
the project is touched; what is checked, shown and used is what Git made of it, not what its text seems to say.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from config import ROOT, Settings
from core.console import confirm, format_table
from core.errors import AppError, UsageError, one_line
from core.git import run
from core.i18n import tr, trn
from core.provenance.code_files import CodeFiles
from core.reporting import notify, warn
from train.reproduction.recipe import Recipe
from train.reproduction.record_files import irreproducible
from train.tracking.known_patches import is_known_patch

MAX_FILES = 1000
REGULAR = ("100644", "100755")  # modes of Git; others are links and other repositories
ABSENT = "000000"
GIT_NAME = re.compile(r"\.git.*|git~\d.*|\.husky", re.IGNORECASE | re.DOTALL)  # of files and directories that Git obeys


@dataclass(frozen=True)
class Change:
    """One changed file; `path` from the top of the repository, added and removed lines as Git counts them."""

    path: str
    added: str
    removed: str


@dataclass(frozen=True)
class Review:
    """What a patch changes: `code` is applied, `left_out` is not code of this project; `patch` is that of the code alone."""

    code: tuple[Change, ...]
    left_out: tuple[Change, ...]
    patch: bytes


class _Scratch:
    """Git with an index and an object directory of its own: neither the repository nor its files are changed."""

    def __init__(self, folder: Path, scratch: str) -> None:
        top, objects = (run(folder, "rev-parse", "--path-format=absolute", *query) for query in _PLACES)
        if top is None or objects is None:
            raise AppError(tr("{folder}: not a Git repository", folder=folder))
        self.top = Path(top)
        self.environment = {
            **os.environ,
            "GIT_INDEX_FILE": f"{scratch}/index",
            "GIT_OBJECT_DIRECTORY": scratch,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects,
            "LC_ALL": "C",
        }

    def git(self, *arguments: str, content: bytes = b"") -> bytes:
        """Return the output of a command. Raises ValueError with the error message of Git."""
        done = subprocess.run(
            ["git", *arguments], cwd=self.top, env=self.environment, input=content, capture_output=True, timeout=300
        )
        if done.returncode != 0:
            raise ValueError(ascii(one_line(done.stderr.decode(errors="replace"), 300))[1:-1])
        return done.stdout


_PLACES = (("--show-toplevel",), ("--git-path", "objects"))
_DIFF = ("diff", "--cached", "--no-renames", "--no-ext-diff", "--no-textconv")


def review_patch(recipe: Recipe, folder: Path = ROOT) -> Review:
    """Return what the recorded changes would change.

    Raises UsageError for changes that no training records: outside of the repository, in its `.git`, of hooks, links,
    submodules or binary files.
    """
    if re.search(rb"^GIT binary patch", recipe.patch, re.MULTILINE):
        raise irreproducible(recipe.run_id, tr("its code changes contain binary files, which are not code"))
    prefix = run(folder, "rev-parse", "--show-prefix") or ""
    with tempfile.TemporaryDirectory() as directory:
        try:
            scratch = _Scratch(folder, directory)
            scratch.git("read-tree", recipe.commit)
            scratch.git("apply", "--cached", "--whitespace=nowarn", content=recipe.patch)
            changes = _changes(recipe, scratch)
            code = tuple(change for change in changes if _is_code(change.path, prefix, CodeFiles(folder)))
            names = [f":(top,literal){change.path}" for change in code]
            patch = scratch.git(*_DIFF, "--full-index", recipe.commit, "--", *names) if code else b""
        except (ValueError, subprocess.TimeoutExpired) as error:
            raise irreproducible(
                recipe.run_id, tr("its code changes cannot be applied: {error}", error=error)
            ) from error
    return Review(code, tuple(change for change in changes if change not in code), patch)


def _changes(recipe: Recipe, scratch: _Scratch) -> list[Change]:
    """Return the changed files of the scratch index. Raises UsageError for one that is not a plain file of the project."""
    raw = scratch.git(*_DIFF, "--raw", "-z", recipe.commit).decode("utf-8", "surrogateescape").split("\0")
    modes = {path: fields.lstrip(":").split()[:2] for fields, path in zip(raw[:-1:2], raw[1::2], strict=True)}
    if len(modes) > MAX_FILES:
        raise irreproducible(recipe.run_id, tr("its code changes are of more than {limit} files", limit=MAX_FILES))
    hooks = run(scratch.top, "config", "--get", "core.hooksPath")
    for path, of_file in modes.items():
        if any(mode not in (*REGULAR, ABSENT) for mode in of_file) or not _is_plain(path, hooks):
            raise irreproducible(
                recipe.run_id,
                tr(
                    "its code changes are of {path}, which no training records: a link, another repository, or a file "
                    "that Git obeys",
                    path=ascii(path)[1:-1][:200],
                ),
            )
    counts = scratch.git(*_DIFF, "--numstat", "-z", recipe.commit).decode().split("\0")
    rows = (row.split("\t", 2) for row in counts if row)
    return [Change(path, added, removed) for added, removed, path in rows]


def _is_plain(path: str, hooks: str | None) -> bool:
    """Return whether a path stays in the repository, is nothing that Git obeys, and can be shown as it is."""
    parts = PurePosixPath(path).parts
    special = any(GIT_NAME.fullmatch(part) for part in parts) or ".." in parts or path.startswith("/")
    hook = hooks is not None and PurePosixPath(path).is_relative_to(PurePosixPath(hooks))
    return path.isprintable() and "\\" not in path and ":" not in path and not special and not hook


def _is_code(path: str, prefix: str, files: CodeFiles) -> bool:
    """Return whether a path is a code file of the project, whose directory in the repository is `prefix`."""
    return path.startswith(prefix) and path.removeprefix(prefix) in files


def consented_patch(settings: Settings, recipe: Recipe, trusted: bool) -> bytes:
    """Show what the recorded changes change, and return the patch of the code if the user agrees.

    Nobody is asked if the patch was recorded on this machine, or `trusted` (--trust-patch). Raises UsageError for a
    refusal, and without a terminal.
    """
    if not recipe.patch:
        return b""
    review = review_patch(recipe)
    rows = [[change.path, f"+{change.added}", f"-{change.removed}"] for change in review.code]
    notify(tr("code changes of run {run_id} ({sha256}):", run_id=recipe.run_id, sha256=recipe.patch_sha256[:12]))
    notify(format_table([tr("file"), tr("added"), tr("removed")], rows) if rows else "  " + tr("none"))
    if review.left_out:
        names = ", ".join(change.path for change in review.left_out[:10])
        warn(
            trn(
                "not applied, as it is not code of this project: {count} changed file ({names})",
                "not applied, as they are not code of this project: {count} changed files ({names})",
                len(review.left_out),
                names=names,
            )
        )
    _require_consent(settings, recipe, trusted)
    return review.patch


def _require_consent(settings: Settings, recipe: Recipe, trusted: bool) -> None:
    if is_known_patch(settings.lakefs_local_dir, recipe.patch_sha256):
        return notify(tr("these changes were recorded on this machine"))
    if trusted:
        return None
    command = f"python train.py --reproduce {recipe.run_id} --trust-patch"
    if not sys.stdin.isatty():
        raise UsageError(
            tr(
                "the code changes of run {run_id} were not recorded on this machine, and would be executed: read them in "
                "the run's artifact code/changes.patch, then: {command}",
                run_id=recipe.run_id,
                command=command,
            )
        )
    if not confirm(tr("These changes will be executed. Apply them?")):
        raise UsageError(tr("the code changes of run {run_id} were not accepted", run_id=recipe.run_id))
    return None
