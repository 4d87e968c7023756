"""Rules of the Compose files: pinned versions, persistent data, no ports open to the network.

Where Docker's Compose is installed, it reads them too; no Docker server is needed for that. Where the services' programs
are installed, they run as the first file says, on this machine.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from config import Settings
from core.command_line.init_env import init_env
from core.hashing import file_sha256
from tests.support.processes import free_port, run_server
from tests.support.project import SOURCE
from utils.lakefs_client import multipart, transfer
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import LakeFS, LakePath, connect

FILES = ("docker-compose.yml", "docker-compose.postgres.yml", "docker-compose.minio.yml")
BASE, POSTGRES, MINIO = FILES
DOCUMENTS: dict[str, Any] = {name: yaml.safe_load((SOURCE / name).read_text()) for name in FILES}
SERVICES = [(file, name, service) for file in FILES for name, service in DOCUMENTS[file]["services"].items()]
COMPLETE_SERVICES = [row for row in SERVICES if "volumes" in row[2]]  # the others extend a service of the first file
PINNED = r"\$\{[A-Z_]+_IMAGE:-([\w./-]+:(?!latest)[\w.-]+)(@sha256:[0-9a-f]{64})?\}"


def test_every_image_is_pinned_by_digest_or_named_in_security_md() -> None:
    text = (SOURCE / "SECURITY.md").read_text(encoding="utf-8")
    for file, name, service in SERVICES:
        if "image" in service:
            match = re.fullmatch(PINNED, service["image"])
            assert match, f"{file}: {name}"
            assert match[2] or f"`{match[1]}`" in text, f"{file}: {name}: SECURITY.md lists images pinned by tag only"


@pytest.mark.parametrize(("file", "name", "service"), COMPLETE_SERVICES)
def test_every_service_is_pinned_health_checked_local_and_persistent(
    file: str, name: str, service: dict[str, Any]
) -> None:
    assert re.fullmatch(PINNED, service["image"])
    assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert "profiles" not in service  # `docker compose up` and `--profile local-lakefs up` start the same
    assert service["volumes"] and {volume.split(":")[0] for volume in service["volumes"]} <= {
        *DOCUMENTS[file]["volumes"]
    }


def test_services_wait_for_healthy_dependencies() -> None:
    for _, _, service in SERVICES:
        for needed, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"} and needed in [name for _, name, _ in COMPLETE_SERVICES]


def test_ports_are_unique() -> None:
    ports = [port for _, _, service in SERVICES for port in service.get("ports", [])]
    assert len(ports) == len(set(ports))


def test_keys_come_from_dotenv_only() -> None:
    example = (SOURCE / ".env.example").read_text(encoding="utf-8")
    for file in FILES:
        text = (SOURCE / file).read_text(encoding="utf-8")
        for name, operator in re.findall(r"\$\{(\w+)(:-|:\?)", text):
            assert re.search(rf"^{'#?' if operator == ':-' else ''}{name}=", example, re.MULTILINE), name
        for line in re.findall(r"^ +\w*(?:SECRET|PASSWORD|ACCESS_KEY)\w*: (.*)$", text, re.MULTILINE):
            assert line.startswith("${") and ":?" in line, line


@functools.cache
def compose() -> list[str] | None:
    """The command of a Compose that works, as Docker's plugin or by itself; None without one."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, "version"], capture_output=True, text=True)
            if (
                done.returncode == 0 and "Docker Compose version" in done.stdout
            ):  # the old Python version prints another line
                return command
    return None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The Compose files, and the .env that train.py --init-env makes."""
    for name in (*FILES, ".env.example"):
        shutil.copy(SOURCE / name, tmp_path)
    init_env(tmp_path)
    return tmp_path


def test_dotenv_is_created_with_random_keys(folder: Path) -> None:
    text = (folder / ".env").read_text(encoding="utf-8")
    keys = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    assert len(keys) == 7 == len(set(keys.values())) and all(len(value) == 32 for value in keys.values())


def configured(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Return the configuration that Compose reads, without the environment variables that the files use."""
    files = [(folder / name).read_text(encoding="utf-8") for name in (*FILES, ".env.example")]
    named = {name for text in files for name in re.findall(r"[A-Z_]{4,}", text)}
    clean = {name: value for name, value in os.environ.items() if name not in named}
    command = [*(compose() or []), *options, "config", "--format", "json"]
    return subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True)


