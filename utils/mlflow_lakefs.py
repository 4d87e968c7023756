"""MLflow plugins for lakeFS: an artifact repository for `lakefs://` URIs and a data set source.

After `pip install --no-deps -e .`, MLflow finds both classes by the entry points of pyproject.toml, also in its own
programs such as `mlflow models serve`. Code of the project calls `register` and needs no installation.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
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
from utils.identifiers import Sha256
from utils.lakefs_utils import LakeFS, LakePath, connect
from utils.mlmodel import MLMODEL, WEIGHTS, parse_mlmodel, reject_code, remember_verified

SCHEME = "lakefs"


def register() -> None:
    """Register `lakefs://` with MLflow in this process.

    MLflow has no public function for artifact repositories: `_artifact_repository_registry` is a private API.
    """
    from mlflow.data.dataset_source_registry import register_dataset_source
    from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry

    _artifact_repository_registry.register(SCHEME, LakeFSArtifactRepository)  # type: ignore[no-untyped-call]
    # Annotated as an instance, but it expects the class.
    register_dataset_source(LakeFSDatasetSource)  # type: ignore[arg-type]


@contextlib.contextmanager
def _connected() -> Iterator[tuple[LakeFS, Path]]:
    """Yield the configured lakeFS and the download cache; convert AppError to MlflowException."""
    try:
        settings = load_settings()
        with connect(settings) as lake:
            yield lake, settings.cache_dir
    except AppError as error:
        raise MlflowException(str(error)) from error


def _parse(uri: str) -> LakePath:
    """Parse lakefs://<repo>/<ref>[/<path>]. Raises MlflowException for anything else."""
    try:
        return LakePath.parse(uri if uri.count("/") > 3 else f"{uri}/")
    except AppError as error:
        raise MlflowException(str(error)) from error


def _check_model(tree: Path, mlmodel: str, paths: Sequence[str]) -> str:
    """Return the path of the weights that an MLmodel file of a commit names.

    Raises AppError unless that file, and what is beside it, make MLflow execute only this project.
    """
    folder = mlmodel.removesuffix(MLMODEL)
    content = parse_mlmodel(mlmodel, safe_join(tree, mlmodel).read_bytes())
    reject_code(mlmodel, [path.removeprefix(folder) for path in paths if path.startswith(folder)])
    return folder + str(content["flavors"]["python_function"]["data"])


def _weights_of(tree: Path, paths: Sequence[str]) -> set[str]:
    """Return the paths of weights that a commit's metadata must vouch for: those that an MLmodel names.

    A commit may have the files of an earlier model beside them. Where there is no MLmodel, each file with the name of a
    model counts. Raises AppError for an MLmodel that is not the project's.
    """
    described = {path.removesuffix(MLMODEL) for path in paths if path.rpartition("/")[2] == MLMODEL}
    weights = {_check_model(tree, folder + MLMODEL, paths) for folder in described}
    alone = {path for path in paths if path.rpartition("/")[2] in WEIGHTS}
    return weights | {path for path in alone if path[: path.rfind("/") + 1] not in described}


def _recorded_sha256(lake: LakeFS, weights: LakePath) -> Sha256:
    """Return the hash of a model file in the metadata of the commit that it comes from. Raises AppError without one."""
    recorded = lake.commit_metadata(weights.ref, weights.repo).get("model_sha256")
    if recorded is None:  # a later commit, of other files
        commits = lake.log(weights.ref, first_parent=False, prefix=weights.path, repo=weights.repo)
        recorded = next((c.metadata["model_sha256"] for c in commits if "model_sha256" in c.metadata), None)
    if recorded is None:
        raise AppError(
            tr("{path}: no commit's metadata have its SHA-256, as those of train.py do: not opened", path=weights)
        )
    return Sha256(recorded)


