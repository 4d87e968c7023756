"""The model of lakefs.lock, which lake.py pull copies beside the data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from config import Settings
from core.hashing import file_sha256
from utils.ensemble_file import parts_of_model, working_copy
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import LakeFS
from versioning.lockfile import Lock
from versioning.pulling.data_loss import find_uncommitted
from versioning.versions import MODEL_PREFIX


def locked_model(settings: Settings, lake: LakeFS, lock: Lock) -> dict[Path, tuple[Path, str]]:
    """Download the lock's model; return where each of its files belongs, with its place in the cache and its SHA-256."""
    file = lake.verified_file(lock.model, lock.model_sha256, settings.cache_dir)
    target = working_copy(settings.model_path, lock.model.path)
    parts = parts_of_model(file, lock.model_sha256).items()
    return {target if part == file else target.with_name(part.name): (part, sha256) for part, sha256 in parts}


def model_at_risk(lake: LakeFS, lock: Lock, model: Mapping[Path, tuple[Path, str]], cache: Path) -> list[str]:
    """Return the names of the model files here that another content would replace, and that no commit holds."""
    present = {target: file_sha256(target) for target in model if target.is_file()}
    changed = {
        target.name: LocalFile(target, sha256) for target, sha256 in present.items() if sha256 != model[target][1]
    }
    return find_uncommitted(lake, lock, changed, MODEL_PREFIX, cache) if changed else []
