"""Queries of Git: commit, branch, tags, remote, uncommitted changes; and temporary worktrees."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from core.errors import one_line
from core.i18n import tr
from core.safety.urls import without_credentials

NONE = "none"  # recorded for a missing value: no Git, no repository, no commit yet, detached HEAD
LOCK_NAME = "lakefs.lock"  # names the data and model that belong to the code: see versioning/lockfile.py
# Untracked files with these suffixes are part of the recorded changes.
CODE_SUFFIXES = (".py", ".pyi", ".sh", ".toml", ".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp")
# Files that often hold secrets: changes to them are never recorded.
_SECRET_FILES = tuple(f":(top,exclude,glob)**/{name}" for name in (".env*", "*.pem", "*.key", "*credentials*", "id_*"))


@dataclass(frozen=True)
class GitFacts:
    """State of a Git repository: full commit id; `dirty`: "true", "false" or "none" (no repository); "none" if missing."""

    commit: str = NONE
    branch: str = NONE
    tag: str = NONE
    dirty: str = NONE
    remote: str = NONE

    def metadata(self) -> dict[str, str]:
        """Return the facts under the keys of commits and runs; `git_commit_id` is the key that lakectl writes."""
        return {
            "git_commit": self.commit,
            "git_commit_id": self.commit,
            "git_branch": self.branch,
            "git_tag": self.tag,
            "git_dirty": self.dirty,
            "git_remote": self.remote,
        }


def run(folder: Path, *arguments: str) -> str | None:
    """Return the stripped output of a Git command; None if it fails, takes over 60 s, or Git is missing."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, errors="replace", timeout=60
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def code_changes(folder: Path) -> bytes | None:
    """Return the uncommitted changes as a patch for `git apply`, with untracked code files; None without a commit.

    It uses a temporary index and object directory: the user's index and repository are not changed.
    """
    paths = [run(folder, "rev-parse", "--path-format=absolute", "--git-path", name) for name in ("index", "objects")]
    index, objects = paths
    if index is None or objects is None or run(folder, "rev-parse", "--verify", "HEAD") is None:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        own = {"GIT_INDEX_FILE": f"{scratch}/index", "GIT_OBJECT_DIRECTORY": scratch}
        own["GIT_ALTERNATE_OBJECT_DIRECTORIES"] = objects
        if Path(index).exists():
            shutil.copyfile(index, own["GIT_INDEX_FILE"])
        code = (":(top)", f":(top,exclude){LOCK_NAME}", f":(exclude,glob)**/{LOCK_NAME}", *_SECRET_FILES)
        listed = _run_with(folder, own, "ls-files", "--others", "--exclude-standard", "-z", "--full-name", "--", *code)
        new = [name for name in (listed or b"").decode().split("\0") if name.endswith(CODE_SUFFIXES)]
        if _run_with(folder, own, "add", "--update", "--", *code) is None:
            return None
        for start in range(0, len(new), 500):
            names = (f":(top,literal){name}" for name in new[start : start + 500])
            if _run_with(folder, own, "add", "--", *names) is None:
                return None
        return _run_with(
            folder, own, "diff", "--cached", "--binary", "--full-index", "--no-ext-diff", "HEAD", "--", *code
        )


def _run_with(folder: Path, environment: Mapping[str, str], *arguments: str) -> bytes | None:
    """Return the output of a Git command; None if it failed."""
    done = subprocess.run(["git", *arguments], cwd=folder, env={**os.environ, **environment}, capture_output=True)
    return done.stdout if done.returncode == 0 else None


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


def read_facts(folder: Path) -> GitFacts:
    """Return the state of the repository that contains `folder`; a missing repository is not an error."""
    if run(folder, "rev-parse", "--is-inside-work-tree") != "true":
        return GitFacts()
    # Training itself writes lakefs.lock: that does not make the code of the next training dirty.
    status = run(folder, "status", "--porcelain", "--", ":(top)", f":(exclude){LOCK_NAME}")
    return GitFacts(
        commit=run(folder, "rev-parse", "--verify", "HEAD") or NONE,
        branch=run(folder, "symbolic-ref", "--quiet", "--short", "HEAD") or NONE,
        tag=run(folder, "describe", "--tags", "--exact-match", "HEAD") or NONE,
        dirty=NONE if status is None else str(bool(status)).lower(),
        remote=without_credentials(run(folder, "remote", "get-url", "origin") or NONE),
    )


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
    if run(folder, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        return tr("commit {commit} is not in this repository", commit=commit)
    command = ["git", "-C", str(folder), "fsck", "--no-progress", "--no-dangling", "--no-reflogs", commit]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    return None if done.returncode == 0 else " | ".join((done.stderr + done.stdout).split("\n"))[:500]


def tag_message(folder: Path, tag: str) -> str:
    """Return the message of an annotated tag."""
    return run(folder, "for-each-ref", "--format=%(contents)", f"refs/tags/{tag}") or ""
