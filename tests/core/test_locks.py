"""The lock files: complete, hashed, consistent with the ranges and with each other, and installed by .ci/run with hashes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.support.project import SOURCE
from tools import audit_packages

LOCKS = ("requirements", "requirements-dev")


def read_lock(name: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return version and hashes of each package."""
    text = (SOURCE / f"{name}.lock").read_text(encoding="utf-8").replace("\\\n", " ")
    rows = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    found = {}
    for row in rows:
        package, _, hashes = row.partition(" ")
        match = re.fullmatch(r"([\w.-]+)==(\S+)", package)
        assert match, f"{name}.lock: not an exact version: {package}"
        # A marker such as `; sys_platform == "linux"` may stand between the version and the hashes.
        found[match[1].rstrip(";")] = (
            match[2].rstrip(";"),
            tuple(re.findall(r"--hash=(sha256:[0-9a-f]{64})(?=\s|$)", hashes)),
        )
    return found


def read_requirements(name: str) -> list[Requirement]:
    """Return the requirements of a file and of the files that it includes."""
    found = []
    for line in (SOURCE / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        text = line.split("#")[0].strip()
        if text.startswith("-r "):
            found += read_requirements(text[3:].removesuffix(".txt"))
        elif text:
            found.append(Requirement(text))
    return found


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("name", LOCKS)
def test_every_requirement_is_locked_in_its_range_and_every_package_has_hashes(name: str) -> None:
    locked = read_lock(name)
    assert all(hashes for _, hashes in locked.values())
    for requirement in read_requirements(name):
        version, _ = locked[normalized(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement}: {version} is locked: run nox -s lock"


def test_both_locks_name_the_same_files() -> None:
    users, developers = map(read_lock, LOCKS)
    assert users == {name: developers[name] for name in users}


def test_locks_name_no_index_and_no_file() -> None:
    for name in LOCKS:
        text = (SOURCE / f"{name}.lock").read_text(encoding="utf-8")
        assert "://" not in text and "--index" not in text and "--find-links" not in text


def test_ci_installs_with_hashes_and_pins_what_it_builds() -> None:
    text = (SOURCE / ".ci" / "run").read_text(encoding="utf-8")
    assert "--require-hashes --requirement requirements-dev.lock" in text and "@latest" not in text
    (version,) = re.findall(r"go install \S+versitygw@(\S+)", text)
    assert f"versitygw:{version}@sha256:" in (SOURCE / "docker-compose.yml").read_text(encoding="utf-8")


def skipped(name: str) -> dict[str, Any]:
    return {"name": name, "skip_reason": "Dependency not found"}


def audited(name: str, *vulnerabilities: str) -> dict[str, Any]:
    found = [{"id": number, "fix_versions": ["9.9"]} for number in vulnerabilities]
    return {"name": name, "version": "1.0", "vulns": found}


@pytest.mark.parametrize(
    ("answer", "code", "message"),
    [
        (json.dumps({"dependencies": [audited("a"), audited("b")]}), 0, "2 packages audited, 0 vulnerabilities"),
        (json.dumps({"dependencies": [audited("a", "CVE-1"), audited("b")]}), 1, "a 1.0: CVE-1, fixed in 9.9"),
        (json.dumps({"dependencies": [audited("a"), skipped("b")]}), 0, "unknown to the database: b"),
        # The package index answers and its database does not: pip-audit calls each package sound and exits with 0.
        (json.dumps({"dependencies": [skipped("a"), skipped("b")]}), 0, "not audited: pip-audit's database cannot be"),
        ("", 0, "not audited: pip-audit's database cannot be reached"),
    ],
)
def test_audit_states_what_was_audited(
    answer: str,
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    assert audit_packages.main(["requirements"]) == code
    assert message in capsys.readouterr().out