class LakeFSArtifactRepository(ArtifactRepository):
    """Read-only artifact repository: the files below a path of a commit, verified by SHA-256."""

    def __init__(self, artifact_uri: str, *arguments: Any, **options: Any) -> None:
        super().__init__(artifact_uri, *arguments, **options)
        self.source = _parse(artifact_uri)

    def _full_path(self, below: str | None) -> str:
        """Return the path in the lakeFS repository of an artifact path."""
        return "/".join(part.strip("/") for part in (self.source.path, below or "") if part.strip("/"))

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """Return the files and directories directly below a path, with paths relative to the artifact URI."""
        root, wanted = self._full_path(None), self._full_path(path)
        prefix = f"{wanted}/" if wanted else ""
        found: dict[str, FileInfo] = {}
        with _connected() as (lake, _):
            for file in lake.objects(self.source.ref, prefix, self.source.repo):
                name, _, deeper = file.path[len(prefix) :].partition("/")
                shown = (prefix + name)[len(root) + 1 if root else 0 :]
                found[shown] = FileInfo(shown, bool(deeper), None if deeper else file.size_bytes)
        return [found[name] for name in sorted(found)]

    def download_artifacts(self, artifact_path: str = "", dst_path: str | None = None) -> str:
        """Copy the files at or below a path to `dst_path` (unset: a new directory) and return its local path.

        Raises MlflowException if there are none: MLflow would take an empty directory for a model.
        """
        folder = Path(dst_path) if dst_path else Path(tempfile.mkdtemp(prefix="lakefs-"))
        root, wanted = self._full_path(None), self._full_path(artifact_path)
        with _connected() as (lake, cache):
            commit = lake.resolve(self.source.ref, self.source.repo)
            tree = lake.download(LakePath(self.source.repo, commit, wanted), cache)
            paths = [file.path for file in lake.objects(commit, wanted, self.source.repo)]
            paths = [path for path in paths if not wanted or path == wanted or path.startswith(f"{wanted}/")]
            weights = _weights_of(tree, paths)  # before anything is where MLflow looks for it
            targets = {path: safe_join(folder, path[len(root) + 1 if root else 0 :]) for path in paths}
            for path, target in targets.items():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(safe_join(tree, path), target)  # a copy: files of the cache must not be changed
            for path, target in targets.items():
                if path in weights:
                    where = LakePath(self.source.repo, commit, path)
                    remember_verified(target, _recorded_sha256(lake, where), where)
        return str(folder / artifact_path) if artifact_path else str(folder)

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        with _connected() as (lake, cache):
            commit = lake.resolve(self.source.ref, self.source.repo)
            path = self._full_path(remote_file_path)
            tree = lake.download(LakePath(self.source.repo, commit, path), cache)
            if path.rpartition("/")[2] == MLMODEL:
                _check_model(tree, path, [path])
            shutil.copyfile(safe_join(tree, path), local_path)

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        raise self._read_only_error()

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        raise self._read_only_error()

    def _read_only_error(self) -> MlflowException:
        return MlflowException(
            tr("{artifact_uri} is read-only: train.py commits models", artifact_uri=self.artifact_uri)
        )


class LakeFSDatasetSource(DatasetSource):
    """Data of a commit, as returned by `mlflow.data.get_source(run.inputs.dataset_inputs[0])`."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    @staticmethod
    def _get_source_type() -> str:
        return SCHEME

    def load(self) -> str:
        """Download and verify the files; return their directory in the cache, which must not be changed."""
        source = _parse(self.uri)
        with _connected() as (lake, cache):
            commit = lake.resolve(source.ref, source.repo)
            tree = lake.download(LakePath(source.repo, commit, source.path), cache)
            return str(safe_join(tree, source.path) if source.path else tree)

    @staticmethod
    def _can_resolve(raw_source: Any) -> bool:
        return isinstance(raw_source, str) and raw_source.startswith(f"{SCHEME}://")

    @classmethod
    def _resolve(cls, raw_source: Any) -> LakeFSDatasetSource:
        return cls(str(raw_source))

    def to_dict(self) -> dict[str, str]:
        """Return the values that the run records."""
        source = _parse(self.uri)
        return {"uri": self.uri, "repository": source.repo, "commit": source.ref}

    @classmethod
    def from_dict(cls, source_dict: dict[Any, Any]) -> LakeFSDatasetSource:
        return cls(str(source_dict["uri"]))
