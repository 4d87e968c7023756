"""MLmodel files: MLflow executes the module that one names, so that of a commit may name none but the project's own.

What vouches for the weights is never beside them: the metadata of the lakeFS commit that they come from, or the run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from core.errors import AppError
from core.hashing import file_sha256
from core.i18n import tr
from utils.ensemble_file import ENSEMBLE_FILE
from utils.identifiers import InvalidValue, RunId, Sha256

MLMODEL = "MLmodel"
WEIGHTS = ("model.pth", ENSEMBLE_FILE)
LOADERS = ("segmentation.pyfunc", "train.pyfunc")  # of today and of earlier versions
KEYS = frozenset({"flavors", "mlflow_version", "model_uuid", "run_id", "metadata"})  # that train.py writes
FLAVOR_KEYS = frozenset({"loader_module", "data", "python_version"})
MAX_BYTES = 100_000
# From these, MLflow installs packages or imports modules, whatever MLmodel says.
ENVIRONMENT_FILES = ("conda.yaml", "python_env.yaml", "requirements.txt", "constraints.txt")
CODE_SUFFIXES = (".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".whl", ".egg", ".sh")

_VERIFIED: dict[Path, Sha256] = {}  # downloaded weights of this process -> hash that a commit's metadata state


def parse_mlmodel(where: object, content: bytes) -> dict[str, Any]:
    """Return the content of an MLmodel file that train.py wrote. Raises AppError for any other.

    It is JSON, which is YAML too; a key that occurs twice could mean one thing here and another in MLflow.
    """
    try:
        found = json.loads(content[: MAX_BYTES + 1], object_pairs_hook=_unique) if len(content) <= MAX_BYTES else None
        flavors = dict(found or {}).get("flavors")
        flavor = flavors.get("python_function") if isinstance(flavors, dict) and len(flavors) == 1 else None
        if not isinstance(found, dict) or not isinstance(flavor, dict):
            raise ValueError(tr("it does not have exactly the flavor python_function"))
        unknown = sorted({*(found.keys() - KEYS), *(flavor.keys() - FLAVOR_KEYS)})
        if unknown:
            raise ValueError(tr("unknown keys {names}", names=", ".join(ascii(name)[:40] for name in unknown[:5])))
        if flavor.get("loader_module") not in LOADERS or flavor.get("data") not in WEIGHTS:
            raise ValueError(
                tr(
                    "it loads {data} by {loader}, expected {weights} by {loaders}",
                    data=ascii(flavor.get("data"))[:80],
                    loader=ascii(flavor.get("loader_module"))[:80],
                    weights=" | ".join(WEIGHTS),
                    loaders=" | ".join(LOADERS),
                )
            )
        if not all(type(value) is str for value in (*flavor.values(), found.get("mlflow_version", ""))):
            raise ValueError(tr("a value is not a text"))
        RunId(found.get("run_id"))
    except (ValueError, TypeError, RecursionError, InvalidValue) as error:
        raise AppError(
            tr("{path}: not an MLmodel file of train.py ({error}): not loaded", path=where, error=str(error)[:300])
        ) from error
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError(tr("a key occurs twice"))
    return dict(pairs)


def reject_code(where: object, names: Iterable[str]) -> None:
    """Raise AppError if files at or below a model's directory are code, or packages that MLflow would install."""
    for name in names:
        path = PurePosixPath(name)
        if path.name in ENVIRONMENT_FILES or path.suffix.lower() in CODE_SUFFIXES or "code" in path.parts[:-1]:
            raise AppError(
                tr(
                    "{path}: {name} is code or names packages, which no model of train.py has: not loaded",
                    path=where,
                    name=name,
                )
            )


def remember_verified(weights: Path, sha256: Sha256, where: object) -> None:
    """Compare downloaded weights with a hash from another place than their directory. Raises AppError."""
    found = file_sha256(weights)
    if found != sha256:
        raise AppError(
            tr(
                "{path}: SHA-256 differs from its record (expected {sha256}, found {found}): not opened",
                path=where,
                sha256=sha256,
                found=found,
            )
        )
    _VERIFIED[weights.resolve()] = sha256


def verified_sha256(weights: Path) -> Sha256 | None:
    """Return the hash that a commit's metadata state of weights that this process downloaded."""
    return _VERIFIED.get(weights.resolve())
