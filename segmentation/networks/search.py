"""Where published weights are looked for before the internet: a named file, WEIGHTS_DIR, the caches of torch and its hub.

An installed package comes before these unless a file is named, see `encoder_fpn`.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import AppError, UsageError, describe_error
from core.i18n import tr

SAFE = ".safetensors"
HASHED_NAME = re.compile(r"-([0-9a-f]{8,64})\.")  # of files of torch's hub: the beginning of their SHA-256


@dataclass(frozen=True)
class WeightsFile:
    """The content of a file with weights, and where it was found."""

    source: str
    name: str
    content: bytes
    config: bytes | None = None  # config.json beside it

    @property
    def sha256(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.content).hexdigest()

    @classmethod
    def read(cls, path: Path, source: str) -> WeightsFile:
        """Read a file, once: the bytes that are hashed are the ones that are loaded. Raises UsageError."""
        try:
            config = path.with_name("config.json")
            return cls(source, path.name, path.read_bytes(), config.read_bytes() if config.is_file() else None)
        except OSError as error:
            raise UsageError(tr("--pretrained {path}: {error}", path=source, error=error.strerror or error)) from error


@dataclass(frozen=True)
class Places:
    """What the settings say about published weights."""

    named: WeightsFile | None = None  # nothing else is used
    directory: Path | None = None  # WEIGHTS_DIR, see `require_weights_dir`

    def find(self, names: Sequence[str], cached: Iterable[Path | None] = ()) -> WeightsFile | None:
        """Return the named file, else the first of these names in WEIGHTS_DIR, else the first cached file that exists.

        Raises AppError for a file that its name says is another.
        """
        if self.named is not None:
            return self.named
        if self.directory is not None:
            found = next((self.directory / name for name in names if (self.directory / name).is_file()), None)
            if found is not None:
                return _checked(WeightsFile.read(found, f"WEIGHTS_DIR, {found}"))
        cache = next((path for path in cached if path is not None and path.is_file()), None)
        return None if cache is None else _checked(WeightsFile.read(cache, f"cache, {cache}"))


def require_weights_dir(path: Path | None) -> None:
    """Raise UsageError for a WEIGHTS_DIR that is not a directory, also if the weights are found elsewhere first."""
    if path is not None and not path.is_dir():
        raise UsageError(tr("WEIGHTS_DIR={path}: no such directory", path=path))


def _checked(found: WeightsFile) -> WeightsFile:
    """Return a file whose name holds the beginning of its SHA-256, as torch's hub names it. Raises AppError for others."""
    stated = HASHED_NAME.search(found.name)
    if stated and not found.sha256.startswith(stated[1]):
        raise AppError(
            tr(
                "{path}: SHA-256 {found}, but its name says {expected}: download it again",
                path=found.source,
                found=found.sha256,
                expected=stated[1],
            )
        )
    return found


def hub_file(url: str) -> Path:
    """Return where torch's hub keeps a file that it has downloaded."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def cached_repository_file(repository: str | None, name: str, revision: str | None = None) -> Path | None:
    """Return a file in the cache of the Hugging Face Hub, None if it is not there."""
    if not repository:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def read_tensors(found: WeightsFile) -> dict[str, Tensor]:
    """Return the tensors of a file by name, in its order; nothing in it is executed. Raises AppError for another file."""
    try:
        if found.name.endswith(SAFE):
            from safetensors.torch import load

            tensors: Any = load(found.content)
        else:
            tensors = torch.load(io.BytesIO(found.content), map_location="cpu", weights_only=True)
        for key in ("state_dict", "model"):  # of checkpoints
            if isinstance(tensors, dict) and isinstance(tensors.get(key), dict):
                tensors = tensors[key]
        if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
            raise ValueError(tr("not a dict of tensors"))
        return dict(tensors)
    except Exception as error:  # damaged files raise many types
        reason = describe_error(error).split(". ")[0]
        raise AppError(tr("{path}: not a file of weights ({reason})", path=found.source, reason=reason)) from error


def no_fit(found: WeightsFile, name: str, reason: object) -> AppError:
    """Return the error for weights of another network; `reason` may be a library's message of many lines."""
    first = " ".join(str(reason).split())[:300]
    return AppError(
        tr(
            "{path}: not the published weights of '{name}' ({reason}): name another file, or leave out --pretrained",
            path=found.source,
            name=name,
            reason=first,
        )
    )
