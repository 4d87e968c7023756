"""The in-toto statement of a model: from which code and data which files were made.

Format: in-toto Statement v1 (https://in-toto.io/Statement/v1) with the predicate SLSA Provenance v1
(https://slsa.dev/provenance/v1). "Materials" of older versions are `resolvedDependencies` there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from core.errors import AppError
from core.i18n import tr
from core.safety.checksummed_json import parse_json
from utils.lineage import Lineage
from versioning.provenance.record import PRODUCER, ModelRecord, timestamp

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = f"{PRODUCER}:train:1"


def statement(record: ModelRecord, products: Mapping[str, str]) -> dict[str, Any]:
    """Return the statement; `products` are file names with their SHA-256."""
    times = {"startedOn": record.started, "finishedOn": record.finished}
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in products.items()],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": dict(record.parameters),
                "internalParameters": {
                    "registeredModel": record.name,
                    "version": record.version,
                    "gate": record.gate.content() if record.gate else {},
                },
                "resolvedDependencies": _dependencies(record),
            },
            "runDetails": {
                "builder": {"id": f"{PRODUCER}:train.py"},
                "metadata": {
                    "invocationId": record.lineage.run_id,
                    **{key: timestamp(time) for key, time in times.items() if time is not None},
                },
                "byproducts": [{"name": "model commit", "uri": str(record.lineage.model_path)}],
            },
        },
    }


def _dependencies(record: ModelRecord) -> list[dict[str, Any]]:
    """Return Git commit, patch, data commit and initial model as resource descriptors."""
    found: list[dict[str, Any]] = []
    if record.commit is not None:
        code: dict[str, Any] = {"name": "code", "digest": {"gitCommit": record.commit}}
        if record.remote is not None:
            code["uri"] = f"git+{record.remote}@{record.commit}"
        found.append(code)
    patch = record.git.get("git_patch_sha256")
    if patch is not None:
        found.append({"name": "changes.patch", "digest": {"sha256": patch}})
    data = {"name": "data", "uri": str(record.lineage.data_path), "digest": {"sha256": record.data_manifest_sha256}}
    started = [
        {"name": "initial model", "uri": ancestor.reference, "digest": {"sha256": str(ancestor.sha256)}}
        for ancestor in record.ancestors[:1]
    ]
    return [*found, data, *started]


def require_same_origin(content: bytes, lineage: Lineage) -> None:
    """Raise AppError if a signed statement is about another model, data, code or version than the registry names."""
    try:
        stated = parse_json(content)
        build = stated["predicate"]["buildDefinition"]
        subjects = {subject["name"]: subject["digest"]["sha256"] for subject in stated["subject"]}
        sources = {source["name"]: source for source in build["resolvedDependencies"]}
        signed = {
            "SHA-256": subjects[PurePosixPath(lineage.model_path.path).name],
            tr("data"): sources["data"]["uri"],
            "Git": sources.get("code", {}).get("digest", {}).get("gitCommit", "none"),
            tr(
                "version"
            ): f"{build['internalParameters']['registeredModel']} v{build['internalParameters']['version']}",
            tr("run"): stated["predicate"]["runDetails"]["metadata"]["invocationId"],
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AppError(tr("the signed statement is not one of a model: {error}", error=repr(error))) from error
    registered = {
        "SHA-256": lineage.model_sha256,
        tr("data"): str(lineage.data_path),
        "Git": lineage.git_commit,
        tr("version"): lineage.version,
        tr("run"): lineage.run_id,
    }
    for name, value in registered.items():
        if signed[name] != value:
            raise AppError(
                tr(
                    "{name} differs: the registry names {registered}, the signature was made for {signed}: "
                    "one of them was changed",
                    name=name,
                    registered=value,
                    signed=signed[name],
                )
            )
