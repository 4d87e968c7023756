"""A commit's MLmodel file, which tells MLflow what to execute: only what train.py writes is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow.exceptions import MlflowException

from config import Settings
from core.errors import AppError
from core.hashing import file_sha256
from segmentation import pyfunc
from segmentation.model_file import save_model
from tests.support.models import make_model
from utils import mlflow_lakefs, mlflow_utils
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import LakeFS, LakePath, connect
from utils.lineage import Lineage

RUN = "a" * 32


class Lab:
    """An embedded lakeFS server with a model, and commits of it that a stranger has changed."""

    def __init__(self, folder: Path, lake: LakeFS) -> None:
        self.folder, self.lake, self.number = folder, lake, 0
        save_model(folder / "model.pth", make_model())
        self.sha256 = file_sha256(folder / "model.pth")
        self.mark = folder / "executed"
        (folder / "evil.py").write_text(
            f"from pathlib import Path\nPath({str(self.mark)!r}).touch()\ndef _load_pyfunc(path): return None\n"
        )

    def mlmodel(self, change: Callable[[dict[str, Any]], object] | None = None) -> str:
        content = json.loads(pyfunc.mlmodel(RUN, "model.pth", self.sha256))
        if change is not None:
            change(content)
        return json.dumps(content, indent=1)

    def commit(self, mlmodel: str, files: dict[str, Path] | None = None, **metadata: str) -> str:
        """Commit a model with this MLmodel and further files; return its lakefs:// URI."""
        self.number += 1  # equal content would be the commit that exists
        (self.folder / "number.txt").write_text(str(self.number))
        (self.folder / "MLmodel").write_text(mlmodel, encoding="utf-8")
        local = {"number.txt": self.folder / "number.txt"}
        local |= {"MLmodel": self.folder / "MLmodel", "model.pth": self.folder / "model.pth"} | (files or {})
        content = {name: LocalFile(path, file_sha256(path)) for name, path in local.items()}
        done = self.lake.publish(content, "models/", "model", metadata or {"model_sha256": self.sha256}, mirror=True)
        return f"lakefs://{self.lake.repo}/{done.commit_id}/models"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    settings = Settings(lakefs_local_dir=folder / "store", device="cpu")
    with pytest.MonkeyPatch.context() as patched, connect(settings) as lake:
        patched.setattr(mlflow_lakefs, "load_settings", lambda: settings)
        patched.setattr("config.load_settings", lambda: settings)
        mlflow_lakefs.register()
        lake.ensure_repository(settings)
        yield Lab(folder, lake)


def flavor(content: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = content["flavors"]["python_function"]
    return found


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "other loader": lambda c: flavor(c).update(loader_module="evil"),
    "other loader with code": lambda c: flavor(c).update(loader_module="evil", code="code"),
    "loader of MLflow": lambda c: flavor(c).update(loader_module="mlflow.sklearn"),
    "loader of Python": lambda c: flavor(c).update(loader_module="os"),
    "no loader": lambda c: flavor(c).pop("loader_module"),
    "loaders": lambda c: flavor(c).update(loader_module=["segmentation.pyfunc"]),
    "code": lambda c: flavor(c).update(code="code"),
    "code of the flavor": lambda c: flavor(c).update(model_code_path="code/evil.py"),
    "environment": lambda c: flavor(c).update(env="conda.yaml"),
    "environments": lambda c: flavor(c).update(env={"virtualenv": "python_env.yaml"}),
    "configuration": lambda c: flavor(c).update(config={"model_sha256": "0" * 64}),
    "predict": lambda c: flavor(c).update(predict_fn="__reduce__"),
    "other data": lambda c: flavor(c).update(data="other.pth"),
    "climbing data": lambda c: flavor(c).update(data="../../model.pth"),
    "absolute data": lambda c: flavor(c).update(data="/tmp/model.pth"),
    "no data": lambda c: flavor(c).pop("data"),
    "second flavor": lambda c: c["flavors"].update(sklearn={"pickled_model": "evil.pkl"}),
    "other flavor": lambda c: c.update(flavors={"sklearn": {"pickled_model": "evil.pkl"}}),
    "no flavor": lambda c: c.pop("flavors"),
    "flavors": lambda c: c.update(flavors=[flavor(c)]),
    "input example": lambda c: c.update(saved_input_example_info={"artifact_path": "x", "type": "dataframe"}),
    "resources": lambda c: c.update(resources={"api_version": "1"}),
    "external": lambda c: c.update(is_external=True),
    "run": lambda c: c.update(run_id="../../x"),
    "no run": lambda c: c.pop("run_id"),
    "version": lambda c: flavor(c).update(python_version=[3]),
}
TEXTS = {
    "empty": "",
    "list": "[]",
    "null": "null",
    "no JSON": "flavors:\n  python_function:\n    loader_module: evil\n",
    "nested": "[" * 50_000,
    "large": json.dumps({"flavors": "x" * 200_000}),
    "key twice": '{"flavors": {"python_function": {"loader_module": "evil", "loader_module": "train.pyfunc", '
    f'"data": "model.pth"}}}}, "run_id": "{RUN}"}}',
    "Python object": '{"flavors": !!python/object/apply:os.system ["touch executed"]}',
}


