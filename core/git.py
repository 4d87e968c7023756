"""Queries of Git: commit, branch, tags, remote, uncommitted changes; and temporary worktrees."""

from __future__ import annotations

import functools
import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from core.errors import one_line
from core.i18n import tr
from core.provenance.code_files import NOTEBOOK, CodeFiles
from core.provenance.notebook import strip_outputs
from core.reporting import warn
from core.safety.urls import without_credentials

MAIN_SCRIPT = "train.py"  # a repository that does not track it is not that of the project
LAKECTL_COMMIT = "git_commit_id"  # metadata key of a lakeFS commit that lakectl and lakeFS's web page know
NONE = "none"  # recorded for a missing value: no Git, no repository, no commit yet, detached HEAD


@dataclass(frozen=True)
class CodeChange:
    """File of the project's code that differs from the commit; the path is relative to the project, with `/`."""

    path: str
    untracked: bool


@dataclass(frozen=True)
class GitFacts:
    """State of a Git repository: full commit id; `dirty`: "true", "false" or "none" (no repository); "none" if missing."""

    commit: str = NONE
    branch: str = NONE
    tag: str = NONE
    dirty: str = NONE
    remote: str = NONE

    def metadata(self) -> dict[str, str]:
        """Return the facts under the keys of commits and runs, the commit also under the key that lakectl writes."""
        return {
            "git_commit": self.commit,
            LAKECTL_COMMIT: self.commit,
            "git_branch": self.branch,
            "git_tag": self.tag,
            "git_dirty": self.dirty,
            "git_remote": self.remote,
        }


