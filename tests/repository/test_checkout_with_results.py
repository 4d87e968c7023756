"""The tests in a checkout where somebody has trained, as README's two commands do one after the other."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.project import SOURCE


def test_tests_do_not_read_the_lock_of_the_checkout(tmp_path: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=SOURCE, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (SOURCE / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(SOURCE / name, tmp_path / name)
    (tmp_path / "lakefs.lock").write_text("not a lock: whoever reads it fails")
    test = "tests/registry/test_states.py::test_rollback_of_the_only_version_says_so"
    command = [sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", test]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
