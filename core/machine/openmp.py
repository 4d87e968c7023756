"""Settings of OpenMP, which computes in torch on the CPU; they are read when torch is loaded.

At the end of each parallel part, threads that are done wait for the others in a loop, for up to 0.2 s. On a busy machine
this takes the core from the very thread that they wait for: the training of a small network beside two busy processes
drops to a tenth of its speed. With a short loop the threads go to sleep, and on an idle machine nothing is lost.

`core` calls `configure` when it is imported, and every package that imports torch imports `core` first, so that it holds
in scripts, in the workers of torchrun, in processes that MLflow starts, and in their children.
"""

from __future__ import annotations

import os

from core.machine.limits import usable_cores

WAIT_SETTINGS = {
    "GOMP_SPINCOUNT": "1000",  # GNU OpenMP, of torch's packages for Linux: turns of the loop, a few microseconds
    "KMP_BLOCKTIME": "0",  # LLVM's and Intel's, of torch's packages for macOS and of conda: milliseconds
}
USER_SETTINGS = ("OMP_WAIT_POLICY", *WAIT_SETTINGS)


def configure() -> None:
    """Set the variables of this process and its children, unless the user has set them. Call it before importing torch."""
    if not any(os.environ.get(name) for name in USER_SETTINGS):
        os.environ.update(WAIT_SETTINGS)
    cores = usable_cores()
    if cores < (os.cpu_count() or 1) and not os.environ.get("OMP_NUM_THREADS"):
        os.environ["OMP_NUM_THREADS"] = str(cores)  # OpenMP looks at the affinity, but not at the quota
