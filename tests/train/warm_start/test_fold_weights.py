"""train.py --folds --pretrained FILE: what is recorded of the start, in the runs of the folds, their models and trace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from segmentation.model_file import load_model
from tests.support.models import CPU
from tests.support.project import make_project
from tests.train.test_folds import folds_of, newest_parent
from utils.ensemble_file import read_ensemble
from utils.lineage import INIT_KEYS

ENCODER = "test_resnet.r160_in1k"  # of timm, for tests: 0.5 M parameters
OPTIONS = ("--smoke", "--folds", "2", "--batch-size", "4", "--image-size", "32", "32", "--model", f"fpn/{ENCODER}")


def test_folds_from_published_weights_name_no_model_as_their_start(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    weights = tmp_path / "weights.pth"
    torch.save(timm.create_model(ENCODER, pretrained=False).state_dict(), weights)
    project = make_project(tmp_path / "project", images=10)
    done = project.run("train.py", *OPTIONS, "--pretrained", str(weights))
    assert done.returncode == 0, done.stdout + done.stderr
    run = newest_parent(project)
    runs = [run, *folds_of(project, run.info.run_id)]
    for one in runs:
        assert not {*INIT_KEYS} & one.data.params.keys(), one.data.params
        assert (one.data.params["pretrained"], one.data.params["weights"]) == ("True", str(weights))
        assert one.data.params["pretrained_weights"] == str(weights)
    assert len({one.data.params["pretrained_sha256"] for one in runs}) == 1
    for member in read_ensemble(project.folder / "models/ensemble.json").members:
        model = load_model(project.folder / "models" / member.file, member.sha256, CPU)
        assert not {*INIT_KEYS} & model.lineage.keys()
    traced = project.run("lake.py", "trace", run.info.run_id)
    assert traced.returncode == 0 and "initial model" not in traced.stdout, traced.stdout
