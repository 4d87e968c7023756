"""lakeFS as MLflow sees it: model files below `lakefs://`, and data sets whose source lies there.

MLflow finds both classes by the entry points of pyproject.toml, after `pip install --no-deps -e .`: `mlflow models serve`
is a program of its own, which nothing of ours has run in. Code of the project calls `register` and needs no installation.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow.data.dataset_source import DatasetSource
from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from config import load_settings
from core.errors import AppError
from core.files import safe_join
from core.i18n import tr
from utils.lakefs_utils import LakeFS, LakePath, connect

SCHEME = "lakefs"


def register() -> None:
    """Make `lakefs://` known to MLflow in this process."""
    from mlflow.data.dataset_source_registry import register_dataset_source
    from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry

    _artifact_repository_registry.register(SCHEME, LakeFSArtifactRepository)  # type: ignore[no-untyped-call]
    register_dataset_source(LakeFSDatasetSource)  # type: ignore[arg-type]  # it wants the class, as its own callers do


@contextlib.contextmanager
def _connected() -> Iterator[tuple[LakeFS, Path]]:
    """The lakeFS of the settings and the download cache; errors are MLflow's, which its users expect."""

    try:
        settings = load_settings()
        with connect(settings) as lake:
            yield lake, settings.cache_dir
    except AppError as error:
        raise MlflowException(str(error)) from error


def _place(uri: str) -> LakePath:
    """`lakefs://<repo>/<ref>[/<path>]`."""
    try:
        return LakePath.parse(uri if uri.count("/") > 3 else f"{uri}/")
    except AppError as error:
        raise MlflowException(str(error)) from error


class LakeFSArtifactRepository(ArtifactRepository):
    """Reads what lies below a path of a commit, each file checked against its SHA-256; it never writes."""

    def __init__(self, artifact_uri: str, *arguments: Any, **options: Any) -> None:
        super().__init__(artifact_uri, *arguments, **options)
        self.place = _place(artifact_uri)

    def _path(self, below: str | None) -> str:
        return "/".join(part.strip("/") for part in (self.place.path, below or "") if part.strip("/"))

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """Files and folders right below a path, as paths below the repository's own."""
        root, wanted = self._path(None), self._path(path)
        prefix = f"{wanted}/" if wanted else ""
        found: dict[str, FileInfo] = {}
        with _connected() as (lake, _):
            for file in lake.objects(self.place.ref, prefix, self.place.repo):
                name, _, deeper = file.path[len(prefix) :].partition("/")
                shown = (prefix + name)[len(root) + 1 if root else 0 :]
                found[shown] = FileInfo(shown, bool(deeper), None if deeper else file.size_bytes)
        return [found[name] for name in sorted(found)]

    def download_artifacts(self, artifact_path: str = "", dst_path: str | None = None) -> str:
        """Copy what lies at or below a path into `dst_path` (unset: a new folder) and return its local path.

        Raises MlflowException for a path that holds nothing: an empty folder in its place would be taken for a model.
        """
        folder = Path(dst_path) if dst_path else Path(tempfile.mkdtemp(prefix="lakefs-"))
        root, wanted = self._path(None), self._path(artifact_path)
        with _connected() as (lake, cache):
            commit = lake.resolve(self.place.ref, self.place.repo)
            tree = lake.download(LakePath(self.place.repo, commit, wanted), cache)
            for file in lake.objects(commit, wanted, self.place.repo):
                if wanted and file.path != wanted and not file.path.startswith(f"{wanted}/"):
                    continue
                target = safe_join(folder, file.path[len(root) + 1 if root else 0 :])
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(safe_join(tree, file.path), target)  # a copy: the cache is not to be written to
        return str(folder / artifact_path) if artifact_path else str(folder)

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        with _connected() as (lake, cache):
            commit = lake.resolve(self.place.ref, self.place.repo)
            path = self._path(remote_file_path)
            tree = lake.download(LakePath(self.place.repo, commit, path), cache)
            shutil.copyfile(safe_join(tree, path), local_path)

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        raise self._read_only()

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        raise self._read_only()

    def _read_only(self) -> MlflowException:
        return MlflowException(
            tr("{artifact_uri}: a commit does not change: train.py commits models", artifact_uri=self.artifact_uri)
        )


class LakeFSDatasetSource(DatasetSource):
    """The data of a commit: what `mlflow.data.get_source(run.inputs.dataset_inputs[0])` gives for our runs."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    @staticmethod
    def _get_source_type() -> str:
        return SCHEME

    def load(self) -> str:
        """Download the files, checked, and return the folder they lie in (read-only: that of the cache)."""
        place = _place(self.uri)
        with _connected() as (lake, cache):
            commit = lake.resolve(place.ref, place.repo)
            tree = lake.download(LakePath(place.repo, commit, place.path), cache)
            return str(safe_join(tree, place.path) if place.path else tree)

    @staticmethod
    def _can_resolve(raw_source: Any) -> bool:
        return isinstance(raw_source, str) and raw_source.startswith(f"{SCHEME}://")

    @classmethod
    def _resolve(cls, raw_source: Any) -> LakeFSDatasetSource:
        return cls(str(raw_source))

    def to_dict(self) -> dict[str, str]:
        """What the run keeps of it."""
        place = _place(self.uri)
        return {"uri": self.uri, "repository": place.repo, "commit": place.ref}

    @classmethod
    def from_dict(cls, source_dict: dict[Any, Any]) -> LakeFSDatasetSource:
        return cls(str(source_dict["uri"]))
