"""The arithmetic of merges and renames, and the agreement with lakectl local."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from core.errors import AppError
from tests.support.clones import Clone
from versioning import sync
from versioning.divergence import Divergence
from versioning.versions import compare


def test_three_way_merge_of_every_combination() -> None:
    for base in (None, "b"):
        for local in (None, "b", "l", "s"):
            for branch in (None, "b", "r", "s"):
                sides = [{"x": side} if side else {} for side in (base, local, branch)]
                divergence = Divergence(*sides)
                conflict = len({base, local, branch}) == 3
                taken, conflicts = divergence.merged(lambda name: None)
                assert conflicts == (["x"] if conflict else []), (base, local, branch)
                after = taken.get("x", local) if not conflict else local
                assert after == (local if conflict else branch if local == base else local), (base, local, branch)
                lost = branch not in (base, local)
                assert divergence.undone() == (["x"] if lost else [])


def test_renames_are_paired_once_and_by_file_name() -> None:
    changes = compare({"b/1": "x", "b/2": "x", "c": "y"}, {"a/2": "x", "a/3": "x", "d": "z"})
    assert changes.renamed == {"b/1": "a/3", "b/2": "a/2"}
    assert changes.counts() == "1 new, 0 changed, 1 removed, 2 renamed"


@pytest.mark.skipif(shutil.which("lakectl") is None, reason="no lakectl program")
def test_lakectl_local_status_agrees(pair: tuple[Clone, Clone], lakefs_server_kind: str, tmp_path: Path) -> None:
    if lakefs_server_kind != "real":
        pytest.skip("lakectl local needs a real server")
    mine, theirs = pair
    mine.write(n05="mine")

    def lakectl(clone: Clone) -> str:
        keys = clone.settings
        environment = {
            **os.environ,
            "HOME": str(tmp_path),
            "LAKECTL_SERVER_ENDPOINT_URL": str(keys.lakefs_endpoint),
            "LAKECTL_CREDENTIALS_ACCESS_KEY_ID": str(keys.lakefs_access_key_id),
            "LAKECTL_CREDENTIALS_SECRET_ACCESS_KEY": str(keys.lakefs_secret_access_key),
            "LAKECTL_SERVER_RETRIES_ENABLED": "false",
        }
        command = ["lakectl", "local", "status", str(clone.root), "--no-color"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "No diff found" in lakectl(theirs)
    changed = lakectl(mine)
    assert "images/05.png" in changed and "images/04.png" not in changed
    mine.push()
    assert "No diff found" in lakectl(mine)
    remote = lakectl(theirs)
    assert "remote" in remote and "images/05.png" in remote and "images/04.png" not in remote
    sync.merge(theirs.settings, theirs.lake, "main", None)
    assert "No diff found" in lakectl(theirs)
    with pytest.raises(AppError):
        sync.pull(theirs.settings, theirs.lake, "nowhere", force=False)
