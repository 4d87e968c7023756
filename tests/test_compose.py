"""The Compose files, by the rules that can be read from them: nothing to guess, nothing lost, nothing open to the network."""

from __future__ import annotations

import re
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
