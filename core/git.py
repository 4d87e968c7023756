"""What Git knows about the code of this moment: commit, branch, tag, remote, and whether files differ from it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from core.i18n import tr

NONE = "none"  # recorded where Git has no answer: no Git, no repository, no commit yet, detached HEAD
LOCK_NAME = "lakefs.lock"  # which data and model belong to this code: see versioning/lockfile.py
CODE_SUFFIXES = (
    ".py",
    ".pyi",
    ".sh",
    ".toml",
    ".c",
    ".cc",
    ".cpp",
    ".cu",
    ".cuh",
    ".h",
    ".hpp",
)  # of files not yet in Git
# Names that often hold secrets: what differs in them is never recorded.
_SECRET_FILES = tuple(f":(top,exclude,glob)**/{name}" for name in (".env*", "*.pem", "*.key", "*credentials*", "id_*"))


@dataclass(frozen=True)
class GitFacts:
    """`commit` is the full id; `dirty` is "true", "false" or "none" (no repository); absent facts are "none"."""

    commit: str = NONE
    branch: str = NONE
    tag: str = NONE
    dirty: str = NONE
    remote: str = NONE

    def metadata(self) -> dict[str, str]:
        """The facts under the names that commits and runs carry; `git_commit_id` is the key that lakectl writes."""
        return {
            "git_commit": self.commit,
            "git_commit_id": self.commit,
            "git_branch": self.branch,
            "git_tag": self.tag,
            "git_dirty": self.dirty,
            "git_remote": self.remote,
        }


def run(folder: Path, *arguments: str) -> str | None:
    """Git's answer without its last line feed, or None where Git, the repository or the fact is missing."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, errors="replace", timeout=60
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def code_changes(folder: Path) -> bytes | None:
    """How the working files differ from HEAD, as `git apply` takes it; untracked files of code too. None without Git.

    Made with an index and objects of its own: the user's index and repository stay as they are.
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
    """What Git printed, or None where it failed."""
    done = subprocess.run(["git", *arguments], cwd=folder, env={**os.environ, **environment}, capture_output=True)
    return done.stdout if done.returncode == 0 else None


@contextmanager
def worktree(folder: Path, commit: str, patch: bytes) -> Iterator[Path]:
    """The files of a commit with a patch, in a temporary worktree; yields what `folder` is in it. Raises OSError.

    It is removed at the end; what a kill leaves is named by `git worktree list` and pruned by the next call.
    """
    prefix = run(folder, "rev-parse", "--show-prefix") or ""
    run(folder, "worktree", "prune")
    with tempfile.TemporaryDirectory(prefix="reproduce-") as scratch:
        root = Path(scratch) / "code"
        try:
            for arguments, where, content in (
                (("worktree", "add", "--quiet", "--detach", str(root), commit), folder, b""),
                (("apply", "--binary", "--whitespace=nowarn"), root, patch),
            ):
                if arguments[0] == "apply" and not content:
                    continue
                done = subprocess.run(["git", *arguments], cwd=where, input=content, capture_output=True)
                if done.returncode != 0:
                    words = " ".join(done.stderr.decode(errors="replace").split())[:400]
                    raise OSError(f"git {arguments[0]}: {words}")
            yield root / prefix
        finally:
            run(folder, "worktree", "remove", "--force", str(root))


def read_facts(folder: Path) -> GitFacts:
    """The facts of the repository around `folder`; never raises for a missing one."""
    if run(folder, "rev-parse", "--is-inside-work-tree") != "true":
        return GitFacts()
    # lakefs.lock is written by training itself: it must not make the next training one of changed code.
    status = run(folder, "status", "--porcelain", "--", ":(top)", f":(exclude){LOCK_NAME}")
    return GitFacts(
        commit=run(folder, "rev-parse", "--verify", "HEAD") or NONE,
        branch=run(folder, "symbolic-ref", "--quiet", "--short", "HEAD") or NONE,
        tag=run(folder, "describe", "--tags", "--exact-match", "HEAD") or NONE,
        dirty=NONE if status is None else str(bool(status)).lower(),
        remote=without_credentials(run(folder, "remote", "get-url", "origin") or NONE),
    )


def config(folder: Path, key: str) -> str | None:
    """A value of Git's configuration; None where it is not set, or there is no Git."""
    return run(folder, "config", "--get", key) or None


def resolve(folder: Path, name: str) -> str | None:
    """The full id of the commit that a tag, branch or beginning of an id names; None for another name."""
    return None if name.startswith("-") else run(folder, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")


def show(folder: Path, name: str) -> str | None:
    """The content of `<commit>:<path>`; None where there is none."""
    return run(folder, "show", name)


def tags(folder: Path, commit: str | None = None) -> list[str]:
    """All tags, or those on one commit."""
    return (run(folder, "tag", "--list", *(["--points-at", commit] if commit else [])) or "").splitlines()


def problem_of(folder: Path, commit: str) -> str | None:
    """What is wrong with a commit and all that it holds, each object hashed again by Git; None where nothing is."""
    if run(folder, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        return tr("this repository has no commit {commit}", commit=commit)
    command = ["git", "-C", str(folder), "fsck", "--no-progress", "--no-dangling", "--no-reflogs", commit]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    return None if done.returncode == 0 else " | ".join((done.stderr + done.stdout).split("\n"))[:500]


def without_credentials(url: str) -> str:
    """A URL without the user and password that it may carry: they must not reach a record."""
    parts = urlsplit(url)
    if not parts.scheme or "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rsplit("@", 1)[1]))


def tag_text(folder: Path, tag: str) -> str:
    """The message of an annotated tag."""
    return run(folder, "for-each-ref", "--format=%(contents)", f"refs/tags/{tag}") or ""
