"""The Compose files, by the rules that can be read from them: nothing to guess, nothing lost, nothing open to the network.

Where Docker's Compose is installed, it reads them too; no Docker server is needed for that.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.project import SOURCE

FILES = ("docker-compose.yml", "docker-compose.postgres.yml")
DOCUMENTS: dict[str, Any] = {name: yaml.safe_load((SOURCE / name).read_text()) for name in FILES}
SERVICES = [(file, name, service) for file in FILES for name, service in DOCUMENTS[file]["services"].items()]
WHOLE = [row for row in SERVICES if "image" in row[2]]  # the others add to a service of the first file


@pytest.mark.parametrize(("file", "name", "service"), WHOLE)
def test_every_service_is_pinned_checked_local_and_kept(file: str, name: str, service: dict[str, Any]) -> None:
    assert re.fullmatch(r"\$\{[A-Z_]+_IMAGE:-[\w./-]+:(?!latest)[\w.-]+\}", service["image"])
    assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert "profiles" not in service  # `docker compose up` and `--profile local-lakefs up` start the same
    assert service["volumes"] and {volume.split(":")[0] for volume in service["volumes"]} <= {
        *DOCUMENTS[file]["volumes"]
    }


def test_services_wait_for_the_health_of_others() -> None:
    for _, _, service in SERVICES:
        for needed, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"} and needed in [name for _, name, _ in WHOLE]


def test_ports_are_taken_once() -> None:
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
            if done.returncode == 0 and "Docker Compose version" in done.stdout:  # the first, in Python, says otherwise
                return command
    return None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The Compose files, and the .env that the command of .env.example makes."""
    for name in (*FILES, ".env.example"):
        shutil.copy(SOURCE / name, tmp_path)
    assert make_dotenv(tmp_path).returncode == 0
    return tmp_path


def make_dotenv(folder: Path) -> subprocess.CompletedProcess[str]:
    (line,) = re.findall(r"^# +(python -c .*)$", (folder / ".env.example").read_text(encoding="utf-8"), re.MULTILINE)
    command = [sys.executable, *shlex.split(line)[1:]]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_dotenv_is_made_with_random_keys_and_never_overwritten(folder: Path) -> None:
    text = (folder / ".env").read_text(encoding="utf-8")
    keys = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    assert len(keys) == 7 == len(set(keys.values())) and all(len(value) == 32 for value in keys.values())
    assert os.name == "nt" or (folder / ".env").stat().st_mode & 0o077 == 0
    assert make_dotenv(folder).returncode != 0 and (folder / ".env").read_text(encoding="utf-8") == text


def configured(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """What Compose makes of the files; of the environment it gets nothing that they name."""
    files = [(folder / name).read_text(encoding="utf-8") for name in (*FILES, ".env.example")]
    named = {name for text in files for name in re.findall(r"[A-Z_]{4,}", text)}
    clean = {name: value for name, value in os.environ.items() if name not in named}
    command = [*(compose() or []), *options, "config", "--format", "json"]
    return subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True)


@pytest.mark.skipif(compose() is None, reason="no Docker Compose")
@pytest.mark.parametrize("options", [(), ("--profile", "local-lakefs"), ("-f", FILES[0], "-f", FILES[1])])
def test_compose_accepts_the_files(folder: Path, options: tuple[str, ...]) -> None:
    done = configured(folder, *options)
    assert done.returncode == 0 and not done.stderr, done.stderr  # no warning either: of a variable that is not set
    services = json.loads(done.stdout)["services"]
    assert set(services) == {"object-store", "lakefs", "mlflow", *(["postgres"] if "-f" in options else [])}
    assert {port.get("host_ip") for service in services.values() for port in service.get("ports", [])} == {"127.0.0.1"}
    assert services["lakefs"]["environment"]["LAKEFS_DATABASE_TYPE"] == ("postgres" if "-f" in options else "local")


@pytest.mark.skipif(compose() is None, reason="no Docker Compose")
def test_compose_says_to_make_dotenv_first(folder: Path) -> None:
    (folder / ".env").unlink()
    done = configured(folder)
    assert done.returncode != 0 and "make .env first, see .env.example" in done.stderr


@pytest.mark.skipif(shutil.which("sh") is None, reason="no shell")
@pytest.mark.parametrize(
    ("said", "code", "runs"),
    [
        ("credentials:\n  access_key_id: KEY\n  secret_access_key: KEY", 0, True),
        ("Setup is already complete.", 1, True),
        ("Failed to setup DB: password authentication failed", 1, False),
    ],
)
def test_lakefs_on_postgres_runs_only_once_it_is_set_up(tmp_path: Path, said: str, code: int, runs: bool) -> None:
    program = tmp_path / "lakefs"
    program.write_text(f'#!/bin/sh\ncase "$1" in run) echo running ;; *) echo "{said}"; exit {code} ;; esac\n')
    program.chmod(0o755)
    service = DOCUMENTS["docker-compose.postgres.yml"]["services"]["lakefs"]
    command = [*service["entrypoint"], *(line.replace("$$", "$") for line in service["command"])]
    env = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert (done.returncode == 0) == runs and done.stdout == ("running\n" if runs else "")
    assert done.stderr == ("" if runs else f"{said}\n")  # and never a key
