"""A model that is named by its file: its origin is what lakefs.lock says of its SHA-256, else what the file records."""

from __future__ import annotations

from pathlib import Path

from config import ROOT
from core.errors import AppError
from core.i18n import tr
from core.provenance.code_files import LOCK_NAME
from core.reporting import notify
from segmentation.model_file import FileRecord, read_record
from utils.identifiers import NONE, InvalidValue
from utils.lakefs_utils import LakePath
from utils.lineage import Lineage, Origin
from versioning.lockfile import read_lock


def file_origin(path: Path) -> Origin:
    """Return the origin of a model file, and report where it is from. Contacts no server.

    Raises AppError for a file that is not a model, or whose own record is not valid.
    """
    record, lock = read_record(path), read_lock(ROOT)
    if lock is not None and lock.model_sha256 == record.sha256:
        notify(tr("{path}: the model of {lock_name}", path=path, lock_name=LOCK_NAME))
        commit = record.lineage.get("git_commit", NONE)
        fields = (lock.run_id, None, lock.model, lock.model_sha256, lock.data, commit, record.metrics)
        return Lineage(*fields, selected_by=f"file {path}", file=path)
    origin = _recorded_origin(path, record)
    if lock is None:
        where = tr("there is no {lock_name}", lock_name=LOCK_NAME)
    else:
        where = tr("{lock_name} names the model of run {run_id}", lock_name=LOCK_NAME, run_id=lock.run_id)
    notify(
        tr(
            "{path}: SHA-256 {sha256} is recorded nowhere ({where}); its origin is what the file says",
            path=path,
            sha256=record.sha256,
            where=where,
        )
    )
    return origin


def _recorded_origin(path: Path, record: FileRecord) -> Origin:
    """Return the origin that a file states; older files state none."""
    stated = record.lineage
    data_path = stated.get("lakefs_data_path")
    try:
        return Origin(
            run_id=stated.get("run_id", NONE),
            version=None,
            model_path=None,
            model_sha256=record.sha256,
            data_path=LakePath.parse_recorded(data_path) if data_path else None,
            git_commit=stated.get("git_commit", NONE),
            metrics=record.metrics,
            selected_by=f"file {path}",
            file=path,
        )
    except InvalidValue as error:
        raise AppError(
            tr("{path}: its record of its origin is not valid: {reason}", path=path, reason=error)
        ) from error
