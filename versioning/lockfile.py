"""lakefs.lock: the data and the model that belong to this code. Git versions it, train.py rewrites it.

A Git commit or tag therefore names its data and its model by full commit id and hash.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config import ROOT, Settings
from core import git
from core.errors import AppError, UsageError, describe_error
from core.files import require_content, write_atomically
from core.i18n import tr
from core.provenance import code_files
from core.provenance.code_files import LOCK_NAME
from core.safety.checksummed_json import parse_json
from utils.identifiers import CommitId, RunId, Sha256
from utils.lakefs_client.connection import MissingRepository
from utils.lakefs_utils import LakeFS, LakePath, connect

EMBEDDED = "embedded"  # the server of a lock whose data is in the embedded store of the clone that trained

OWN_STORE = ".lakefs"  # default of LAKEFS_LOCAL_DIR: the embedded store of a clone


@dataclass(frozen=True)
class Lock:
    """`data_manifest_sha256` is that of `lakefs_utils.manifest_sha256` over the data's paths in lakeFS."""

    data: LakePath
    data_manifest_sha256: Sha256
    model: LakePath
    model_sha256: Sha256
    run_id: RunId
    server: str = ""  # URL of the lakeFS server, or EMBEDDED; unknown in files of older versions

    def text(self) -> str:
        """Return JSON with sorted keys and a final newline: equal content gives an equal file, and diffs are readable."""
        content = {
            "data": {**_shown(self.data), "manifest_sha256": self.data_manifest_sha256},
            "model": {**_shown(self.model), "sha256": self.model_sha256},
            "mlflow_run_id": self.run_id,
            "version": 1,
            **({"server": self.server} if self.server else {}),
        }
        return json.dumps(content, indent=2, sort_keys=True) + "\n"


def write_lock(folder: Path, lock: Lock) -> Path:
    """Replace the lock atomically; one with the same content is not touched."""
    path = code_files.lock_path(folder)
    if not path.exists() or path.read_bytes() != lock.text().encode():
        write_atomically(path, lock.text().encode())
    return path


