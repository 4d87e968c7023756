"""The tests in a checkout where somebody has trained, as README's two commands do one after the other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.project import copy_source


def test_tests_do_not_read_the_lock_of_the_checkout(tmp_path: Path) -> None:
    copy_source(tmp_path)
    (tmp_path / "lakefs.lock").write_text("not a lock: whoever reads it fails")
    test = "tests/registry/test_states.py::test_rollback_of_the_only_version_says_so"
    command = [sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", test]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
