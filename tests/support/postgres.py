"""A PostgreSQL server of one test, where its programs are installed."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

NOBODY = 65534  # PostgreSQL refuses to run as root


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Yield the URL of an empty database; skip the test without PostgreSQL or its driver."""
    pytest.importorskip("psycopg")
    programs = [shutil.which(name) for name in ("initdb", "pg_ctl")]
    if not all(programs):
        pytest.skip("needs PostgreSQL's initdb and pg_ctl")
    as_user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # a short path: that of a socket is limited
        if as_user:
            os.chown(folder, NOBODY, NOBODY)

        def run(program: str | None, *arguments: str) -> None:
            command = [*as_user, str(program), "-D", str(Path(folder, "data")), *arguments]
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        run(programs[0], "-U", "test", "-A", "trust", "--no-sync")
        run(programs[1], "-w", "-o", f"-k {folder} -c listen_addresses='' -c fsync=off", "start")
        try:
            yield f"postgresql+psycopg://test@/postgres?host={folder}"
        finally:
            run(programs[1], "-m", "immediate", "stop")
