"""Recorded settings, environment and packages, which a stranger may have written: only what is known is accepted."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from config import FIELDS, Settings
from core.errors import UsageError
from train.reproduce import as_environment
from train.reproduction import recipe as recipes
from train.reproduction.record_files import parse_environment, parse_packages, parse_settings

RUN, DATA, MODEL = "a" * 32, f"lakefs://repo/{'1' * 64}/data/", f"lakefs://repo/{'2' * 64}/models/model.pth"
ENVIRONMENT = {"threads": 2, "cpu": "AMD EPYC", "gpus": [], "memory_gb": 23.5, "torch": "2.15.0"}


FOREIGN = (
    *("pythonpath", "PYTHONPATH", "path", "ld_preload", "home", "http_proxy", "git_dir", "omp_num_threads", "mlflow_x"),
    *("lakefs_endpoint", "lakefs_access_key_id", "lakefs_secret_access_key", "lakefs_repo", "lakefs_local_dir"),
    *("minio_endpoint", "minio_secret_key", "mlflow_tracking_uri", "data_dir", "model_path", "device", "app_lang"),
    *("register_metric", "explicit", "", "epochs ", "Epochs", "epochs\0", "\x1b[2J", "한글", "x" * 10_000),
)
INVALID: dict[str, list[Any]] = {
    "epochs": [0, -1, 1.5, "1", True, [1], {}, 10**400 * -1],
    "learning_rate": [0, -1.0, "1", float("nan"), float("inf"), [1.0], True],
    "image_size": [[1, 1], [32], [32, 32, 32], "32 32", [32.0, 32.0], [10**9, 32], [True, 32], 32],
    "model": [None, 7, "os.system", "smp:unet/tu-hf-hub:x/y", "x\0y", "x\ny", "\x1b[2J", "x" * 2000, ["compact_fpn"]],
    "pretrained": [1, "true", None],
    "loss": ["", "evil", None],
    "class_weights": ["a\0b", "x\nLAKEFS_ENDPOINT=http://evil", 7],
    "split_group": ["(", "no group", "(x)\0", 5],
    "ema": [-1, 2, "0.5", None],
    "seed": [-1, 0.5, None],
}


def settings_file(**values: Any) -> bytes:
    return json.dumps({"settings": values, "smoke": False}).encode()


@pytest.mark.parametrize("name", FOREIGN)
def test_setting_that_decides_no_result_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="not a setting that decides a training's result") as caught:
        parse_settings(RUN, settings_file(epochs=1, **{name: "x"}), Settings())
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in INVALID.items() for value in values])
def test_invalid_value_of_a_recorded_setting_is_refused(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"run {RUN} cannot be reproduced") as caught:
        parse_settings(RUN, settings_file(**{name: value}), Settings())
    assert str(caught.value).isprintable() and len(str(caught.value)) < 2500


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"null", b'{"settings": []}', b'{"settings": {}, "smoke": 1}', b"[" * 100_000, b"\xff"],
)
def test_record_that_is_not_one_of_train_py_is_refused(content: bytes) -> None:
    with pytest.raises(UsageError, match=f"run {RUN} cannot be reproduced"):
        parse_settings(RUN, content, Settings())
    with pytest.raises(UsageError, match=f"run {RUN} cannot be reproduced"):
        parse_environment(RUN, content)


@pytest.mark.parametrize(
    "change",
    [{"threads": value} for value in (0, -1, 1.5, "2", None, 10**9, True, [2])]
    + [{"cpu": "\x1b[2J"}, {"cpu": "x" * 5000}, {"cpu": {"a": 1}}, {"gpus": [["x"]]}, {"\n": 1}]
    + [{str(number): number for number in range(100)}],
)
def test_invalid_recorded_environment_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"environment\.json"):
        parse_environment(RUN, json.dumps(ENVIRONMENT | change).encode())


def test_packages_are_only_names_and_versions() -> None:
    assert parse_packages(RUN, b"torch==2.15.0+cu132\nzipp==3.1\n") == ["torch==2.15.0+cu132", "zipp==3.1"]
    for row in ("torch", "-r evil.txt", "a @ http://evil/x.whl", "a==1; x", "\x1b[2J==1", "a" * 500 + "==1"):
        with pytest.raises(UsageError, match="expected NAME==VERSION"):
            parse_packages(RUN, f"zipp==3.1\n{row}\n".encode())


def test_recorded_code_gets_only_known_variables(tmp_path: Path) -> None:
    now = Settings(
        lakefs_endpoint="http://127.0.0.1:1", lakefs_access_key_id="key", lakefs_secret_access_key="secret",
        minio_endpoint="http://127.0.0.1:2", minio_access_key="key", minio_secret_key="secret",
        mlflow_tracking_uri="http://user:password@127.0.0.1:3",
    )  # fmt: skip
    values, _ = parse_settings(RUN, settings_file(epochs=2, image_size=[32, 48], learning_rate=None), now)
    recipe = SimpleNamespace(settings=values, environment=ENVIRONMENT)
    made = as_environment(now, cast(recipes.Recipe, recipe), tmp_path)
    assert made.keys() == {*(name.upper() for name in FIELDS), "OMP_NUM_THREADS", "PYTHONDONTWRITEBYTECODE"}
    assert (made["EPOCHS"], made["IMAGE_SIZE"], made["LEARNING_RATE"]) == ("2", "32 48", "")
    assert made["LAKEFS_ENDPOINT"] == now.lakefs_endpoint and made["DATA_DIR"].startswith(str(tmp_path))
    assert not any(made[name] for name in ("MINIO_ENDPOINT", "MINIO_SECRET_KEY", "MLFLOW_TRACKING_URI"))
