"""A release: releases/TAG/ in lakeFS, which holds a promoted model, files about its origin, and their signature.

model.pth, MLmodel, metrics.json   as committed by the training; or ensemble.json and its members in the place of model.pth
provenance.json                    in-toto statement: code and data that the model was made from
openlineage.json                   the training as an OpenLineage event
model_card.md                      the same for people
model.sig                          signature of all of them, if there is a key
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import AppError
from core.files import link_or_copy, safe_join, write_atomically
from core.hashing import file_sha256
from core.i18n import tr
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import LakeFS, LakePath
from utils.lineage import Lineage
from versioning.provenance.card import model_card
from versioning.provenance.openlineage import run_event
from versioning.provenance.record import ModelRecord
from versioning.provenance.signing import SIGNATURE, sign_directory, verify_directory
from versioning.provenance.statement import require_same_origin, statement

RELEASE_PREFIX = "releases/"
STATEMENT, EVENT, CARD = "provenance.json", "openlineage.json", "model_card.md"


@dataclass(frozen=True)
class SigningKey:
    """File of a private key, and its password if it is encrypted."""

    path: Path
    password: str | None


def write_release(folder: Path, record: ModelRecord, products: Mapping[str, Path], key: SigningKey | None) -> None:
    """Write a release into an empty directory; `products` are the names and files of the model's commit."""
    for name, file in products.items():
        link_or_copy(file, folder / name)
    hashes = {name: file_sha256(folder / name) for name in products}
    write_atomically(folder / STATEMENT, _json(statement(record, hashes)))
    write_atomically(folder / EVENT, _json(run_event(record)))
    write_atomically(folder / CARD, model_card(record, hashes).encode())
    if key is not None:
        sign_directory(folder, key.path, key.password)


def publish_release(
    lake: LakeFS, record: ModelRecord, tag: str, products: Mapping[str, Path], key: SigningKey | None, work: Path
) -> LakePath:
    """Commit a release to lakeFS and return its directory there; `work` is a directory for temporary files."""
    folder = safe_join(work, tag)
    shutil.rmtree(folder, ignore_errors=True)  # left by an interrupted call
    folder.mkdir(parents=True)
    write_release(folder, record, products, key)
    files = {path.name: LocalFile(path, file_sha256(path)) for path in sorted(folder.iterdir())}
    state = "signed" if key is not None else "unsigned"
    metadata = {
        "mlflow_run_id": record.lineage.run_id,
        "registered_model": record.name,
        "model_version": record.version,
        "model_sha256": record.lineage.model_sha256,
        "lakefs_model_path": str(record.lineage.model_path),
    }
    prefix = f"{RELEASE_PREFIX}{tag}/"
    message = f"release: {record.name} v{record.version} ({state})"
    done = lake.publish(files, prefix, message, metadata, mirror=True)
    shutil.rmtree(folder)
    return LakePath(lake.repo, done.commit_id, prefix)


def verified_release(lake: LakeFS, path: LakePath, key: Path, lineage: Lineage, cache: Path) -> Path:
    """Download a release, verify its signature and that it is of this model, and return its directory. Raises AppError."""
    folder = safe_join(lake.download(path, cache), path.path)
    if not (folder / SIGNATURE).is_file():
        raise AppError(
            tr(
                "{path} is not signed: run SIGNING_KEY=KEY register_model.py --rollback {number}",
                path=path,
                number=str(lineage.version).rpartition(" v")[2],
            )
        )
    verify_directory(folder, key)
    require_same_origin((folder / STATEMENT).read_bytes(), lineage)
    return folder


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
