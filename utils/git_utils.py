"""What Git knows about the code of this moment: commit, branch, tag, remote, and whether files differ from it."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

NONE = "none"  # recorded where Git has no answer: no Git, no repository, no commit yet, detached HEAD
LOCK_NAME = "lakefs.lock"  # which data and model belong to this code: see utils/lock.py
RESULT_TAG = re.compile(r"v(\d+)\.(\d+)-(?:acc\d+|initial)")


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


def _git(folder: Path, *arguments: str) -> str | None:
    """Git's answer without its last line feed, or None where Git, the repository or the fact is missing."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, errors="replace", timeout=60
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def read_facts(folder: Path) -> GitFacts:
    """The facts of the repository around `folder`; never raises for a missing one."""
    if _git(folder, "rev-parse", "--is-inside-work-tree") != "true":
        return GitFacts()
    # lakefs.lock is written by training itself: it must not make the next training one of changed code.
    status = _git(folder, "status", "--porcelain", "--", ":(top)", f":(exclude){LOCK_NAME}")
    return GitFacts(
        commit=_git(folder, "rev-parse", "--verify", "HEAD") or NONE,
        branch=_git(folder, "symbolic-ref", "--quiet", "--short", "HEAD") or NONE,
        tag=_git(folder, "describe", "--tags", "--exact-match", "HEAD") or NONE,
        dirty=NONE if status is None else str(bool(status)).lower(),
        remote=without_credentials(_git(folder, "remote", "get-url", "origin") or NONE),
    )


def without_credentials(url: str) -> str:
    """A URL without the user and password that it may carry: they must not reach a record."""
    parts = urlsplit(url)
    if not parts.scheme or "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rsplit("@", 1)[1]))


def next_result_tag(folder: Path, accuracy_percent: int) -> str:
    """`v<major>.<minor>-acc<percent>` after the newest such tag: v1.0 first and after v0.x, then v1.1, v1.2, ..."""
    tags = (_git(folder, "tag", "--list", "v*") or "").splitlines()
    versions = [(int(m[1]), int(m[2])) for m in map(RESULT_TAG.fullmatch, tags) if m]
    major, minor = max(versions, default=(0, 0))
    major, minor = (1, 0) if major == 0 else (major, minor + 1)
    return f"v{major}.{minor}-acc{accuracy_percent}"
