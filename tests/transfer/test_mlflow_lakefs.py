"""lakeFS URIs in MLflow: download, load, serve and data sets, by MLflow's own calls in other processes."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.command_line.version import VERSION
from tests.support.lifecycle import NAME, Lifecycle
from tests.support.project import SOURCE


@pytest.fixture(scope="module")
def installed(lifecycle: Lifecycle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment with the entry points that `pip install -e .` writes."""
    site = tmp_path_factory.mktemp("site")
    project = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]
    info = site / f"{project['name'].replace('-', '_')}-{VERSION}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {VERSION}\n")
    groups = project["entry-points"].items()
    text = "\n".join(f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items()) for group, entries in groups)
    (info / "entry_points.txt").write_text(text)
    folder = lifecycle.project.folder
    return lifecycle.project.environment() | {
        "PYTHONPATH": f"{folder}:{site}",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # as in an activated environment
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "DEVICE": "cpu",
    }


def python(environment: dict[str, str], code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=cwd, capture_output=True, text=True, timeout=300
    )


def first_image(lifecycle: Lifecycle) -> Path:
    return min((lifecycle.project.folder / "data/images").iterdir())


CODE = """
import base64, json, os
import mlflow, numpy as np, pandas as pd
from PIL import Image
uri, image_path, run_id = {arguments!r}
folder = mlflow.artifacts.download_artifacts(uri)
model = mlflow.pyfunc.load_model(uri)
image = np.asarray(Image.open(image_path).convert("RGB"))
ids = model.predict(image)
frame = model.predict(pd.DataFrame({{"image": [base64.b64encode(open(image_path, "rb").read()).decode()]}}))
run = mlflow.MlflowClient().get_run(run_id)
source = mlflow.data.get_source(run.inputs.dataset_inputs[0].dataset)
print(json.dumps({{"files": sorted(os.listdir(folder)), "ids": ids.tolist(), "mask": frame["mask"][0],
    "source": source.to_dict(), "loaded": sorted(os.listdir(source.load()))}}))
"""


def test_mlflow_downloads_and_loads_model_and_dataset(
    lifecycle: Lifecycle, installed: dict[str, str], tmp_path: Path
) -> None:
    run = lifecycle.project.mlflow().get_run(lifecycle.runs["first"])
    arguments = (f"models:/{NAME}@champion", str(first_image(lifecycle)), run.info.run_id)
    done = python(installed, CODE.format(arguments=arguments), tmp_path)
    assert done.returncode == 0, done.stderr
    reported = json.loads(done.stdout.splitlines()[-1])
    assert {"MLmodel", "metrics.json", "model.pth"} <= set(reported["files"])
    with Image.open(io.BytesIO(base64.b64decode(reported["mask"]))) as made:
        assert made.mode == "P" and np.array_equal(np.asarray(made), np.array(reported["ids"]))
    assert reported["source"]["uri"] == run.data.params["lakefs_data_path"]
    assert run.inputs is not None
    shown = json.loads(run.inputs.dataset_inputs[0].dataset.profile or "{}")
    assert shown["source"] == reported["source"]["uri"], (
        "MLflow's page shows the profile, not a source that it does not know"
    )
    assert {"images", "masks"} <= set(reported["loaded"])
    name = first_image(lifecycle).stem
    done = lifecycle.project.run("infer.py", "--input", str(first_image(lifecycle)), "--output", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / f"out/{name}.png") as inferred:
        assert np.array_equal(np.asarray(inferred), np.array(reported["ids"])), "as infer.py predicts"


def test_mlflow_serves_the_model(lifecycle: Lifecycle, installed: dict[str, str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{NAME}@champion"]
    log = (tmp_path / "serve.log").open("w+")
    process = subprocess.Popen(
        [*command, "--env-manager", "local", "-p", str(port)],
        env=installed, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        content = base64.b64encode(first_image(lifecycle).read_bytes()).decode()
        body = json.dumps({"dataframe_records": [{"image": content}]}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
        )
        deadline = time.monotonic() + 240
        while True:
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    (made,) = json.load(answer)["predictions"]
                    break
            except OSError:
                assert time.monotonic() < deadline and process.poll() is None, (tmp_path / "serve.log").read_text()
                time.sleep(0.5)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
        log.close()
    with Image.open(io.BytesIO(base64.b64decode(made["mask"]))) as mask, Image.open(first_image(lifecycle)) as image:
        assert mask.size == image.size == (made["width"], made["height"])
