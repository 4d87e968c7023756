"""The uncommitted code of a project as a patch that holds no secret."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from core.git import CodeChange, changed_code, committed_content, run
from core.i18n import mark
from core.provenance.code_files import NOTEBOOK, CodeFiles
from core.provenance.notebook import strip_outputs
from core.safety.secret_scan import contains_secret, secret_lines

FILE_LIMIT = 1 << 20  # bytes; a larger file is not code that was written by hand
# Why a changed file is not in the patch.
SECRET, LARGE, BINARY = mark("contains a secret"), mark("is larger than 1 MB"), mark("is not a text")
SUBMODULE, OUTPUTS = mark("is a submodule"), mark("has outputs in the commit")
UNREADABLE = mark("cannot be read")
HIDDEN_NAME = mark("a file whose name contains a secret")
_HUNK = re.compile(rb"@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@")
# Whatever the user's configuration says, the patch is one that `git apply` reads, without text conversion.
_FORMAT = (
    *("--no-color", "--no-ext-diff", "--no-textconv", "--no-renames", "--no-relative", "--full-index", "--text"),
    *("--unified=3", "--inter-hunk-context=0", "--src-prefix=a/", "--dst-prefix=b/"),
)


@dataclass(frozen=True)
class LeftOut:
    """Changed file that is not in the patch, and why: one of the reasons above."""

    name: str
    reason: str


@dataclass(frozen=True)
class CodePatch:
    """Uncommitted code: a patch for `git apply` at the top of the repository, and what it lacks.

    `unused` are new files that no code mentions: they are not part of what runs.
    """

    patch: bytes
    left_out: tuple[LeftOut, ...] = ()
    unused: tuple[str, ...] = ()


def read_patch(folder: Path, secrets: Sequence[str], data: Path | None = None) -> CodePatch | None:
    """Return the uncommitted code of the project in `folder`; None without a commit, or if Git fails.

    `secrets` are values that must not be recorded in any encoding, `data` is the data directory. It works in a temporary
    index and object directory: the user's index and repository are not changed.
    """
    changes = changed_code(folder, data)
    objects = run(folder, "rev-parse", "--path-format=absolute", "--git-path", "objects")
    if changes is None or objects is None or run(folder, "rev-parse", "--verify", "HEAD") is None:
        return None
    unused = _find_unused(folder, changes)
    with tempfile.TemporaryDirectory() as scratch:
        index = _Index(folder, Path(scratch), objects)
        if index.call("read-tree", "HEAD") is None:
            return None
        sections, left_out = list[bytes](), list[LeftOut]()
        for change in changes:
            if change.path in unused:
                continue
            section = _read_section(index, change, secrets)
            if isinstance(section, bytes):
                sections.append(section)
            else:
                left_out.append(section)
    return CodePatch(b"".join(sections), tuple(left_out), tuple(unused))


class _Index:
    """A temporary index of the repository, and the objects that are added to it."""

    def __init__(self, folder: Path, scratch: Path, objects: str) -> None:
        self.folder = folder
        own = {"GIT_INDEX_FILE": str(scratch / "index"), "GIT_OBJECT_DIRECTORY": str(scratch)}
        self._environment: Mapping[str, str] = {
            **os.environ,
            **own,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": os.pathsep.join(
                filter(None, (objects, os.environ.get("GIT_ALTERNATE_OBJECT_DIRECTORIES")))
            ),
            "LC_ALL": "C",
        }

    def call(self, *arguments: str, content: bytes = b"") -> bytes | None:
        """Return the output of a Git command; None if it failed."""
        command = ["git", "-c", "diff.suppressBlankEmpty=false", *arguments]
        done = subprocess.run(command, cwd=self.folder, env=self._environment, input=content, capture_output=True)
        return done.stdout if done.returncode == 0 else None

    def add(self, path: str) -> bool:
        """Take over a file as it is in the working tree, or its removal."""
        return self.call("update-index", "--add", "--remove", "-z", "--stdin", content=os.fsencode(path)) is not None

    def add_content(self, path: str, content: bytes) -> bool:
        """Take over a file with other content; its mode stays that of the index, if it is there."""
        blob = self.call("hash-object", "-w", "--stdin", content=content)
        if blob is None:
            return False
        prefix = (self.call("rev-parse", "--show-prefix") or b"").removesuffix(b"\n")
        listed = self.call("ls-files", "--stage", "--", f":(literal){path}") or b""
        mode = listed.split(b" ", 1)[0] or b"100644"
        entry = mode + b" " + blob.strip() + b"\t" + prefix + os.fsencode(path) + b"\0"
        return self.call("update-index", "--add", "-z", "--index-info", content=entry) is not None

    def content(self, path: str) -> bytes | None:
        """Return the content of a file; None if it is not in the index."""
        return self.call("cat-file", "blob", f":./{path}")

    def diff(self, path: str) -> bytes | None:
        """Return the difference of a file to the commit, without the line of code that Git adds to each hunk."""
        found = self.call("diff", "--cached", *_FORMAT, "HEAD", "--", f":(literal){path}")
        return found and re.sub(rb"(?m)^(@@ [^@\n]+ @@).*$", rb"\1", found)


def _read_section(index: _Index, change: CodeChange, secrets: Sequence[str]) -> bytes | LeftOut:
    """Return the part of the patch that changes one file, or why it is left out."""
    path, file = change.path, index.folder / change.path
    if contains_secret(path, secrets):
        return LeftOut(HIDDEN_NAME, SECRET)
    if file.is_dir() and not file.is_symlink():
        return LeftOut(path, SUBMODULE)
    before = committed_content(index.folder, path)
    if path.endswith(NOTEBOOK) and file.is_file():
        stripped = strip_outputs(file.read_bytes())
        if stripped is None or (before is not None and strip_outputs(before) != before):
            return LeftOut(path, BINARY if stripped is None else OUTPUTS)
        added = index.add_content(path, stripped)
    else:
        added = index.add(path)
    section = index.diff(path) if added else None
    if section is None:
        return LeftOut(path, UNREADABLE)
    after = index.content(path)
    versions = [content or b"" for content in (before, after)]
    if any(len(content) > FILE_LIMIT for content in versions):
        return LeftOut(path, LARGE)
    if any(b"\0" in content for content in versions):
        return LeftOut(path, BINARY)
    found = [secret_lines(content.decode("utf-8", "replace"), secrets) for content in versions]
    if any(old in found[0] or new in found[1] for old, new in _shown_lines(section)):
        return LeftOut(path, SECRET)
    return section


def _shown_lines(section: bytes) -> Iterator[tuple[int, int]]:
    """Yield the line numbers (old, new) of each line in the hunks; 0 where a line is not in that version."""
    old = new = 0
    for line in section.split(b"\n"):
        if match := _HUNK.match(line):
            old, new = int(match[1]), int(match[2])
        elif old or new:
            kind = line[:1]
            if kind in (b" ", b"-", b"+"):
                yield (old if kind != b"+" else 0), (new if kind != b"-" else 0)
            old, new = old + (kind in (b" ", b"-")), new + (kind in (b" ", b"+"))


def _find_unused(folder: Path, changes: Iterable[CodeChange]) -> list[str]:
    """Return the new files that no code of the project mentions, by their name without suffix, nor `.codefiles`."""
    code, new = CodeFiles(folder), {change.path for change in changes if change.untracked}
    waiting = {path for path in new if not code.is_listed(path)}
    if not waiting:
        return []
    tracked = (run(folder, "ls-files", "-z", "--", ".") or "").split("\0")
    texts = [_words(folder / path) for path in {*tracked, *(new - waiting)} if path in code]
    words = set[str]().union(*texts)
    while used := {path for path in waiting if _module_name(path) in words}:
        waiting -= used
        words = set[str]().union(words, *(_words(folder / path) for path in used))
    return sorted(waiting)


def _words(path: Path) -> set[str]:
    try:
        return set(re.findall(r"\w+", path.read_text(encoding="utf-8", errors="replace")))
    except OSError:  # removed, or a directory
        return set()


def _module_name(path: str) -> str:
    """Return the name by which code imports or calls a file: that of the directory for a package."""
    pure = PurePosixPath(path)
    return pure.parent.name if pure.stem == "__init__" else pure.stem