@pytest.mark.skipif(compose() is None, reason="no Docker Compose")
@pytest.mark.parametrize(
    "options", [(), ("--profile", "local-lakefs"), ("-f", BASE, "-f", POSTGRES), ("-f", BASE, "-f", MINIO)]
)
def test_compose_accepts_the_files(folder: Path, options: tuple[str, ...]) -> None:
    done = configured(folder, *options)
    assert done.returncode == 0 and not done.stderr, done.stderr  # no warning about an unset variable either
    services = json.loads(done.stdout)["services"]
    assert set(services) == {"object-store", "lakefs", "mlflow", *(["postgres"] if POSTGRES in options else [])}
    assert {port.get("host_ip") for service in services.values() for port in service.get("ports", [])} == {"127.0.0.1"}
    assert services["lakefs"]["environment"]["LAKEFS_DATABASE_TYPE"] == ("postgres" if POSTGRES in options else "local")
    assert ("minio" in services["object-store"]["image"]) == (MINIO in options)


@pytest.mark.skipif(compose() is None, reason="no Docker Compose")
def test_compose_without_dotenv_explains_how_to_create_it(folder: Path) -> None:
    (folder / ".env").unlink()
    done = configured(folder)
    assert done.returncode != 0 and "make .env first, see .env.example" in done.stderr


@pytest.mark.skipif(shutil.which("sh") is None, reason="no shell")
@pytest.mark.parametrize(
    ("output", "code", "runs"),
    [
        ("credentials:\n  access_key_id: KEY\n  secret_access_key: KEY", 0, True),
        ("Setup is already complete.", 1, True),
        ("Failed to setup DB: password authentication failed", 1, False),
    ],
)
def test_lakefs_on_postgres_starts_only_after_setup(tmp_path: Path, output: str, code: int, runs: bool) -> None:
    program = tmp_path / "lakefs"
    program.write_text(f'#!/bin/sh\ncase "$1" in run) echo running ;; *) echo "{output}"; exit {code} ;; esac\n')
    program.chmod(0o755)
    service = DOCUMENTS["docker-compose.postgres.yml"]["services"]["lakefs"]
    command = [*service["entrypoint"], *(line.replace("$$", "$") for line in service["command"])]
    env = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert (done.returncode == 0) == runs and done.stdout == ("running\n" if runs else "")
    assert done.stderr == ("" if runs else f"{output}\n")  # and no key


@pytest.mark.skipif(shutil.which("sh") is None, reason="no shell")
def test_object_store_leaves_a_volume_of_minio_as_it_is(tmp_path: Path) -> None:
    """An earlier docker-compose.yml ran MinIO on the volume: its files are unreadable for another store."""
    program, data = tmp_path / "versitygw", tmp_path / "data"
    program.write_text("#!/bin/sh\necho running\n")
    program.chmod(0o755)
    data.mkdir()
    service = DOCUMENTS[BASE]["services"]["object-store"]
    command = [*service["entrypoint"], *(line.replace("/data", str(data)) for line in service["command"])]
    env = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    assert subprocess.run(command, env=env, capture_output=True, text=True).stdout == "running\n"
    (data / ".minio.sys").mkdir()
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 1 and not done.stdout
    assert "the data of MinIO: set COMPOSE_FILE in .env to use docker-compose.minio.yml" in done.stderr


# Commands of the images where the files have no entrypoint.
IMAGES = {"lakefs": ["lakefs", "run"], "mlflow": []}


def merge_services(*files: str) -> dict[str, Any]:
    """Merge the services of several files as Compose does: mappings and ports are added, the rest is replaced."""
    merged: dict[str, Any] = {}
    for file in files:
        for name, service in DOCUMENTS[file]["services"].items():
            old = merged.get(name, {})
            added = {key: old.get(key, []) + service[key] for key in ("ports", "volumes") if key in service}
            environment = old.get("environment", {}) | service.get("environment", {})
            merged[name] = old | service | added | {"environment": environment}
    return merged


