"""Runs in MLflow and models in lakeFS of a chosen quality, made quickly and without training."""

from __future__ import annotations

import io
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from config import Settings
from core.hashing import file_sha256
from dataset.classes import ClassMap, UInt8, build_classes
from dataset.directory import composed
from dataset.faults import DataWarning
from dataset.samples import committed_items
from registry.promotion import Promotion
from registry.versions import Registry
from segmentation import evaluation
from segmentation.model import Model
from segmentation.model_file import save_model
from segmentation.networks.registry import build_network
from segmentation.preprocess import Normalisation
from tests.support.servers import Server
from utils import mlflow_utils
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import LakeFS, LakePath, connect

SIDE = 16  # pixels, height and width of an image
QUALITY = "quality"  # metric in a model's file: share of the rows of each image that the model predicts correctly
CPU = torch.device("cpu")


def road_and_car(*names: str) -> ClassMap:
    """Return classes numbered from 0, `road` and `car` by default."""
    return build_classes((i, name, None, False) for i, name in enumerate(names or ("road", "car")))


def segment_by_quality(model: Model, images: Sequence[UInt8], device: torch.device) -> list[UInt8]:
    """Replace `evaluation.segment`: the mask is in the red channel; below the share QUALITY of the rows, classes swap."""
    found = []
    for image in images:
        car, road = model.classes.names.index("car"), model.classes.names.index("road")
        labels = np.where(image[..., 0] > 127, car, road).astype(np.uint8)
        # An ensemble, which has no metrics, is perfect: it was trained on all images.
        wrong = round(model.metrics.get(QUALITY, 1.0) * len(labels))
        labels[wrong:] = np.where(labels[wrong:] == car, road, car)
        found.append(labels)
    return found


