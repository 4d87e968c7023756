"""Links of the models that a model started from (--init): each file is hashed again, and what its commit says compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from core.errors import AppError
from core.hashing import file_sha256
from core.i18n import tr
from lineage.lakefs_links import HEAD_BYTES, LakeFSLinks
from lineage.links import Link, hash_mismatch
from train.warm_start.packages import PREFIX, find_package
from utils.ensemble_file import MAX_BYTES, is_ensemble
from utils.lakefs_utils import LakePath
from utils.lineage import INIT, INIT_DATA_PATH, INIT_RUN_ID, INIT_SHA256
from versioning.provenance.ancestors import MOST, Ancestor, parent_of


def ancestor_links(lakefs: LakeFSLinks, record: Mapping[str, str]) -> Iterator[Link]:
    """Yield the links of the initial model that a run or its commit names, of that one's initial model, and so on.

    Only the first one states facts: those of the others are about other models than the chain's.
    """
    for generation in range(1, MOST):
        try:
            stated = parent_of(record)
        except AppError as error:
            yield Link(tr("initial model"), record[INIT], faults=[str(error)])
            return
        if stated is None:
            return
        link, record = _read(lakefs, stated)
        if generation > 1:
            link.facts = {}
            link.note = ", ".join(filter(None, [tr("of the one before"), link.note]))
        yield link


def _read(lakefs: LakeFSLinks, stated: Ancestor) -> tuple[Link, Mapping[str, str]]:
    """Return the link of an initial model, and the metadata of its commit; empty if it is not in lakeFS."""
    if stated.path is None:
        return _read_local(stated), {}
    ensemble = is_ensemble(stated.path.path)
    kept = MAX_BYTES if ensemble else HEAD_BYTES
    link, found, content = lakefs.read_file(tr("initial model"), stated.path, kept)
    if found is None:
        return link, {}
    for member in lakefs.members(stated.path, link, content) if ensemble else ():
        link.faults += [f"{member.name}: {fault}" for fault in member.faults]
    metadata = lakefs.lake.commit_metadata(stated.path.ref, stated.path.repo)
    link.faults += _faults(stated, found, metadata)
    link.facts = {INIT: stated.reference, INIT_SHA256: found, INIT_RUN_ID: stated.run_id}
    link.facts[INIT_DATA_PATH] = _text(stated.data_path)
    link.note = tr("run {run_id}", run_id=stated.run_id) if stated.run_id else ""
    return link, metadata


def _faults(stated: Ancestor, found: str, metadata: Mapping[str, str]) -> Iterator[str]:
    """Yield where a file in lakeFS, or the metadata of its commit, differ from what was recorded at the start."""
    if found != stated.sha256:
        yield hash_mismatch(tr("the model that was started from"), stated.sha256, found)
    if metadata.get("model_sha256") != stated.sha256:
        return  # a file that no run has committed
    recorded = {"mlflow_run_id": stated.run_id, "lakefs_data_path": _text(stated.data_path)}
    for key, value in recorded.items():
        if value and metadata.get(key, value) != value:
            yield tr(
                "{key}: its commit says {found}, its successor {expected}", key=key, found=metadata[key], expected=value
            )


def _read_local(stated: Ancestor) -> Link:
    """Return the link of a file of this machine, or of an installed package."""
    link = Link(tr("initial model"), stated.reference, facts={INIT: stated.reference}, note=tr("not in lakeFS"))
    try:
        package = find_package(stated.reference) if stated.reference.startswith(PREFIX) else None
        file = Path(stated.reference) if package is None else package.file
        found = file_sha256(file)
    except (AppError, OSError) as error:
        link.faults.append(tr("its SHA-256 {sha256} cannot be verified: {error}", sha256=stated.sha256, error=error))
        return link
    link.facts[INIT_SHA256] = found
    if found != stated.sha256:
        link.faults.append(hash_mismatch(stated.reference, stated.sha256, found))
    return link


def _text(path: LakePath | None) -> str:
    return "" if path is None else str(path)
