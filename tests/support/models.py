"""A small network and a lineage for tests that predict without a training."""

from __future__ import annotations

import torch

from dataset.classes import build_classes
from segmentation.model import Model
from segmentation.networks.registry import build_network
from segmentation.preprocess import Normalisation
from utils.lakefs_utils import LakePath
from utils.lineage import Lineage

CLASSES = build_classes([(0, "sky", None, False), (7, "road", None, False), (9, "off", None, True)])
CPU = torch.device("cpu")


def make_model(size: tuple[int, int] = (64, 96), seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return Model(
        network=build_network("compact_unet", 2).to(memory_format=torch.channels_last).eval(),
        architecture="compact_unet",
        classes=CLASSES,
        input_size=size,
        normalisation=Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        metrics={},
        lineage={},
    )


def lineage(sha256: str = "a" * 64) -> Lineage:
    model, data = LakePath("repo", "1" * 64, "models/model.pth"), LakePath("repo", "2" * 64, "data/")
    return Lineage("f" * 32, "m v1", model, sha256, data, "none", {})
