"""train.py --sweep in several processes: the parent run is in progress as long as one of them works on it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.project import SIGINT, Project, finish, make_project, wait_for_line
from tests.train.test_sweep import runs_of, write

pytest.importorskip("optuna")

SWEEP = """
trials: 200
settings: {max_seconds: 4, image_size: 32 32, batch_size: 4}
space:
  ema: [0, 0.5]
"""


@pytest.fixture
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("sweep"), images=20)


def parent_of(project: Project) -> Any:
    return runs_of(project, "shared")[0]


def test_the_parent_run_is_closed_by_the_last_process_that_is_interrupted(project: Project) -> None:
    write(project, "shared", SWEEP)
    older = project.start("train.py", "--sweep", "shared.yaml")
    wait_for_line(older, lambda line: "epoch 1" in line)
    newer = project.start("train.py", "--sweep", "shared.yaml")
    wait_for_line(newer, lambda line: "epoch 1" in line)
    assert finish(newer, SIGINT)[0] == 130
    assert parent_of(project).info.status == "RUNNING"
    for _ in range(2):  # at its start, a trial closes runs whose process is gone
        wait_for_line(older, lambda line: line.startswith("MLflow run"))
    assert parent_of(project).info.status == "RUNNING" and "error" not in parent_of(project).data.tags
    newer = project.start("train.py", "--sweep", "shared.yaml")
    wait_for_line(newer, lambda line: "epoch 1" in line)
    for process in (older, newer):
        process.send_signal(SIGINT)
    assert [finish(process)[0] for process in (older, newer)] == [130, 130]
    assert parent_of(project).info.status == "KILLED" and "KeyboardInterrupt" in parent_of(project).data.tags["error"]
