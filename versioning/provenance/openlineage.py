"""The training as an OpenLineage event, for catalogues such as Marquez and DataHub (https://openlineage.io/spec/2-0-2)."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from utils.lakefs_utils import LakePath
from versioning.provenance.record import PRODUCER, ModelRecord, timestamp

SPEC = "https://openlineage.io/spec"
EVENT_SCHEMA = f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
VERSION_SCHEMA = f"{SPEC}/facets/1-0-1/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet"
CODE_SCHEMA = f"{SPEC}/facets/1-0-1/SourceCodeLocationJobFacet.json#/$defs/SourceCodeLocationJobFacet"


def run_event(record: ModelRecord) -> dict[str, Any]:
    """Return the event COMPLETE of the run: its code, its data and initial model as input, the model as output."""
    lineage, started = record.lineage, [ancestor.path for ancestor in record.ancestors[:1]]
    finished = record.finished or datetime.fromtimestamp(0, UTC)  # required; the run was deleted
    return {
        "eventType": "COMPLETE",
        "eventTime": timestamp(finished),
        "run": {"runId": str(uuid.UUID(lineage.run_id))},
        "job": {"namespace": PRODUCER, "name": "train.py", "facets": _code(record)},
        "inputs": [_dataset(path) for path in (lineage.data_path, *started) if path is not None],
        "outputs": [_dataset(lineage.model_path)],
        "producer": PRODUCER,
        "schemaURL": EVENT_SCHEMA,
    }


def _code(record: ModelRecord) -> dict[str, Any]:
    if record.commit is None:
        return {}
    url = f"git+{record.remote}@{record.commit}" if record.remote else f"urn:git:{record.commit}"
    facet = {"_producer": PRODUCER, "_schemaURL": CODE_SCHEMA, "type": "git", "url": url, "version": record.commit}
    return {"sourceCodeLocation": facet}


def _dataset(path: LakePath) -> dict[str, Any]:
    facet = {"_producer": PRODUCER, "_schemaURL": VERSION_SCHEMA, "datasetVersion": path.ref}
    return {"namespace": f"lakefs://{path.repo}", "name": path.path.rstrip("/"), "facets": {"version": facet}}
