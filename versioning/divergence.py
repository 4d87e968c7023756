"""Compare base, directory and branch file by file: what a publication would undo, and what a merge gives.

Each version is a mapping of paths to hashes. An unknown base counts as empty: then every file of the branch may be the
work of others, unless it is in the directory unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.errors import UsageError
from core.i18n import tr, trn
from core.safety.terminal import escape_line
from versioning.versions import compare, find_renames

Files = Mapping[str, str]
Side = Literal["local", "branch"]
MAX_DELETED = 0.1  # fraction of the branch's files that a publication may delete without --replace
SHOWN = 20  # files that a message lists


@dataclass(frozen=True)
class Divergence:
    """The versions of a data directory that is to be published: the one it comes from, its own, and the branch's."""

    base: Files | None  # None: unknown
    local: Files
    branch: Files

    def undone(self) -> list[str]:
        """Return the paths whose change on the branch, made since the base, the directory does not have; sorted."""
        return [name for name in self._names() if self._branch_changed(name) and not self._same(name)]

    def conflicts(self) -> list[str]:
        """Return the paths that were changed on both sides, differently; sorted."""
        return [name for name in self.undone() if self._local_changed(name)]

    def deleted(self) -> list[str]:
        """Return the paths of the branch that are not in the directory under any name; sorted."""
        missing = {name: self.branch[name] for name in self.branch.keys() - self.local.keys()}
        new = {name: self.local[name] for name in self.local.keys() - self.branch.keys()}
        return sorted(missing.keys() - set(find_renames(new, missing).values()))

    def own_changes(self) -> list[str]:
        """Return the paths of the directory to publish beside the branch's files: all that the branch did not change."""
        return sorted(self.local.keys() - set(self.undone()))

    def merged(self, prefer: Callable[[str], Side | None]) -> tuple[dict[str, str | None], list[str]]:
        """Return the branch's changes for the directory, path -> hash (None: delete), and the conflicts that are left.

        `prefer` decides a conflict: the directory's file stays, or the branch's is taken; None leaves it open.
        """
        conflicts = set(self.conflicts())
        decisions = {name: prefer(name) for name in conflicts}
        taken = {
            name: self.branch.get(name)
            for name in self.undone()
            if name not in conflicts or decisions[name] == "branch"
        }
        return taken, sorted(name for name, side in decisions.items() if side is None)

    def _names(self) -> list[str]:
        return sorted(self.local.keys() | self.branch.keys() | (self.base or {}).keys())

    def _same(self, name: str) -> bool:
        return self.local.get(name) == self.branch.get(name)

    def _branch_changed(self, name: str) -> bool:
        return self.branch.get(name) != (self.base or {}).get(name)

    def _local_changed(self, name: str) -> bool:
        return self.local.get(name) != (self.base or {}).get(name)


def require_nothing_undone(divergence: Divergence, root: Path, branch: str) -> None:
    """Raise UsageError if publishing the directory would undo changes of the branch, or delete much of it."""
    undone = set(divergence.undone())
    if undone:
        if divergence.base is None:
            problem = tr(
                "{root}: not known which version of branch {branch} it comes from; publishing it would undo these files "
                "of the branch:",
                root=root,
                branch=branch,
            )
        else:
            problem = tr(
                "branch {branch} has moved on since {root} was synchronized with it; publishing the directory would undo:",
                root=root,
                branch=branch,
            )
        raise UsageError("\n".join((problem, list_lines(_effects(divergence, undone)), offers())))
    deleted = divergence.deleted()
    if len(deleted) > MAX_DELETED * len(divergence.branch):
        problem = trn(
            "{root} lacks the only file of branch {branch}, which would be deleted there: check --data-dir "
            "and DATA_DIR; --replace (of train.py and lake.py push) makes the branch equal to the directory",
            "{root} lacks {missing} of the {count} files of branch {branch}, which would be deleted there: "
            "check --data-dir and DATA_DIR; --replace (of train.py and lake.py push) makes the branch equal "
            "to the directory",
            len(divergence.branch),
            root=root,
            missing=len(deleted),
            branch=branch,
        )
        raise UsageError(problem + "\n" + list_lines(escape_line(f"  {name}") for name in deleted))


def _effects(divergence: Divergence, names: set[str]) -> list[str]:
    """Return one line per path of the branch that a publication would undo."""
    local = {name: sha256 for name, sha256 in divergence.local.items() if name in names}
    branch = {name: sha256 for name, sha256 in divergence.branch.items() if name in names}
    effect = compare(local, branch)
    old = set(effect.renamed.values())
    marks = (
        (tr("deleted"), [name for name in effect.removed if name not in old]),
        (tr("reverted"), effect.changed),
        (tr("restored"), [name for name in effect.new if name not in effect.renamed]),
        (tr("renamed"), [f"{before} -> {after}" for after, before in effect.renamed.items()]),
    )
    return [escape_line(f"  {mark:9} {name}") for mark, shown in marks for name in shown]


def offers() -> str:
    """Return the ways to go on after a refusal."""
    return tr(
        "To go on: lake.py pull --merge brings the branch's changes into the directory; lake.py push --keep-remote "
        "publishes only your own changes; --replace (of train.py and lake.py push) makes the branch equal to the directory"
    )


def list_lines(lines: Iterable[str]) -> str:
    """Return the first lines, and how many more there are."""
    listed = list(lines)
    more = len(listed) - SHOWN
    return "\n".join(listed[:SHOWN] + ([tr("  … and {more} more", more=more)] if more > 0 else []))
