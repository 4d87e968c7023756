"""The checks of this repository, one session each: `nox` runs all, `nox -s lint` runs one, `nox -l` lists them.

The sessions use the environment that nox runs in (`pip install -r requirements-dev.txt`): PyTorch is not installed again
for each of them. `.ci/run` and `.pre-commit-config.yaml` run the same commands.
"""

from __future__ import annotations

from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "docs", "audit", "tests"]

PACKAGES = sorted(marker.parent.name for marker in Path(__file__).resolve().parent.glob("*/py.typed"))
# Lock file without suffix -> the files that limit its versions: both locks name the same packages.
LOCKS = {"requirements": [], "requirements-dev": ["requirements.lock"]}
SCRIPTS = ("train.py", "register_model.py", "infer.py", "lake.py")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, spelling and the layers of ARCHITECTURE.md."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("codespell")
    session.run("lint-imports", "--no-cache")


@nox.session
def types(session: nox.Session) -> None:
    """Check types in strict mode."""
    session.run("mypy", "config.py", "noxfile.py", *PACKAGES, "tests", "benchmarks")
    for script in SCRIPTS:  # one call each: beside the package train/, train.py is a second module of that name
        session.run("mypy", script)


@nox.session
def docs(session: nox.Session) -> None:
    """Check the Korean message catalogue and the generated documentation; build the site of docs/ into site/."""
    session.run("python", "tools/catalogue.py", "check")
    session.run("python", "tools/settings_docs.py", "check")
    # A broken link, a missing page and an unknown heading are errors. The variable turns off advertising for other tools.
    session.run("mkdocs", "build", "--strict", "--quiet", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests, as README.md does; `nox -s tests -- tests/dataset/test_data.py` runs a part of them."""
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the tests and print the lines that no test reached: a fifth slower, so that it is no part of `.ci/run`."""
    session.run("python", "-m", "pytest", "--cov", "--cov-report=", *session.posargs)
    session.run("python", "-m", "coverage", "report", "--skip-covered", "--sort=cover")


@nox.session
def lock(session: nox.Session) -> None:
    """Regenerate the lock files with hashes for Python 3.11 on Linux; `nox -s lock -- --upgrade` takes newer versions."""
    options = ["--generate-hashes", "--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28"]
    options += ["--no-annotate", "--custom-compile-command", "nox -s lock", "--quiet"]
    for name, limits in LOCKS.items():
        limited = [option for limit in limits for option in ("--constraint", limit)]
        command = [
            "uv",
            "pip",
            "compile",
            *options,
            *limited,
            *session.posargs,
            f"--output-file={name}.lock",
            f"{name}.txt",
        ]
        session.run(*command, silent=True)


@nox.session
def audit(session: nox.Session) -> None:
    """Look for known vulnerabilities in the locked packages, where the database can be reached."""
    session.run("python", "tools/audit_packages.py", *LOCKS)
