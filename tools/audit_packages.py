"""Look for known vulnerabilities in the packages of lock files, by pip-audit.

python tools/audit_packages.py requirements requirements-dev      # the lock files of these names

Exit code 1 if a package has one. pip-audit counts a package that its database does not know as sound, also where only the
index of packages can be reached and not the database: if that is so for every package, this says so instead.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_LIMIT_S = 300


def read_answer(lock: Path) -> list[dict[str, Any]] | None:
    """Return pip-audit's entry of each package in the lock file; None if the database cannot be reached.

    Only the lock file is read: nothing is installed or downloaded.
    """
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--require-hashes", "--disable-pip"]
    try:
        done = subprocess.run(
            [*command, "--progress-spinner=off", "--format=json"], capture_output=True, text=True, timeout=_LIMIT_S
        )
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        return None
    return packages if any("skip_reason" not in package for package in packages) else None


def report(lock: str, packages: Sequence[dict[str, Any]] | None) -> bool:
    """Print the result of one lock file; return whether a package is vulnerable."""
    if packages is None:
        print(f"{lock}: not audited: pip-audit's database cannot be reached from here")
        return False
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    found = [(package, fault) for package in packages for fault in package.get("vulns", ())]
    for package, fault in found:
        fixed = ", ".join(fault.get("fix_versions", ())) or "no version yet"
        print(f"{lock}: {package['name']} {package['version']}: {fault['id']}, fixed in {fixed}")
    left_out = f"; unknown to the database: {', '.join(unknown)}" if unknown else ""
    print(f"{lock}: {len(packages) - len(unknown)} packages audited, {len(found)} vulnerabilities{left_out}")
    return bool(found)


def main(names: Sequence[str]) -> int:
    """Audit the lock files; return the exit code."""
    if not names:
        print(__doc__)
        return 2
    return int(any([report(f"{name}.lock", read_answer(ROOT / f"{name}.lock")) for name in names]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