def read_lock(folder: Path) -> Lock | None:
    """Return the lock in a directory, or None. Raises UsageError for an invalid file."""
    path = code_files.lock_path(folder)
    require_content(path)
    try:
        return parse_lock(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise _not_a_lock(str(path), error) from error


def parse_lock(text: str, where: str) -> Lock:
    """Parse a lock. Raises UsageError for an invalid one, naming `where` it was read."""
    try:
        content = parse_json(text)
        data, model = content["data"], content["model"]
        if content["version"] != 1:
            raise ValueError(f"version {content['version']}")
        if not str(data["path"]).endswith("/"):
            raise ValueError(f"data path {data['path']!r:.80}")
        return Lock(
            data=_path(data),
            data_manifest_sha256=Sha256(data["manifest_sha256"]),
            model=_path(model),
            model_sha256=Sha256(model["sha256"]),
            run_id=RunId(content["mlflow_run_id"]),
            server=_server(content.get("server", "")),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _not_a_lock(where, error) from error


def _not_a_lock(where: str, error: Exception) -> UsageError:
    return UsageError(
        tr(
            "{where}: not a valid lock ({reason}): restore it by 'git checkout -- {lock_name}', or "
            "remove it and run train.py",
            where=where,
            reason=describe_error(error),
            lock_name=LOCK_NAME,
        )
    )


def require_lock(folder: Path) -> Lock:
    """Return the lock in a directory. Raises UsageError if there is none."""
    lock = read_lock(folder)
    if lock is None:
        raise UsageError(
            tr(
                "no {folder}: train.py writes it, and git checkout restores a committed one",
                folder=folder / LOCK_NAME,
            )
        )
    return lock


def is_reachable(lake: LakeFS, lock: Lock) -> bool:
    """Return whether the server has the data commit of the lock."""
    try:
        lake.resolve(lock.data.ref, lock.data.repo)
    except UsageError:
        return False
    return True


def unreachable_data(lock: Lock, lake: LakeFS) -> UsageError:
    """Return the error for a lock whose data is in another store than the configured one: where it is, what to set."""
    server = tr("set LAKEFS_ENDPOINT, LAKEFS_ACCESS_KEY_ID, LAKEFS_SECRET_ACCESS_KEY and MLFLOW_TRACKING_URI")
    clone = tr(
        "set LAKEFS_LOCAL_DIR to the .lakefs directory of the clone that trained it and MLFLOW_TRACKING_URI to "
        "sqlite:///PATH of its mlflow.db, or run lake.py push --to URL there and set LAKEFS_ENDPOINT and its keys here"
    )
    if lock.server == EMBEDDED:
        where = _settings_of_origin() or tr("it is in the embedded store of another clone: {fix}", fix=clone)
    elif lock.server:
        where = tr("it is on lakeFS {server}: {fix}", server=lock.server, fix=server)
    else:
        where = tr(
            "it is on a lakeFS server ({on_server}) or in the embedded store of another clone ({in_clone})",
            on_server=server,
            in_clone=clone,
        )
    author = git.run(ROOT, "log", "-1", "--format=%an", "--", LOCK_NAME)
    if author:
        where += " " + tr("({lock_name} was committed by {author})", lock_name=LOCK_NAME, author=author)
    commits = {"lock_name": LOCK_NAME, "data": lock.data.ref[:12], "model": lock.model.ref[:12], "store": lake.store}
    if lake.has_repository(lock.data.repo):
        text = tr(
            "{lock_name}: data commit {data} (model commit {model}) is not in {store}: {where}", **commits, where=where
        )
    else:
        text = tr(
            "{lock_name}: data commit {data} (model commit {model}) is not in {store}, which has no repository "
            "'{repo}': {where}",
            **commits,
            repo=lock.data.repo,
            where=where,
        )
    return UsageError(text)


def _settings_of_origin() -> str | None:
    """Return the settings that use the store of the clone that this one was cloned from; None if it is not a directory."""
    origin = Path((git.run(ROOT, "remote", "get-url", "origin") or "").removeprefix("file://"))
    store = origin / OWN_STORE
    if not origin.is_absolute() or not store.is_dir():
        return None
    return tr(
        "it is in the embedded store of another clone; to use that of {origin}, from which this one was cloned, set "
        "LAKEFS_LOCAL_DIR={store} MLFLOW_TRACKING_URI={uri}",
        origin=origin,
        store=shlex.quote(str(store)),
        uri=shlex.quote(f"sqlite:///{(origin / 'mlflow.db').as_posix()}"),
    )


@contextlib.contextmanager
def explained_by_lock(settings: Settings, errors: type[AppError] = MissingRepository) -> Iterator[None]:
    """Where the configured store lacks the repository of lakefs.lock, replace these errors by that of the lock.

    In a colleague's clone, "no such run" and "no such branch" have one cause: the store that has them is another one.
    """
    try:
        yield
    except errors as error:
        explanation = _explanation(settings)
        if explanation is None:
            raise
        raise explanation from error


def _explanation(settings: Settings) -> UsageError | None:
    """Return the error for the lock if the store lacks its repository; None if it does not, or cannot be asked."""
    lock = read_lock(ROOT)
    if lock is None:
        return None
    try:
        with connect(settings) as lake:
            return None if lake.has_repository(lock.data.repo) else unreachable_data(lock, lake)
    except AppError:  # the first error is the one to show
        return None


def _shown(path: LakePath) -> dict[str, str]:
    return {"commit": path.ref, "path": path.path, "repository": path.repo}


def _path(entry: dict[str, Any]) -> LakePath:
    """Return the path of an entry. Raises InvalidValue, also for a short commit id, which could become ambiguous."""
    return LakePath(entry["repository"], CommitId(entry["commit"]), entry["path"])


def _server(value: object) -> str:
    """Return where the data is, for messages. Raises ValueError if it is no URL, and not `EMBEDDED`."""
    if value in ("", EMBEDDED):
        return str(value)
    if not isinstance(value, str) or not re.fullmatch(r"https?://[\x21-\x7e]{1,1000}", value):
        raise ValueError(f"server {value!r:.80}")
    return value
