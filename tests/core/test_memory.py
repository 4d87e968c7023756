"""Reuse of freed memory by the process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from tests.support.project import SOURCE

FAULTS = """
import resource, sys, torch
from core.machine.heap import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def step():
    activations = [torch.ones(mebibytes << 18) for mebibytes in range(1, 25)]  # 300 MiB, as a forward pass keeps them
    while activations:
        torch.ones_like(activations.pop())  # a backward pass
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_freed_memory_pages_are_reused_by_the_next_step() -> None:
    """Otherwise the kernel clears most of the 150,000 pages again in each step.

    The two thresholds are glibc's first ones. It raises them as it likes, so that a process without our settings may
    keep its memory by chance.
    """
    fixed = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    faults = {}
    for how in ("kept", "default"):
        done = subprocess.run(
            [sys.executable, "-c", FAULTS, how],
            cwd=SOURCE,
            env=os.environ | fixed,
            capture_output=True,
            text=True,
            check=True,
        )
        faults[how] = int(done.stdout)
    assert faults["kept"] * 10 < faults["default"], faults
