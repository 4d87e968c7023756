"""A lakeFS server that names what it must not: every command refuses it in one line, and writes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import config
import lake as lake_script
from core.errors import AppError, ExitCode
from tests.support.hostile_server import GOOD_ID, Answer, Hostile, hostile_server, page
from tests.support.project import Project, make_project
from utils.lakefs_utils import LakePath, connect
from versioning import commands
from versioning.checkout import checked_data

IMAGE_LIKE = {"data/images/a.png": b"x", "models/model.pth": b"weights", "data/__init__.py": b"import os"}
IDS: list[Any] = [
    *(
        "/ABSOLUTE",
        "../../x",
        "..",
        "",
        "a" * 63,
        "a" * 65,
        "A" * 64,
        "a" * 64 + "\0",
        "٣" * 64,
        "a" * 64 + "\n",
        "main",
    ),
    *(["a" * 64], None, 64, {"id": "a" * 64}, ...),
]


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    with hostile_server() as server:
        server.objects = dict(IMAGE_LIKE)
        yield server


@pytest.fixture
def settings(hostile: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_retries: None) -> config.Settings:
    """Settings that name the server; data/ is the default directory of a project that has nothing."""
    for module in ("versioning.checkout", "versioning.data_directory", "versioning.versions", "versioning.sync"):
        monkeypatch.setattr(f"{module}.ROOT", tmp_path / "project")
    places = {"data_dir": tmp_path / "project/data", "lakefs_local_dir": tmp_path / "project/.lakefs"}
    made = config.load_settings(**hostile.settings(**places))
    return dataclasses.replace(made, explicit=made.explicit - {"data_dir"})


def lake_command(*arguments: str) -> Callable[[config.Settings], object]:
    return lambda settings: commands.run(settings, lake_script.parse(list(arguments)))


def data_of_ref(settings: config.Settings) -> object:
    with connect(settings) as lake:
        return checked_data(settings, lake, "main")


def data_of_empty_directory(settings: config.Settings) -> object:
    with connect(settings) as lake:
        return checked_data(settings, lake, None)


def download_artifacts(settings: config.Settings) -> object:
    from utils.mlflow_lakefs import LakeFSArtifactRepository

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("utils.mlflow_lakefs.load_settings", lambda: settings)
        try:
            return LakeFSArtifactRepository("lakefs://hostile-repo/main/models").download_artifacts("")
        except Exception as error:  # MLflow's own exception, for MLflow's programs
            raise AppError(str(error)) from error


DOORS: dict[str, Callable[[config.Settings], object]] = {
    "lake.py pull": lake_command("pull", "main"),
    "lake.py pull lakefs://": lake_command("pull", "lakefs://hostile-repo/main/models/"),
    "lake.py pull --merge": lake_command("pull", "--merge"),
    "lake.py diff": lake_command("diff", "main~1", "main"),
    "lake.py status": lake_command("status"),
    "lake.py verify": lake_command("verify"),
    "lake.py log": lake_command("log"),
    "lake.py branches": lake_command("branches"),
    "train.py --data-ref": data_of_ref,
    "train.py": data_of_empty_directory,
    "download_artifacts": download_artifacts,
}


def written(folder: Path) -> list[str]:
    """Return the files that are no part of our own bookkeeping."""
    own = ("hashes.db", "hashes.db-wal", "hashes.db-shm")
    return [str(path) for path in folder.rglob("*") if path.is_file() and path.name not in own]


def refused(call: Callable[[], object]) -> str:
    """Return the one-line message of a call that must fail with exit code 1."""
    with pytest.raises(AppError) as caught:
        call()
    text = str(caught.value)
    assert caught.value.exit_code == ExitCode.FAILED and "\n" not in text and "\0" not in text and len(text) < 1000, (
        text
    )
    return text


@pytest.mark.parametrize("door", DOORS)
def test_no_command_accepts_a_commit_id_that_is_none(
    door: str, hostile: Hostile, settings: config.Settings, tmp_path: Path
) -> None:
    for value in IDS:
        found = str(tmp_path / "absolute") if value == "/ABSOLUTE" else value
        hostile.commit_id = found
        text = refused(lambda: DOORS[door](settings))
        assert "response" in text, text
        assert written(tmp_path) == [], f"{door}: {value!r}"


@pytest.mark.parametrize(
    "path",
    [
        "/abs/x",
        "data/../../../../evil",
        "../evil",
        "data//x",
        "data/./x",
        "data/x\0y",
        "data\\..\\x",
        "data/C:/x",
        "x" * 1025,
        "data/" + "y" * 2000,
        7,
        None,
        ["data/x"],
        {"path": "data/x"},
        "\ud800",
    ],
)
def test_object_path_that_could_leave_its_place_is_refused(
    path: object, hostile: Hostile, settings: config.Settings, tmp_path: Path
) -> None:
    hostile.answers[f"/repositories/hostile-repo/refs/{GOOD_ID}/objects/ls"] = page(
        [hostile.listed("data/a", path=path)]
    )
    hostile.answers[f"/repositories/hostile-repo/refs/{GOOD_ID}/objects"] = Answer(body=b"content")
    for door in ("lake.py pull", "train.py --data-ref", "train.py", "download_artifacts", "lake.py verify"):
        assert "response" in refused(lambda: DOORS[door](settings))  # noqa: B023
    assert written(tmp_path) == []


def test_cache_refuses_objects_named_like_its_records(
    hostile: Hostile, settings: config.Settings, tmp_path: Path
) -> None:
    hostile.objects = {".complete/" + "0" * 64: b"[]"}
    with connect(settings) as lake:
        assert "the cache uses this name" in _message(
            lambda: lake.download(LakePath(lake.repo, GOOD_ID, ""), tmp_path / "c")
        )
    assert written(tmp_path) == []


def test_download_never_leaves_the_cache_through_a_link(
    hostile: Hostile, settings: config.Settings, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    tree = settings.cache_dir / "commits/hostile-repo" / GOOD_ID
    tree.mkdir(parents=True)
    (tree / "data").symlink_to(tmp_path / "outside")
    with connect(settings) as lake:
        assert "leads out of" in _message(
            lambda: lake.download(LakePath(lake.repo, GOOD_ID, "data/"), settings.cache_dir)
        )
    assert written(tmp_path / "outside") == []


def _message(call: Callable[[], object]) -> str:
    with pytest.raises(AppError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("branches", ["a/b", "..", "", "a b", "x" * 2000, None, 7]),
        ("tags", ["a/b", "..", "a..b", "", "a\nb", "x.lock", "\ud800", None, ["t"]]),
    ],
)
def test_names_that_lakefs_cannot_have_are_refused(
    part: str, values: list[Any], hostile: Hostile, settings: config.Settings
) -> None:
    with connect(settings) as lake:
        for value in values:
            hostile.answers[f"/repositories/hostile-repo/{part}"] = page([{"id": value, "commit_id": GOOD_ID}])
            assert "response" in refused(lambda: list(lake.list_refs(part)))  # type: ignore[arg-type]


def test_hostile_parents_and_merge_answers_are_refused(hostile: Hostile, settings: config.Settings) -> None:
    with connect(settings) as lake:
        for parents in (["../x"], ["a" * 63], "x", [None]):
            hostile.answers["/repositories/hostile-repo/commits"] = Answer(hostile.commit(parents=parents))
            refused(lambda: lake.commit(GOOD_ID))
        for answer in ("/abs", "", "a" * 63, None, ["a" * 64]):
            hostile.answers["/repositories/hostile-repo/refs/work/merge"] = Answer({"reference": answer})
            refused(lambda: lake.publisher.merge_into_target("work", "m", {}))
        hostile.answers["/repositories/hostile-repo/refs"] = Answer(
            {"source_commit_id": GOOD_ID, "destination_commit_id": GOOD_ID, "base_commit_id": "../../x"}
        )
        refused(lambda: lake.merge_base("main", "other"))


def test_sizes_times_and_checksums_of_a_listing_are_checked(hostile: Hostile, settings: config.Settings) -> None:
    listing = f"/repositories/hostile-repo/refs/{GOOD_ID}/objects/ls"
    values: dict[str, list[object]] = {
        "size_bytes": [-1, 1 << 60, "5", 1.5, True],
        "mtime": [-1, "x", 1e300],
        "checksum": [None, 7, "\x1b[2J", "x" * 2000],
    }
    wrong = [(name, value) for name, found in values.items() for value in found]
    with connect(settings) as lake:
        for name, value in wrong:
            hostile.answers[listing] = page([hostile.listed("data/a", **{name: value})])
            assert "response" in refused(lambda: list(lake.objects(GOOD_ID, "")))
        hostile.answers[listing] = page([hostile.listed("data/a", metadata={"sha256": "../../../x"})])
        assert [file.sha256 for file in lake.objects(GOOD_ID, "")] == [None]


def test_marker_of_a_directory_is_no_file(hostile: Hostile, settings: config.Settings) -> None:
    hostile.objects = {"data/": b"", "data/images/": b"", "data/images/a": b"1"}
    with connect(settings) as lake:
        assert [file.path for file in lake.objects(GOOD_ID, "")] == ["data/images/a"]
        assert [change.path for change in lake.differences("main~1", "main")] == ["data/images/a"]
        hostile.objects = {"data/x/": b"content"}
        assert "object path" in refused(lambda: list(lake.objects(GOOD_ID, "")))


def test_scripts_refuse_an_absolute_commit_id_in_one_line(hostile: Hostile, tmp_path: Path) -> None:
    target = tmp_path / "site-packages/torchlike/utils"
    (target / "data").mkdir(parents=True)
    (target / "data/__init__.py").write_text("original")
    hostile.commit_id = str(target)
    project: Project = make_project(tmp_path / "project", images=0, git=False)
    project.env |= {
        "LAKEFS_ENDPOINT": hostile.endpoint,
        "LAKEFS_REPO": "hostile-repo",
        "LAKEFS_ACCESS_KEY_ID": "AKIAMARK",
        "LAKEFS_SECRET_ACCESS_KEY": "MARKSECRET",
    }
    for script, *arguments in (
        ("lake.py", "pull", "main"),
        ("train.py", "--data-ref", "main"),
        ("train.py", "--smoke"),
    ):
        done = project.run(script, *arguments)
        errors = [line for line in done.stderr.splitlines() if line]
        assert done.returncode == 1 and len(errors) == 1 and "commit ID: expected 64 hex digits" in errors[0], done
    assert (target / "data/__init__.py").read_text() == "original" and list((target / "data").iterdir()) == [
        target / "data/__init__.py"
    ]
