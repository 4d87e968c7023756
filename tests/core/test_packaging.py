"""pyproject.toml and the requirement files against the tree."""

from __future__ import annotations

import re
import tomllib

from packaging.requirements import Requirement

from tests.support.project import SOURCE

PYPROJECT = tomllib.loads((SOURCE / "pyproject.toml").read_text(encoding="utf-8"))


def requirements(file: str) -> list[Requirement]:
    """Parse a requirements file without its options and comments."""
    lines = (line.split("#")[0].strip() for line in (SOURCE / file).read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-")]


def test_every_package_is_installed_and_typed() -> None:
    not_installed = {"tests", "tools", "benchmarks", "action"}
    packages = {
        ".".join(path.parent.relative_to(SOURCE).parts)
        for top in SOURCE.iterdir()
        if top.is_dir() and not top.name.startswith(".") and top.name not in not_installed
        for path in top.rglob("__init__.py")
        if (SOURCE / top.name / "__init__.py").is_file()
    }
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == packages
    for name in packages:
        assert (SOURCE / name.replace(".", "/") / "py.typed").is_file(), name


def test_every_requirement_has_an_upper_bound() -> None:
    for requirement in requirements("requirements.txt"):
        assert any(specifier.operator == "<" for specifier in requirement.specifier), requirement


def test_lock_has_a_hash_for_every_package_and_satisfies_the_requirements() -> None:
    text = (SOURCE / "requirements.lock").read_text(encoding="utf-8")
    locked = dict(re.findall(r"^([\w.-]+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}", text, re.MULTILINE))
    assert len(locked) == len(re.findall(r"^[\w.-]+==", text, re.MULTILINE))
    for requirement in requirements("requirements.txt"):
        assert requirement.specifier.contains(locked[requirement.name]), requirement
    assert "://" not in text
