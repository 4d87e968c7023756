"""The files of an export, none of them outside of its directory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import AppError, UsageError, one_line
from core.files import safe_join
from core.hashing import file_sha256
from core.i18n import tr
from core.reporting import progress
from dataset.directory import data_files, require_contents
from dataset.faults import DataFaults, Fault


@dataclass(frozen=True)
class Source:
    """An export: `files` maps relative '/' paths to its files. `root` may be a single directory inside what was named."""

    root: Path
    files: Mapping[str, Path]

    def below(self, prefix: str) -> list[str]:
        """Return the paths that start with `prefix`, sorted."""
        return sorted(name for name in self.files if name.startswith(prefix))

    def get(self, name: str) -> Path | None:
        """Return the file of a path that an export names; None if it is not a file of this export.

        Raises DataFaults for a path that leaves the directory.
        """
        try:
            safe_join(self.root, name)
        except AppError:
            raise DataFaults([Fault(name, tr("a path inside the export"), tr("a path outside of it"))]) from None
        return self.files.get(name.removeprefix("./"))

    def read_text(self, name: str) -> str:
        """Return the text of a file. Raises DataFaults if it is not UTF-8."""
        try:
            return self.files[name].read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise DataFaults([Fault(name, tr("UTF-8 text"), one_line(error))]) from None

    def read_json(self, name: str) -> Any:
        """Return the content of a JSON file. Raises DataFaults if it is invalid."""
        try:
            return json.loads(self.read_text(name))
        except (ValueError, RecursionError) as error:
            raise DataFaults([Fault(name, tr("readable JSON (UTF-8)"), one_line(error))]) from None

    def sha256(self) -> str:
        """Return one hash of all files: SHA-256 over the lines `<sha256>  <path>`, sorted by path."""
        digest = hashlib.sha256()
        names = sorted(self.files)
        for name in progress(names, len(names), tr("reading the export"), tr("files")):
            digest.update(f"{file_sha256(self.files[name])}  {name}\n".encode())
        return digest.hexdigest()


def open_source(root: Path) -> Source:
    """Return the export in a directory. Raises UsageError for a missing one, DataFaults for links that leave it."""
    if not root.is_dir():
        archive = root.is_file() and root.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".7z")
        hint = tr(" (unpack the archive first: python -m zipfile -e FILE.zip DIRECTORY)") if archive else ""
        found = tr("a file") if root.exists() else tr("nothing")
        raise UsageError(
            tr(
                "{source}: expected the directory of an export, found {found}{hint}",
                source=root,
                found=found,
                hint=hint,
            )
        )
    files = data_files(root)
    require_contents(root, files)
    return Source(root, files)


def levels(source: Source) -> Iterator[Source]:
    """Yield the export, and the directories inside of it that are the only entry of their parent.

    Unpacked archives often have such directories.
    """
    yield source
    root, files = source.root, dict(source.files)
    while len(tops := {name.partition("/")[0] for name in files}) == 1 and all("/" in name for name in files):
        root, files = root / tops.pop(), {name.partition("/")[2]: path for name, path in files.items()}
        yield Source(root, files)