def _png(pixels: UInt8) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@dataclass
class Lab:
    """A registered model in MLflow and a lakeFS repository, both under new names."""

    settings: Settings
    client: MlflowClient
    lake: LakeFS
    folder: Path
    cars: bool = True  # whether new images contain a car
    made: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)  # name -> image and mask

    @property
    def name(self) -> str:
        return self.settings.registered_model

    def data(
        self,
        train: Sequence[str],
        val: Sequence[str],
        classes: ClassMap | None = None,
        groups: Mapping[str, str] | None = None,
    ) -> LakePath:
        """Commit images with these names; an image of one name has the same bytes in each commit.

        `groups`, name -> group, becomes groups.csv.
        """
        files = {}
        if groups is not None:
            rows = "".join(f"{name},{group}\n" for name, group in groups.items())
            files["groups.csv"] = self._file(f"name,group\n{rows}".encode())
        for split, names in (("train", train), ("val", val)):
            for name in names:
                image, mask = self._image(name)
                files[f"{split}/images/{name}.png"] = self._file(image)
                files[f"{split}/masks/{name}.png"] = self._file(mask)
        entries = (classes or road_and_car()).names
        listed = [{"id": i, "name": name} for i, name in enumerate(entries)]
        files["classes.json"] = self._file(json.dumps(listed).encode())
        done = self.lake.publish(files, "data/", "data", {}, mirror=True)
        return LakePath(self.lake.repo, done.commit_id, "data/")

    def _image(self, name: str) -> tuple[bytes, bytes]:
        name = composed(name)
        if name not in self.made:
            mask = np.zeros((SIDE, SIDE), np.uint8)
            mask[:, SIDE // 2 :] = self.cars
            noise = np.frombuffer(secrets.token_bytes(SIDE * SIDE * 2), np.uint8).reshape(SIDE, SIDE, 2)
            noise = noise // 6 if name.startswith("night/") else noise
            image = np.concatenate([(mask * 255)[..., None], noise], 2)
            self.made[name] = _png(image), _png(mask)
        return self.made[name]

    def _file(self, content: bytes) -> LocalFile:
        path = self.folder / secrets.token_hex(8)
        path.write_bytes(content)
        return LocalFile(path, file_sha256(path))

    def run(
        self,
        quality: float,
        data: LakePath,
        classes: ClassMap | None = None,
        experiment: str | None = None,
        warnings: tuple[DataWarning, ...] = (),
        start: Mapping[str, str] | None = None,
    ) -> Run:
        """Create a finished run whose model has this quality, with the metrics that the gate will measure.

        The model is committed to the branch of the `experiment`, if one is named; `start` is what its metadata say about
        the model that it started from.
        """
        classes = classes or road_and_car()
        metrics = {QUALITY: quality}
        network = build_network("compact_unet", classes.num_classes).eval()
        zero = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        model = Model(network, "compact_unet", classes, (SIDE, SIDE), zero, metrics, {}, warnings=warnings)
        path = self.folder / secrets.token_hex(8)
        save_model(path, model)
        file = LocalFile(path, file_sha256(path))
        run = self.client.create_run(mlflow_utils.get_or_create_experiment(self.client, self.settings)).info.run_id
        origin = {
            "mlflow_run_id": run,
            "git_commit": "0" * 40,
            "lakefs_data_path": str(data),
            "model_sha256": file.sha256,
            **(start or {}),
        }
        with connect(self.settings) as lake:
            if experiment:
                lake.start_experiment(experiment)
            commit = lake.publish({"model.pth": file}, "models/", "model", origin, mirror=False).commit_id
        _, items = committed_items(self.lake, data, "val", self.settings.cache_dir)
        miou = evaluation.measure(model, items, classes, CPU).metric("miou")
        model_path = LakePath(self.lake.repo, commit, "models/model.pth")
        for key, value in (("lakefs_model_path", str(model_path)), ("lakefs_data_path", str(data))):
            self.client.log_param(run, key, value)
        for key, value in (("model_sha256", file.sha256), ("lakefs_model_commit", commit), ("git_commit", "0" * 40)):
            self.client.set_tag(run, key, value)
        self.client.set_tag(run, "lakefs_branch", experiment or "main")
        self.client.set_tag(run, "lakefs_target_branch", "main")
        self.client.log_metric(run, "best_val_miou", miou)
        self.client.set_terminated(run)
        return self.client.get_run(run)

    @property
    def registry(self) -> Registry:
        return Registry(self.client, self.settings)

    @property
    def promotion(self) -> Promotion:
        return Promotion(self.registry, self.lake)

    def aliases(self) -> dict[str, str]:
        return self.registry.aliases(self.name)

    def tags(self, version: str) -> dict[str, str]:
        tags: dict[str, str] = self.client.get_model_version(self.name, version).tags
        return tags

    def reasons(self, version: str) -> str:
        return " | ".join(json.loads(self.tags(version)["gate"])["reasons"])

    def environment(self) -> dict[str, str]:
        """Return environment variables with which the scripts use the same servers and names."""
        s = self.settings
        return {
            "MLFLOW_TRACKING_URI": str(s.mlflow_tracking_uri),
            "MLFLOW_EXPERIMENT": s.mlflow_experiment,
            "REGISTERED_MODEL": s.registered_model,
            "REGISTER_THRESHOLD": "0",
            "LAKEFS_ENDPOINT": str(s.lakefs_endpoint),
            "LAKEFS_ACCESS_KEY_ID": str(s.lakefs_access_key_id),
            "LAKEFS_SECRET_ACCESS_KEY": str(s.lakefs_secret_access_key),
            "LAKEFS_REPO": s.lakefs_repo,
            "LAKEFS_LOCAL_DIR": str(s.lakefs_local_dir),
        }


@contextmanager
def open_lab(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """Open a lab with new names; its MLflow database lies beside `folder`, so that a test module can share it."""
    monkeypatch.setattr(evaluation, "segment", segment_by_quality)
    name = f"model-{secrets.token_hex(4)}"
    settings = Settings(
        mlflow_tracking_uri=f"sqlite:///{folder.parent / 'mlflow.db'}",
        mlflow_experiment=name,
        registered_model=name,
        register_threshold=0.0,
        **server.settings(lakefs_local_dir=folder / ".lakefs"),
        model_path=folder / "models/model.pth",
        device="cpu",
    )
    folder.mkdir(exist_ok=True)
    with connect(settings, create=True) as lake:
        yield Lab(settings, mlflow_utils.connect(settings), lake, folder)
