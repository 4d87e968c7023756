"""The lifecycle of a model, run once with the real scripts: train, register, refuse, promote, roll back, predict."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from config import Settings
from tests.support.project import Project, make_project

NAME, REPO = "image-segmentation", "image-segmentation-local-repo"


@dataclass
class Lifecycle:
    """A project, the results of its commands by a name that the test chose, and its run ids by name."""

    project: Project
    runs: dict[str, str] = field(default_factory=dict)
    results: dict[str, subprocess.CompletedProcess[str]] = field(default_factory=dict)

    def train(self, name: str, *arguments: str) -> None:
        """Train a run and keep its id by this name."""
        done = self.project.run("train.py", "--batch-size", "4", "--image-size", "64", "64", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        self.runs[name] = self.project.runs()[0].info.run_id

    def run(self, name: str, script: str, *arguments: str) -> None:
        """Run a script, with no threshold for registration, and keep its result by this name."""
        self.results[name] = self.project.run(script, *arguments, env={"REGISTER_THRESHOLD": "0"})

    def champion(self) -> str:
        """Return the version number of the champion."""
        return str(self.project.mlflow().get_model_version_by_alias(NAME, "champion").version)

    @property
    def settings(self) -> Settings:
        """Settings of the project, for calls from this process."""
        folder = self.project.folder
        return Settings(
            mlflow_tracking_uri=f"sqlite:///{folder / 'mlflow.db'}",
            lakefs_local_dir=folder / ".lakefs",
            data_dir=folder / "data",
            model_path=folder / "models/model.pth",
            register_threshold=0.0,
            device="cpu",
        )


def run_lifecycle(folder: Path) -> Lifecycle:
    """Train and register, train a worse model (refused) and a better one (promoted), roll back, predict."""
    lifecycle = Lifecycle(make_project(folder, images=44))
    write_splits(folder / "data")
    # Far apart (val mIoU about 0.25, 0.05 and 0.45): rounding of another processor must not change the order.
    lifecycle.train("first", "--epochs", "2", "--lr", "0.003")
    lifecycle.run("first", "register_model.py")
    lifecycle.train("worse", "--epochs", "1", "--lr", "0.00001")
    lifecycle.run("worse", "register_model.py")
    assert lifecycle.champion() == "1", lifecycle.results["worse"]
    lifecycle.train("better", "--epochs", "8", "--lr", "0.005")
    lifecycle.run("better", "register_model.py")
    assert lifecycle.champion() == "3", lifecycle.results["better"]
    lifecycle.run("rollback", "register_model.py", "--rollback")
    lifecycle.run("infer", "infer.py", "--split", "val")
    return lifecycle


def write_splits(data: Path) -> None:
    """Put 16 of 44 images into val: with the few of the usual split, no gain would be significant."""
    names = sorted(path.stem for path in (data / "images").iterdir())
    (data / "splits").mkdir(exist_ok=True)
    for split, chosen in (("train", names[:24]), ("val", names[24:40]), ("test", names[40:])):
        (data / f"splits/{split}.txt").write_text("\n".join(chosen) + "\n")