class Loopback:
    """The services of Compose files as programs of this machine: other hosts, ports and folders, all else the same."""

    def __init__(self, folder: Path, *files: str) -> None:
        self.folder = folder
        self.services = merge_services(*files)
        self.keys = dict(re.findall(r"^(\w+)=(.+)$", (folder / ".env").read_text(encoding="utf-8"), re.MULTILINE))
        published = [port.split(":")[-1] for service in self.services.values() for port in service["ports"]]
        self.ports = {port: str(free_port()) for port in published}

    def placed(self, text: str, service: str) -> str:
        """A value of the file with this machine's hosts, ports, folders and keys."""
        inner = "|".join(self.services)  # replaced by "localhost", to differ from the 127.0.0.1 of external clients
        text = re.sub(rf"\b({inner})(?=:\d)", "localhost", text)
        text = re.sub(r"\b0\.0\.0\.0\b|(?<!\S)(?=:\d)", "127.0.0.1", text)
        text = re.sub(r"(?<=[:=])\d{4}\b", lambda port: self.ports[port[0]], text)
        for volume in self.services[service]["volumes"]:
            name, target = volume.split(":")
            text = re.sub(rf"(?<!\w){target}(?![\w.])", str(self.folder / name), text)
        return re.sub(r"\$\{(\w+):\?[^}]*\}", lambda name: self.keys[name[1]], text)

    @contextlib.contextmanager
    def up(self) -> Iterator[None]:
        """All services run, each begun when the ones before it answer where their health checks ask."""
        with contextlib.ExitStack() as stack:
            for name, service in self.services.items():
                (self.folder / name).mkdir(exist_ok=True)
                command = service.get("command", [])
                command = shlex.split(command) if isinstance(command, str) else command
                environment = {key: self.placed(value, name) for key, value in service["environment"].items()}
                if name == "lakefs":  # by default on port 8000 of all interfaces
                    environment["LAKEFS_LISTEN_ADDRESS"] = self.placed(":8000", name)
                (health,) = re.findall(r"http://127[\w.:/]+", " ".join(service["healthcheck"]["test"]))
                placed = [self.placed(word, name) for word in command]
                program = service.get("entrypoint", IMAGES.get(name, []))
                values = [*placed, *environment.values()]
                paths = [path for value in values for path in re.findall(r"(?:^|=|sqlite:///)(/\S+)", value)]
                assert all(Path(path).is_relative_to(self.folder / name) for path in paths), (
                    "only volumes are persistent"
                )
                stack.enter_context(
                    run_server([*program, *placed], environment, self.placed(health, name), self.folder)
                )
            yield

    @contextlib.contextmanager
    def lake(self, cache: str) -> Iterator[LakeFS]:
        """A client as .env.example sets it up, with a cache of its own."""
        settings = Settings(
            lakefs_endpoint=self.placed("http://127.0.0.1:8000", "lakefs"),
            lakefs_access_key_id=self.keys["LAKEFS_ACCESS_KEY_ID"],
            lakefs_secret_access_key=self.keys["LAKEFS_SECRET_ACCESS_KEY"],
            lakefs_local_dir=self.folder / cache,
            minio_endpoint=self.placed("http://127.0.0.1:9000", "lakefs"),
            minio_access_key=self.keys["MINIO_ACCESS_KEY"],
            minio_secret_key=self.keys["MINIO_SECRET_KEY"],
            minio_bucket="lake",
        )
        with connect(settings, create=True) as lake:
            yield lake
            assert lake.connection.transfer.presign_support() == (True, True), (
                "what is large goes by links, which lead to the storage"
            )


@pytest.mark.parametrize(("store", "compose_files"), [("versitygw", (BASE,)), ("minio", (BASE, MINIO))])
def test_restart_keeps_all_data(folder: Path, store: str, compose_files: tuple[str, ...]) -> None:
    if missing := [name for name in (store, "lakefs", "mlflow") if not shutil.which(name)]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    from mlflow import MlflowClient

    services = Loopback(folder, *compose_files)
    runs = MlflowClient(services.placed("http://127.0.0.1:5000", "mlflow"))
    contents = {f"{size}.bin": secrets.token_bytes(size) for size in (0, 1000, transfer.SMALL + 1, multipart.MULTIPART)}
    files = {}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        files[name] = LocalFile(folder / name, file_sha256(folder / name))
    with services.up():
        with services.lake("before") as lake:
            commit = lake.publish(files, "data/", "m", {}, mirror=True).commit_id
        run = runs.create_run(runs.create_experiment("kept")).info.run_id
        runs.log_metric(run, "miou", 0.5)
        runs.log_text(run, "an artifact", "artifact.txt")
    with services.up():
        with services.lake("after") as lake:
            assert lake.head() == commit
            links = [file.link or "" for file in lake.objects(commit, "data/", links=True)]
            assert all(link.startswith(services.placed("http://127.0.0.1:9000/lake/", "lakefs")) for link in links)
            tree = lake.download(LakePath(lake.repo, commit, "data/"), folder / "after")
            assert {name: (tree / "data" / name).read_bytes() for name in contents} == contents
            assert lake.publish(files, "data/", "m", {}, mirror=True).uploaded == 0
        found = runs.get_run(run)
        assert runs.get_experiment(found.info.experiment_id).name == "kept" and found.data.metrics == {"miou": 0.5}
        assert Path(runs.download_artifacts(run, "artifact.txt", str(folder))).read_text() == "an artifact"
