"""The same three commands against real servers, with only the environment changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import servers
from tests.support.project import make_project


@pytest.mark.skipif(not servers.real_available(), reason="no lakefs program and no LAKEFS_ENDPOINT")
def test_train_register_infer_against_real_servers(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", images=30)
    (tmp_path / "lakefs").mkdir()
    (tmp_path / "mlflow").mkdir()
    with servers.real(tmp_path / "lakefs") as lakefs, servers.mlflow_server(tmp_path / "mlflow") as mlflow:
        project.env = {
            "LAKEFS_ENDPOINT": lakefs.endpoint,
            "LAKEFS_ACCESS_KEY_ID": lakefs.access_key_id,
            "LAKEFS_SECRET_ACCESS_KEY": lakefs.secret_access_key,
            "LAKEFS_STORAGE_NAMESPACE": lakefs.storage_namespace,
            "MLFLOW_TRACKING_URI": mlflow,
        }
        if lakefs.storage:  # the scripts create the bucket
            project.env |= {
                "LAKEFS_STORAGE_NAMESPACE": "",
                "MINIO_BUCKET": "made-by-train",
                "MINIO_ENDPOINT": lakefs.storage.endpoint,
                "MINIO_ACCESS_KEY": lakefs.storage.access_key,
                "MINIO_SECRET_KEY": lakefs.storage.secret_key,
            }
        trained = project.run("train.py", "--epochs", "1")
        assert trained.returncode == 0, trained.stdout + trained.stderr
        assert not lakefs.storage or "created the bucket s3://made-by-train" in trained.stdout
        registered = project.run("register_model.py", "--threshold", "0")
        assert registered.returncode == 0, registered.stderr
        inferred = project.run("infer.py", "--split", "val")
        assert inferred.returncode == 0, inferred.stderr
        run = project.runs()[0]
        predictions = project.predictions()
        assert predictions["model_version"] == "image-segmentation v1"
        assert predictions["miou"] == pytest.approx(run.data.metrics["best_val_miou"], abs=1e-6)
        again = project.run("train.py", "--smoke")
        assert again.returncode == 0 and "data unchanged" in again.stdout, again.stderr
    assert not (project.folder / "mlflow.db").exists() and not (project.folder / ".lakefs/lakefs.db").exists()
    output = "".join(done.stdout + done.stderr for done in (trained, registered, inferred, again))
    assert lakefs.secret_access_key not in output
    for script in ("train.py", "register_model.py", "infer.py"):
        down = project.run(script)
        assert down.returncode == 1 and "does not answer" in down.stderr, down.stderr
