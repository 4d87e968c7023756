"""The models that a model started from: the one that its run names, the one that that was trained from, and so on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from core.errors import AppError
from core.i18n import tr
from utils.identifiers import RecordedRun, Sha256
from utils.lakefs_utils import LakeFS, LakePath
from utils.lineage import INIT, INIT_DATA_PATH, INIT_RUN_ID, INIT_SHA256, INIT_START

LAKEFS = "lakefs://"
MOST = 1000  # generations; no history has so many


@dataclass(frozen=True)
class Ancestor:
    """A model as its successor recorded it when it started from it."""

    reference: str  # its path in lakeFS, a file, or package:NAME==VERSION
    sha256: Sha256
    run_id: str  # empty if it was not known
    data_path: LakePath | None  # the data that it was trained on; None if it was not known
    start: str = ""  # what it had started from, if no record leads there; empty: nothing, or its commit says it

    @property
    def path(self) -> LakePath | None:
        """Its path in lakeFS; None if it was somewhere else. Raises InvalidValue for one without a full commit ID."""
        return LakePath.parse_recorded(self.reference) if self.reference.startswith(LAKEFS) else None


def parent_of(record: Mapping[str, str]) -> Ancestor | None:
    """Return the model that the parameters of a run, or the metadata of a model's commit, name as the start.

    None: it was trained from random or published weights. Raises InvalidValue for a record that train.py does not write.
    """
    if INIT not in record:
        return None
    run_id, data_path = record.get(INIT_RUN_ID, ""), record.get(INIT_DATA_PATH, "")
    if record[INIT].startswith(LAKEFS):
        LakePath.parse_recorded(record[INIT])
    return Ancestor(
        record[INIT],
        Sha256(record.get(INIT_SHA256, "")),
        RecordedRun(run_id) if run_id else "",
        LakePath.parse_recorded(data_path) if data_path else None,
        record.get(INIT_START, ""),
    )


def ancestors(lake: LakeFS, model: LakePath) -> Iterator[Ancestor]:
    """Yield the models that a model of lakeFS was trained from, the nearest first, by the metadata of their commits.

    Raises AppError if a commit cannot be read, or if the records do not end.
    """
    place: LakePath | None = model
    for _ in range(MOST):
        if place is None:
            return
        found = parent_of(lake.commit_metadata(place.ref, place.repo))
        if found is None:
            return
        yield found
        place = found.path
    raise AppError(
        tr("{model}: its records name more than {most} ancestors: they were changed", model=model, most=MOST)
    )
