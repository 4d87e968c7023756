"""What an MLflow server names: runs, paths, hashes, pages and artifacts that could lead elsewhere."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import config
from core import git
from core.errors import AppError, ExitCode
from lineage.finder import Finder
from registry.records import version_lineage
from tests.support.hostile_server import Answer, hostile_server
from train.resume import RunRecord
from utils import mlflow_local, mlflow_utils
from utils.identifiers import Branch, InvalidValue, Repository, RunId
from utils.lakefs_client import multipart
from utils.mlflow_utils import all_pages, run_lineage
from utils.network import limits
from utils.network.limits import LimitExceeded, check_artifacts

COMMIT, SHA256, RUN = "a" * 64, "b" * 64, "c" * 32
GOOD = {
    "lakefs_model_path": f"lakefs://repo/{COMMIT}/models/model.pth",
    "lakefs_data_path": f"lakefs://repo/{COMMIT}/data/",
    "model_sha256": SHA256,
    "git_commit": "d" * 40,
}
BAD_FIELDS = [
    *(
        ("lakefs_model_path", value)
        for value in ("lakefs://repo/main/models/model.pth", "lakefs://../x/y", "/etc/passwd", "")
    ),
    ("lakefs_model_path", f"lakefs://repo/{COMMIT}/../../x"),
    ("lakefs_model_path", f"lakefs://repo/{'A' * 64}/models/model.pth"),
    *(
        ("lakefs_data_path", value)
        for value in ("file:///etc/", f"lakefs://repo/{COMMIT}//abs/", "lakefs://r/main/data/")
    ),
    *(("model_sha256", value) for value in ("/tmp/evil", "../" * 20, "b" * 63, "B" * 64, "", "٣" * 64)),
    *(("git_commit", value) for value in ("--lost-found", "main", "d" * 39, "-x", "$(id)")),
    *(("run_id", value) for value in ("../x", "x", "' OR 1=1", "c" * 31)),
]


def run_of(fields: dict[str, str]) -> Any:
    info = SimpleNamespace(run_id=fields.get("run_id", RUN), status="FINISHED")
    return SimpleNamespace(info=info, data=SimpleNamespace(tags=fields, params=fields, metrics={}))


def version_of(fields: dict[str, str]) -> Any:
    return SimpleNamespace(name="m", version="1", run_id=fields.get("run_id", RUN), tags=fields)


@pytest.mark.parametrize(("field", "value"), BAD_FIELDS)
def test_run_or_version_that_names_another_place_is_refused(field: str, value: str) -> None:
    assert run_lineage(run_of(GOOD)).model_sha256 == version_lineage(version_of(GOOD)).model_sha256 == SHA256
    fields = {**GOOD, field: value}
    calls: list[Callable[[], object]] = [
        lambda: run_lineage(run_of(fields)),
        lambda: version_lineage(version_of(fields)),
    ]
    for call in calls:
        with pytest.raises(AppError) as caught:
            call()
        assert caught.value.exit_code == ExitCode.FAILED and "\n" not in str(caught.value)


def test_metric_of_a_version_that_is_no_number_is_one_line() -> None:
    with pytest.raises(AppError, match=r"m v1: tag metric\.best_val_miou: expected a number, found 'high'"):
        version_lineage(version_of({**GOOD, "metric.best_val_miou": "high"}))


def test_pages_that_go_round_or_are_too_large_are_refused() -> None:
    class Page(list[int]):
        token: str | None = None

    def page(token: str | None, count: int = 1) -> Page:
        made = Page([0] * count)
        made.token = token
        return made

    for tokens in (["a"] * 5, ["a", "b", "a", "b", "a"]):
        following = iter(tokens)
        with pytest.raises(LimitExceeded, match="returns to a page"):
            list(all_pages(lambda _: page(next(following))))  # noqa: B023
    with pytest.raises(LimitExceeded, match="entries"):
        list(all_pages(lambda _: page(None, mlflow_utils.MAX_ENTRIES + 1)))
    assert list(all_pages(lambda token: page(None if token else "next"))) == [0, 0]


class Artifacts:
    """An artifact repository that lists what a test wants."""

    def __init__(self, listed: dict[str, list[tuple[str, bool]]]) -> None:
        self.listed = listed

    def list_artifacts(self, path: str) -> list[Any]:
        return [SimpleNamespace(path=name, is_dir=is_dir) for name, is_dir in self.listed.get(path, [])]


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/x",
        "code/../../x",
        "code",
        "other/x",
        "code//x",
        "code/./x",
        "code/x\0",
        "code\\x",
        "C:/x",
        "",
        "..",
    ],
)
@pytest.mark.parametrize("is_dir", [False, True])
def test_artifact_elsewhere_is_refused_before_anything_is_written(name: str, is_dir: bool) -> None:
    with pytest.raises((LimitExceeded, InvalidValue)) as caught:
        check_artifacts(Artifacts({"code": [("code/good", False), (name, is_dir)]}), "code")
    assert "\n" not in str(caught.value) and "\0" not in str(caught.value)


def test_directories_of_artifacts_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    check_artifacts(Artifacts({"code": [("code/a", False), ("code/b", True)], "code/b": [("code/b/c", False)]}), "code")
    check_artifacts(Artifacts({"": [("code", True)], "code": [("code/a", False)]}), "")

    class Endless:
        def list_artifacts(self, path: str) -> list[Any]:
            return [SimpleNamespace(path=f"{path}/x", is_dir=True)]

    with pytest.raises(LimitExceeded, match="returns"):
        check_artifacts(Endless(), "code")
    monkeypatch.setattr(limits, "MAX_ARTIFACTS", 5)
    with pytest.raises(LimitExceeded, match="more than 5 artifacts"):
        check_artifacts(Artifacts({"code": [(f"code/{number}", False) for number in range(6)]}), "code")


@pytest.mark.parametrize(
    ("location", "uri"),
    [
        ("file:///home/me/.ssh", "http://mlflow.example:5000"),
        ("/home/me/.ssh", "https://mlflow.example"),
        ("relative/place", "http://mlflow.example:5000"),
        ("file://other/share", "http://mlflow.example:5000"),
        ("http://elsewhere/api/2.0/mlflow-artifacts/artifacts/x", "http://mlflow.example:5000"),
        ("mlflow-artifacts://elsewhere:80/x", "http://u:p@mlflow.example:5000"),
        ("mlflow-artifacts://elsewhere/x", "http://127.0.0.1:5000"),
        ("file:///home/me/.ssh", "http://127.0.0.1:5000"),
        (f"file:///home/me/.ssh?/{RUN}/artifacts", "http://127.0.0.1:5000"),
        (f"file:///home/me/{'0' * 32}/artifacts", "http://127.0.0.1:5000"),
        (f"file://elsewhere/{RUN}/artifacts", "http://127.0.0.1:5000"),
        ("file:///home/me/.ssh", "sqlite:////home/me/project/mlflow.db"),
        (f"runs:/{'0' * 32}/x", "http://mlflow.example:5000"),
        (f"runs:/{'0' * 32}/x", "sqlite:////home/me/project/mlflow.db"),
        ("models:/cells/1", "http://mlflow.example:5000"),
        (f"lakefs://repo/{'0' * 64}/x", "http://mlflow.example:5000"),
        ("C:/Users/me", "http://mlflow.example:5000"),
    ],
)
def test_artifacts_elsewhere_get_neither_files_nor_keys(location: str, uri: str) -> None:
    client: Any = SimpleNamespace(get_run=lambda _: SimpleNamespace(info=SimpleNamespace(artifact_uri=location)))
    with pytest.raises(AppError, match="not a place of this server") as caught:
        mlflow_local.artifacts_of(client, uri, RUN)
    assert "u:p" not in str(caught.value)


@pytest.mark.parametrize(
    ("location", "uri"),
    [
        ("mlflow-artifacts:/1/x/artifacts", "http://mlflow.example:5000"),
        ("mlflow-artifacts://mlflow.example:5000/x", "http://u:p@mlflow.example:5000"),
        (f"file:///tmp/1/{RUN}/artifacts", "http://127.0.0.1:5000"),
        (f"file:///tmp/1/{RUN}/artifacts", "sqlite:////tmp/mlflow.db"),
        (f"./mlruns/1/{RUN}/artifacts", "sqlite:////tmp/mlflow.db"),
        ("s3://bucket/1/x/artifacts", "http://mlflow.example:5000"),
    ],
)
def test_artifacts_of_the_server_are_used(location: str, uri: str) -> None:
    mlflow_local._require_place_of_server(location, uri, RUN)


def test_health_check_follows_no_redirect_elsewhere(tmp_path: Path) -> None:
    with hostile_server() as server, hostile_server() as other:
        server.answers["/health"] = Answer(status=302, headers={"Location": other.endpoint})
        settings = dataclasses.replace(config.load_settings(), mlflow_tracking_uri=server.endpoint)
        with pytest.raises(AppError, match="redirects to"):
            mlflow_utils.connect(settings)
        assert other.requests == []


def test_search_takes_no_more_than_a_value() -> None:
    finder: Any = Finder(config.load_settings(), SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(mlflow_utils, "list_experiments", lambda *_: [])
        for value in ("' OR tags.x = '1", "a' AND", "", "x\\"):
            with pytest.raises(AppError, match="expected a hash or a commit ID"):
                finder.runs_with_tag("model_sha256", value)


def test_commit_of_a_record_is_no_option_of_git(tmp_path: Path) -> None:
    assert "not in this repository" in str(git.verify_commit(tmp_path, "--lost-found"))
    with pytest.raises(OSError, match="git worktree"), git.worktree(tmp_path, "--force", b""):
        pass


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("run_id", "../x"),
        ("repo", ".."),
        ("branch", "../x"),
        ("target_branch", "a b"),
        ("data_path", "lakefs://repo/main/data/"),
    ],
)
def test_checkpoint_that_names_another_place_is_refused(field: str, value: str) -> None:
    content = {
        "run_id": RUN,
        "settings": {},
        "smoke": False,
        "data_path": GOOD["lakefs_data_path"],
        "repo": "repo",
        "branch": "main",
        "target_branch": None,
        "git": {},
        "classes": {},
        "processes": 1,
    }
    record = RunRecord.from_dict(content)
    assert record.branch == "main"
    typed = dataclasses.replace(record, repo=Repository("repo"), branch=Branch("main"), run_id=RunId(RUN))
    for stored in (record.to_dict(), typed.to_dict()):
        assert b"identifiers" not in pickle.dumps(stored), "a checkpoint holds plain texts only"
    with pytest.raises(InvalidValue):
        RunRecord.from_dict({**content, field: value})


def test_journal_of_an_upload_is_checked(tmp_path: Path) -> None:
    import json

    good: dict[str, Any] = {
        "target": ["http://x/api/v1", "repo", "main", "data/x"],
        "upload_id": "u",
        "physical_address": "s3://x/y",
        "url": "http://store/x",
        "began": 1.0,
        "etags": {"1": "d" * 32},
    }
    journal = tmp_path / "x.json"
    journal.write_text(json.dumps(good))
    assert multipart._read(journal) == good
    wrong: tuple[dict[str, Any], ...] = (
        {"target": ["http://x", "..", "main", "data/x"]},
        {"target": ["http://x", "repo", "main", "../x"]},
        {"target": ["http://x", "repo", "../..", "x"]},
        {"target": [None, "repo", "main", "x"]},
        {"upload_id": ["x"]},
        {"url": None},
        {"began": float("nan")},
        {"began": "x"},
        {"etags": {"1": "x"}},
        {"etags": {"one": "d" * 32}},
        {"etags": []},
    )
    for changes in wrong:
        journal.write_text(json.dumps({**good, **changes}))
        assert multipart._read(journal) == {}, changes
    for text in ("", "[]", "null", "[" * 100_000, "\0"):
        journal.write_text(text)
        assert multipart._read(journal) == {}
