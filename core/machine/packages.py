"""What a missing Python package means for a user: an environment that is not active, or an installation to be made."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from core.i18n import tr

ENVIRONMENTS = (".venv", "venv", "env")  # usual names of virtual environments, in the project's directory
INSTALL = "pip install -r requirements.txt"


def describe_missing_package(error: BaseException, project: Path) -> str | None:
    """Return which package is missing and the command that helps; None for another error or a module of the project."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return None
    package = error.name.partition(".")[0]
    if (project / package).exists() or (project / f"{package}.py").exists():
        return None
    activate = None if sys.prefix != sys.base_prefix else _activation(project)
    if activate is None:
        return tr("Python package '{package}' is not installed: {command}", package=package, command=INSTALL)
    return tr(
        "Python package '{package}' is not installed here: activate the virtual environment ({activate}), or {command}",
        package=package,
        activate=activate,
        command=INSTALL,
    )


def _activation(project: Path) -> str | None:
    """Return the command that activates the virtual environment in the project's directory; None without one."""
    place = ("Scripts", "activate") if os.name == "nt" else ("bin", "activate")
    for name in ENVIRONMENTS:
        script = project.joinpath(name, *place)
        if script.exists():
            return str(script) if os.name == "nt" else f"source {script}"
    return None
