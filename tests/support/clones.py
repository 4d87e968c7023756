"""A clone of the project for tests in which several people publish to one branch."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import config
from utils.lakefs_utils import LakeFS, LakePath
from versioning.push import Mode, push


@dataclasses.dataclass(frozen=True)
class Clone:
    """A clone of the project with its own data directory and cache."""

    settings: config.Settings
    lake: LakeFS

    @property
    def root(self) -> Path:
        return self.settings.data_dir

    def write(self, **contents: str | None) -> None:
        """Write files of images/ by their stem; None deletes one."""
        for name, content in contents.items():
            path = self.root / f"images/{name.removeprefix('n')}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.unlink()
            else:
                path.write_text(content)

    def read(self) -> dict[str, str]:
        files = (path for path in self.root.rglob("*") if path.is_file() and not path.name.startswith("."))
        return {path.relative_to(self.root).as_posix(): path.read_text() for path in files}

    def push(self, mode: Mode = "default") -> str:
        push(self.settings, self.lake, None, mode)
        return self.lake.head()

    def branch(self) -> dict[str, str]:
        """Return the content of the branch's data."""
        tree = self.lake.download(LakePath(self.lake.repo, self.lake.head(), "data/"), self.settings.cache_dir)
        files = (path for path in (tree / "data").rglob("*") if path.is_file())
        return {path.relative_to(tree / "data").as_posix(): path.read_text() for path in files}
