"""What a run records for its reproduction: settings, code changes, packages, hardware."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.files import write_atomically
from core.git import GitFacts
from core.i18n import tr
from core.machine.limits import total_memory, usable_cores
from core.provenance.code_files import LIST_NAME
from core.provenance.patch import read_patch
from core.reporting import warn
from core.safety.redaction import secret_values

if TYPE_CHECKING:
    import torch

PATCH_LIMIT = 5 << 20  # bytes; larger changes are not code
FOLDER = "code"  # directory of the run's artifacts
PATCH, SETTINGS, PACKAGES, ENVIRONMENT = "changes.patch", "settings.json", "packages.txt", "environment.json"
REPORT_FILE = "report.html"  # of every finished run
RECORDED = (SETTINGS, PACKAGES, ENVIRONMENT)  # of every run
PATCH_TAG = "git_patch"  # tag: "clean", "recorded", "incomplete: " and the missing files, or why there is none
INCOMPLETE = "incomplete"
STATE_LIMIT = 4000  # characters; servers store 5,000 of a tag
SHOWN = 10  # files that a warning names
# File -> tag of the run, and key of the model commit's metadata, with its SHA-256; the patch has one only if there is one.
HASH_KEYS = {
    SETTINGS: "settings_sha256",
    ENVIRONMENT: "environment_sha256",
    PACKAGES: "packages_sha256",
    PATCH: "git_patch_sha256",
}


@dataclass(frozen=True)
class CodeChanges:
    """Uncommitted changes; `patch` is empty for a clean tree; `state` is the tag: clean, recorded, incomplete, or why not."""

    patch: bytes
    state: str


def read_code_changes(folder: Path, git: GitFacts, secrets: Sequence[str], data: Path | None = None) -> CodeChanges:
    """Return the uncommitted code changes, without files that contain a secret; warns of all that is not recorded.

    `secrets` are those of the settings; those of the environment are added. `data` is the data directory.
    """
    if git.dirty != "true":
        return CodeChanges(b"", "clean" if git.dirty == "false" else "no git")
    found = read_patch(folder, [*secrets, *secret_values()], data)
    if found is None:
        return _not_recorded("Git failed")
    if len(found.patch) > PATCH_LIMIT:
        return _not_recorded(f"{len(found.patch) / 2**20:.1f} MB, the limit is {PATCH_LIMIT >> 20} MB")
    if found.unused:
        files = ", ".join(found.unused[:SHOWN])
        warn(
            tr(
                "new files that no code mentions are not recorded: {files} ({count} in all; {list} can list files that belong "
                "to the code)",
                files=files,
                count=len(found.unused),
                list=LIST_NAME,
            )
        )
    if found.left_out:
        reasons = ", ".join(f"{tr(file.name)} ({tr(file.reason)})" for file in found.left_out)
        warn(tr("changed code that is not recorded, so that --reproduce will refuse this run: {files}", files=reasons))
        state = f"{INCOMPLETE}: " + ", ".join(f"{file.name} ({file.reason})" for file in found.left_out)
        return CodeChanges(found.patch, state[:STATE_LIMIT])
    return CodeChanges(found.patch, "recorded" if found.patch else "clean")


def _not_recorded(reason: str) -> CodeChanges:
    warn(
        tr(
            "the code changes are not recorded ({reason}): --reproduce will not work for this run",
            reason=reason,
        )
    )
    return CodeChanges(b"", f"not recorded: {reason}")


def environment(device: torch.device) -> dict[str, Any]:
    """Return what may change the metrics besides code, data and settings."""
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if device.type == "cuda" else []
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),  # the order of summation depends on it
        "memory_gb": round(total_memory() / 2**30, 1),
        "device": device.type,
        "gpus": names,
    }


def packages() -> list[str]:
    """Return what `pip freeze` would list, without starting pip."""
    return sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()}, key=str.lower)


def write_record(
    folder: Path, settings: dict[str, Any], smoke: bool, patch: bytes, device: torch.device
) -> dict[str, str]:
    """Write the files of the run's `code/` artifacts; return their SHA-256 by their `HASH_KEYS`."""
    recipe = {"settings": settings, "smoke": smoke}
    files = {
        SETTINGS: json.dumps(recipe, indent=1, ensure_ascii=False).encode(),
        ENVIRONMENT: json.dumps(environment(device), indent=1).encode(),
        PACKAGES: ("\n".join(packages()) + "\n").encode(),
        **({PATCH: patch} if patch else {}),
    }
    for name, content in files.items():
        write_atomically(folder / name, content)
    return {HASH_KEYS[name]: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def _cpu_name() -> str:
    try:
        rows = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    return next((row.split(":", 1)[1].strip() for row in rows if row.startswith("model name")), platform.machine())