@pytest.mark.parametrize("name", [*CHANGES, *TEXTS])
def test_mlmodel_that_train_py_does_not_write_is_not_loaded(lab: Lab, name: str) -> None:
    text = TEXTS[name] if name in TEXTS else lab.mlmodel(CHANGES[name])
    uri = lab.commit(text)
    with pytest.raises(MlflowException, match=r"MLmodel: not an MLmodel file of train\.py"):
        mlflow.pyfunc.load_model(uri)
    with pytest.raises(MlflowException, match="not an MLmodel file"):
        mlflow.artifacts.download_artifacts(uri + "/MLmodel")
    assert not lab.mark.exists()


@pytest.mark.parametrize(
    "name",
    [
        "code/evil.py",
        "evil.py",
        "code/data.txt",
        "requirements.txt",
        "conda.yaml",
        "python_env.yaml",
        "sub/evil.so",
        "evil.whl",
    ],
)
def test_commit_with_code_or_packages_beside_its_model_is_not_loaded(lab: Lab, name: str) -> None:
    uri = lab.commit(lab.mlmodel(), {name: lab.folder / "evil.py"})
    with pytest.raises(MlflowException, match=f"{name} is code or names packages"):
        mlflow.pyfunc.load_model(uri)
    assert not lab.mark.exists()


def test_weights_are_compared_with_the_metadata_of_their_commit(lab: Lab) -> None:
    image = np.zeros((64, 96, 3), np.uint8)
    uri = lab.commit(lab.mlmodel())
    assert mlflow.pyfunc.load_model(uri).predict(image).shape == (64, 96)
    later = lab.commit(lab.mlmodel(), {"notes.txt": lab.folder / "evil.py"}, message="of another file")
    assert mlflow.pyfunc.load_model(later).predict(image).shape == (64, 96), "the commit that wrote it vouches"
    other = lab.commit(lab.mlmodel(lambda c: c["metadata"].update(model_sha256=lab.sha256)), model_sha256="0" * 64)
    with pytest.raises(MlflowException, match=f"SHA-256 differs from its record .expected {'0' * 64}"):
        mlflow.pyfunc.load_model(other)
    for wrong in ("", "no hash"):
        with pytest.raises(MlflowException, match="SHA-256"):
            mlflow.pyfunc.load_model(lab.commit(lab.mlmodel(), model_sha256=wrong))


def record_run(monkeypatch: pytest.MonkeyPatch, path: LakePath, sha256: str | None) -> None:
    """Let MLflow know a run that committed a model, or no run."""
    monkeypatch.setattr(mlflow_utils, "connect", lambda _: None)

    def get_run(_: object, __: object, run_id: str) -> Any:
        if sha256 is None or run_id != RUN:
            raise AppError(f"no run '{run_id}'")
        return SimpleNamespace()

    data = LakePath(path.repo, "1" * 64, "data/")
    monkeypatch.setattr(mlflow_utils, "get_run", get_run)
    monkeypatch.setattr(mlflow_utils, "run_lineage", lambda _: Lineage(RUN, None, path, str(sha256), data, "none", {}))


def test_folder_is_loaded_if_run_and_commit_record_its_hash(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = LakePath.parse(lab.commit(lab.mlmodel()) + "/model.pth")
    for name in ("model.pth", "MLmodel"):
        (tmp_path / name).write_bytes((lab.folder / name).read_bytes())
    record_run(monkeypatch, path, lab.sha256)
    assert mlflow.pyfunc.load_model(str(tmp_path))
    record_run(monkeypatch, path, "0" * 64)
    with pytest.raises(AppError, match="the metadata of its lakeFS commit say"):
        mlflow.pyfunc.load_model(str(tmp_path))
    record_run(monkeypatch, path, None)
    with pytest.raises(AppError, match="nothing vouches for it"):
        mlflow.pyfunc.load_model(str(tmp_path))


def test_hash_beside_the_weights_vouches_for_nothing(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_run(monkeypatch, LakePath.parse(lab.commit(lab.mlmodel()) + "/model.pth"), lab.sha256)
    save_model(tmp_path / "model.pth", make_model(seed=1))
    other = file_sha256(tmp_path / "model.pth")
    (tmp_path / "MLmodel").write_text(pyfunc.mlmodel(RUN, "model.pth", other))
    with pytest.raises(AppError, match=f"SHA-256 differs from its record .expected {lab.sha256}, found {other}"):
        mlflow.pyfunc.load_model(str(tmp_path))