def start(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run a Git command whose messages are in English. Raises OSError if Git is missing, TimeoutExpired after 60 s."""
    command = ["git", "-c", "core.quotePath=false", *arguments]
    return subprocess.run(command, cwd=folder, env={**os.environ, "LC_ALL": "C"}, capture_output=True, timeout=60)


def run(folder: Path, *arguments: str) -> str | None:
    """Return the stripped output of a Git command; None if it fails, takes over 60 s, or Git is missing."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, errors="replace", timeout=60
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _run_checked(folder: Path, *arguments: str, content: bytes = b"") -> None:
    """Run a Git command with this standard input. Raises OSError with the error message of Git."""
    done = subprocess.run(["git", *arguments], cwd=folder, input=content, capture_output=True)
    if done.returncode != 0:
        message = one_line(done.stderr.decode(errors="replace"), 400)
        raise OSError(f"git {arguments[0]}: {message}")


@contextmanager
def worktree(folder: Path, commit: str, patch: bytes) -> Iterator[Path]:
    """Check out a commit with a patch in a temporary worktree; yield the path of `folder` in it. Raises OSError.

    It is removed at the end. After a kill, `git worktree list` shows it and the next call prunes it.
    """
    if commit.startswith("-"):  # it would be an option
        raise OSError(f"git worktree: {commit[:80]!r}")
    prefix = run(folder, "rev-parse", "--show-prefix") or ""
    run(folder, "worktree", "prune")
    with tempfile.TemporaryDirectory(prefix="reproduce-") as scratch:
        root = Path(scratch) / "code"
        try:
            _run_checked(folder, "worktree", "add", "--quiet", "--detach", str(root), commit)
            if patch:
                _run_checked(root, "apply", "--binary", "--whitespace=nowarn", content=patch)
            yield root / prefix
        finally:
            run(folder, "worktree", "remove", "--force", str(root))


def find_problem(folder: Path) -> str | None:
    """Return why Git does not know the code of a project, with the fix; None if it does.

    A repository further up that does not track the project, such as one of a home directory, is not its repository.
    """
    try:
        done = start(folder, "rev-parse", "--show-toplevel")
    except FileNotFoundError:
        return tr("Git is not installed (there is no program 'git' in PATH): install it")
    except subprocess.TimeoutExpired:
        return tr("Git did not answer within 60 seconds")
    if done.returncode != 0:
        return _explain(folder, done.stderr.decode(errors="replace"))
    top = Path(os.fsdecode(done.stdout.removesuffix(b"\n")))
    if run(folder, "rev-parse", "--verify", "HEAD") is None:
        return None if os.path.samefile(top, folder) else _not_tracked(folder, top)
    probe = [MAIN_SCRIPT] if (folder / MAIN_SCRIPT).exists() else ["."]
    if not run(folder, "ls-files", "--", *probe):
        return _not_tracked(folder, top)
    return None


def _explain(folder: Path, message: str) -> str:
    """Return what Git's message means, and the fix."""
    words = one_line(message, 400)
    if "not a git repository" in words and "dubious ownership" not in words:
        return tr("{folder}: not a Git repository (git init makes it one)", folder=folder)
    if "dubious ownership" in words:
        fix = f"git config --global --add safe.directory {shlex.quote(str(_find_root(folder)))}"
        return tr("Git refuses {folder}: {message} (fix: {command})", folder=folder, message=words, command=fix)
    return tr("Git cannot read {folder}: {message}", folder=folder, message=words)


def _find_root(folder: Path) -> Path:
    """Return the directory at or above `folder` that has `.git`; `folder` if none has."""
    return next((place for place in (folder, *folder.parents) if (place / ".git").exists()), folder)


def _not_tracked(folder: Path, top: Path) -> str:
    return tr(
        "the Git repository {top} does not track {folder}: its commit is not the code of this project (git init in "
        "{folder}, or git add there)",
        top=top,
        folder=folder,
    )


def read_facts(folder: Path, data: Path | None = None) -> GitFacts:
    """Return the state of the repository that tracks `folder`; a missing repository is not an error.

    New files below `data`, the data directory, are not code: lakeFS versions them.
    Warns, once, where there is a repository that cannot be used: the record of a run would lack its code.
    """
    problem = find_problem(folder)
    if problem is not None:
        if (_find_root(folder) / ".git").exists():
            _warn_once(problem)
        return GitFacts()
    changed = changed_code(folder, data)
    return GitFacts(
        commit=run(folder, "rev-parse", "--verify", "HEAD") or NONE,
        branch=run(folder, "symbolic-ref", "--quiet", "--short", "HEAD") or NONE,
        tag=run(folder, "describe", "--tags", "--exact-match", "HEAD") or NONE,
        dirty=NONE if changed is None else str(bool(changed)).lower(),
        remote=without_credentials(run(folder, "remote", "get-url", "origin") or NONE),
    )


@functools.cache
def _warn_once(problem: str) -> None:
    warn(tr("{problem}; the code is recorded as 'none'", problem=problem))


def detached_head(folder: Path) -> str | None:
    """Return the tag, else the abbreviated commit, that `git checkout` of it left as HEAD; None on a branch or without Git."""
    if find_problem(folder) is not None or run(folder, "symbolic-ref", "--quiet", "HEAD") is not None:
        return None
    tag = run(folder, "describe", "--tags", "--exact-match", "HEAD")
    return tag or run(folder, "rev-parse", "--short=12", "--verify", "HEAD")


def changed_code(folder: Path, data: Path | None = None) -> list[CodeChange] | None:
    """Return the files of the project's code that differ from the commit; None if Git fails.

    Files of other directories of the repository, logs and files of editors are not code (provenance/code_files.py), and
    neither are new files below `data`, the data directory.
    """
    try:
        done = start(folder, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--", ".")
        prefix = start(folder, "rev-parse", "--show-prefix").stdout.removesuffix(b"\n")
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        return None
    code = CodeFiles(folder)
    entries = ((entry[:2], os.fsdecode(entry[3:].removeprefix(prefix))) for entry in done.stdout.split(b"\0") if entry)
    found = [
        CodeChange(path, state == b"??")
        for state, path in entries
        if (path in code or (state != b"??" and _is_submodule(folder, path)))
        and not (state == b"??" and data is not None and (folder / path).is_relative_to(data))
    ]
    return [change for change in found if not _has_only_new_outputs(folder, change)]


def is_ignored(folder: Path, path: Path) -> bool:
    """Return whether the rules of .gitignore exclude a path below `folder`, tracked or not; it need not exist."""
    return run(folder, "check-ignore", "--no-index", "--", str(path)) is not None


def describe_changes(changes: Sequence[CodeChange] | None, limit: int = 10) -> str:
    """Return the names of changed files, at most `limit` of them."""
    names = [change.path for change in changes or ()] or [tr("Git could not list them (git status)")]
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" (+{more})" if more > 0 else "")


def _is_submodule(folder: Path, path: str) -> bool:
    return (folder / path / ".git").exists()


def _has_only_new_outputs(folder: Path, change: CodeChange) -> bool:
    """Return whether a notebook was only run: its cells are those of the commit."""
    if not change.path.endswith(NOTEBOOK) or change.untracked or not (folder / change.path).is_file():
        return False
    before = committed_content(folder, change.path)
    after = strip_outputs((folder / change.path).read_bytes())
    return before is not None and after is not None and strip_outputs(before) == after


def committed_content(folder: Path, path: str) -> bytes | None:
    """Return the content of a file in the commit; None for a file that it does not have."""
    done = start(folder, "cat-file", "blob", f"HEAD:./{path}")
    return done.stdout if done.returncode == 0 else None


def read_config(folder: Path, key: str) -> str | None:
    """Return a value of Git's configuration; None if it is not set or Git is missing."""
    return run(folder, "config", "--get", key) or None


def resolve(folder: Path, name: str) -> str | None:
    """Return the full commit id of a tag, branch or abbreviated id; None for an unknown name."""
    return None if name.startswith("-") else run(folder, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")


def show_file(folder: Path, name: str) -> str | None:
    """Return the content of `<commit>:<path>`; None if there is no such file."""
    return run(folder, "show", name)


def list_tags(folder: Path, commit: str | None = None) -> list[str]:
    """Return all tags, or those of one commit."""
    return (run(folder, "tag", "--list", *(["--points-at", commit] if commit else [])) or "").splitlines()


def verify_commit(folder: Path, commit: str) -> str | None:
    """Let Git hash a commit and all its objects again; return what is wrong, or None."""
    if commit.startswith("-") or run(folder, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        return tr("commit {commit} is not in this repository", commit=commit)
    command = ["git", "-C", str(folder), "fsck", "--no-progress", "--no-dangling", "--no-reflogs", commit]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    return None if done.returncode == 0 else " | ".join((done.stderr + done.stdout).split("\n"))[:500]


def tag_message(folder: Path, tag: str) -> str:
    """Return the message of an annotated tag."""
    return run(folder, "for-each-ref", "--format=%(contents)", f"refs/tags/{tag}") or ""
