"""Limits of containers decide cores and memory, and OpenMP is configured before torch is loaded."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from core.machine import limits, openmp
from segmentation.predictor import Predictor
from tests.support.models import make_model
from tests.support.project import SOURCE
from train import auto_settings
from train.tracking.environment import environment

GB = 10**9
V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
MEMINFO = "MemTotal:       64000000 kB\nMemFree:        1000000 kB\nMemAvailable:   50000000 kB\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A host with 64 cores and 64 GB, and this process in a cgroup of it."""
    monkeypatch.setattr(limits, "ROOT", tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)), raising=False)
    made = Machine(tmp_path)
    made.write("proc/meminfo", MEMINFO)
    return made


class Machine:
    """Files below `root` in place of those of the system."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: str) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def version_2(self, own: str, **files: str) -> None:
        """Mount cgroups of version 2 and put this process into `own`."""
        self.write("proc/self/mountinfo", V2_MOUNT)
        self.write("proc/self/cgroup", f"0::{own}\n")
        self.cgroup(own, **files)

    def cgroup(self, own: str, **files: str) -> None:
        for name, text in files.items():
            self.write(f"sys/fs/cgroup{own}/{name.replace('__', '.')}", text + "\n")

    def version_1(self, own: str, mounted: str = "/", **files: dict[str, str]) -> None:
        """Mount hierarchies of version 1; the cgroup `mounted` appears at the mount points."""
        names = {"cpu": "cpu,cpuacct", "cpuset": "cpuset", "memory": "memory"}
        rows = [
            f"{i} 29 0:{i} {mounted} /sys/fs/cgroup/{name} rw,relatime shared:{i} - cgroup cgroup rw,{name}\n"
            for i, name in enumerate(names.values(), 31)
        ]
        self.write("proc/self/mountinfo", "".join(rows))
        self.write("proc/self/cgroup", "".join(f"{i}:{name}:{own}\n" for i, name in enumerate(names.values(), 4)))
        relative = own.removeprefix(mounted.rstrip("/")) if own.startswith(mounted) else ""
        for controller, values in files.items():
            for name, text in values.items():
                self.write(f"sys/fs/cgroup/{names[controller]}{relative}/{name}", text + "\n")


def test_host_without_limits_gives_its_cores_and_memory(machine: Machine) -> None:
    assert limits.usable_cores() == 64
    assert limits.total_memory() == 64000000 * 1024
    assert limits.available_memory() == 50000000 * 1024


@pytest.mark.parametrize(
    ("quota", "cores"), [("200000 100000", 2), ("150000 100000", 2), ("5000 100000", 1), ("max 100000", 64)]
)
def test_cpu_quota_of_version_2_decides_cores(machine: Machine, quota: str, cores: int) -> None:
    machine.version_2("/", cpu__max=quota)
    assert limits.usable_cores() == cores


def test_the_smallest_limit_of_all_parents_holds(machine: Machine) -> None:
    machine.version_2("/slurm/job 7/step", cpu__max="max 100000", memory__max="max")
    machine.cgroup("/slurm/job 7", cpu__max="400000 100000", memory__max=str(8 * GB), memory__current=str(3 * GB))
    machine.cgroup("/slurm", cpu__max="800000 100000", memory__max=str(9 * GB))
    assert limits.usable_cores() == 4
    assert limits.total_memory() == 8 * GB
    assert limits.available_memory() == 5 * GB


def test_cpuset_of_version_2_and_affinity_decide_cores(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.version_2("/pod", cpuset__cpus__effective="0-2,8,10-11")
    assert limits.usable_cores() == 6
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3, 4})
    assert limits.usable_cores() == 2


def test_memory_of_version_2_counts_dropped_files_as_available(machine: Machine) -> None:
    statistics = f"anon {GB}\nfile {2 * GB}\ninactive_file {GB}\nactive_file {GB}"
    files = {"memory__max": str(6 * GB), "memory__high": str(5 * GB), "memory__current": str(3 * GB)}
    machine.version_2("/", memory__stat=statistics, **files)
    assert limits.total_memory() == 5 * GB  # the kernel stalls a process beyond memory.high
    assert limits.available_memory() == 3 * GB


@pytest.mark.parametrize("mounted", ["/", "/docker/0123"])
def test_limits_of_version_1(machine: Machine, mounted: str) -> None:
    machine.version_1(
        "/docker/0123",
        mounted,
        cpu={"cpu.cfs_quota_us": "300000", "cpu.cfs_period_us": "100000"},
        cpuset={"cpuset.cpus": "0-15"},
        memory={
            "memory.limit_in_bytes": str(4 * GB),
            "memory.usage_in_bytes": str(2 * GB),
            "memory.stat": f"cache {GB}\ntotal_inactive_file {GB}",
        },
    )
    assert (limits.usable_cores(), limits.total_memory(), limits.available_memory()) == (3, 4 * GB, 3 * GB)


def test_container_that_sees_the_path_of_its_host_uses_its_own_mount(machine: Machine) -> None:
    quota = {"cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "50000"}
    machine.version_1("/", cpu=quota, memory={"memory.limit_in_bytes": str(GB)})
    machine.write("proc/self/cgroup", "4:cpu,cpuacct:/docker/77\n6:memory:/docker/77\n")
    assert (limits.usable_cores(), limits.total_memory()) == (1, GB)


def test_version_1_without_limits_is_unlimited(machine: Machine) -> None:
    unlimited = {"memory.limit_in_bytes": "9223372036854771712", "memory.usage_in_bytes": "5"}
    machine.version_1("/", cpu={"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}, memory=unlimited)
    assert (limits.usable_cores(), limits.total_memory()) == (64, 64000000 * 1024)


@pytest.mark.parametrize("text", ["", "garbage", "0", "0 0", "-5 x", "1 0", "\x00"])
def test_unreadable_limits_are_no_limits(machine: Machine, text: str) -> None:
    machine.version_2("/../..", cpu__max=text, memory__max="x", cpuset__cpus__effective="")
    machine.write("proc/self/mountinfo", V2_MOUNT + "broken\n - cgroup\n")
    assert limits.usable_cores() == 64
    assert limits.total_memory() == 64000000 * 1024


def test_memory_limit_decides_the_batch_size(machine: Machine) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3), torch.nn.ReLU(), torch.nn.Conv2d(64, 4, 1))
    choose = auto_settings.batch_size
    assert choose(None, network, (64, 64), torch.device("cpu"), 400)[0] == 16
    machine.version_2("/", memory__max="12000000", memory__current="0")
    batch, why = choose(None, network, (64, 64), torch.device("cpu"), 400)
    assert 1 <= batch <= 5
    assert "11.4 MB free" in why


def test_limits_decide_threads_and_logits_of_a_prediction_and_are_recorded(machine: Machine) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(8)  # as a process has it that imported torch before the project
    try:
        machine.version_2("/", cpu__max="300000 100000", memory__max=str(GB), memory__current="0")
        predictor = Predictor(make_model(), torch.device("cpu"))
        assert predictor.cores == 3
        assert predictor._logits.limit * 4 <= GB // 4
        with predictor.streams(8) as (streams, _):
            assert streams == 3
        assert torch.get_num_threads() == 8
        recorded = environment(torch.device("cpu"))
        assert (recorded["cores"], recorded["memory_gb"]) == (3, 0.9)
    finally:
        torch.set_num_threads(before)


def test_no_other_code_asks_for_the_cores_and_memory_of_the_host() -> None:
    names = ("cpu_count", "sysconf", "psutil", "process_cpu_count", "sched_getaffinity", "MemAvailable")
    folders = [marker.parent for marker in SOURCE.glob("*/py.typed")]
    found = [
        str(path.relative_to(SOURCE))
        for folder in folders
        for path in folder.rglob("*.py")
        if any(name in path.read_text(encoding="utf-8") for name in names)
    ]
    assert found in (["core/machine/limits.py"], ["core/machine/limits.py", "core/machine/openmp.py"])


# --- OpenMP ---


def configured(monkeypatch: pytest.MonkeyPatch, **variables: str) -> dict[str, str]:
    """Return the variables of OpenMP after `configure`."""
    for name in (*openmp.USER_SETTINGS, "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    openmp.configure()
    return {name: os.environ[name] for name in (*openmp.USER_SETTINGS, "OMP_NUM_THREADS") if name in os.environ}


def test_openmp_waits_briefly_in_every_runtime(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert configured(monkeypatch) == openmp.WAIT_SETTINGS
    assert openmp.WAIT_SETTINGS["GOMP_SPINCOUNT"] == "1000"


@pytest.mark.parametrize("own", [{"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "5"}, {"KMP_BLOCKTIME": "infinite"}])
def test_settings_of_the_user_for_openmp_stay(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, own: dict[str, str]
) -> None:
    assert configured(monkeypatch, **own) == own


def test_limited_cores_decide_the_threads_of_openmp(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.version_2("/", cpu__max="200000 100000")
    assert configured(monkeypatch)["OMP_NUM_THREADS"] == "2"
    assert configured(monkeypatch, OMP_NUM_THREADS="5")["OMP_NUM_THREADS"] == "5"


DOORS = """
import importlib, importlib.abc, os, sys
class Door(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torch":
            raise ImportError("configured" if os.environ.get("GOMP_SPINCOUNT") else "NOT CONFIGURED")
sys.meta_path.insert(0, Door())
own = {module.split(".")[0] for module in sys.argv[1:]} | {"core", "utils"}
for module in sys.argv[1:]:
    for name in ("GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        os.environ.pop(name, None)
    for name in [name for name in sys.modules if name.split(".")[0] in own]:
        del sys.modules[name]
    try:
        importlib.import_module(module)
        print(module, "no torch")
    except ImportError as error:
        print(module, error)
"""


def imports_torch(path: Path) -> bool:
    """Return whether a module imports torch when it is imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)]
    return any(name.split(".")[0] in ("torch", "torchvision") for name in names)


def test_openmp_is_configured_before_any_module_imports_torch() -> None:
    folders = [marker.parent for marker in SOURCE.glob("*/py.typed")] + [SOURCE / "benchmarks"]
    paths = [path for folder in folders for path in folder.rglob("*.py") if imports_torch(path)]
    modules = [".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in sorted(paths)]
    assert "segmentation.networks.registry" in modules
    clean = {key: value for key, value in os.environ.items() if key not in openmp.USER_SETTINGS}
    done = subprocess.run(
        [sys.executable, "-c", DOORS, *modules, "segmentation.pyfunc", "train.pyfunc", "config"],
        cwd=SOURCE,
        env=clean,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert lines.pop("config") == "no torch"  # the scripts: every setting is in the environment by then
    for name in ("segmentation.pyfunc", "train.pyfunc"):
        assert lines.pop(name) in ("configured", "no torch")
    assert set(lines.values()) == {"configured"}, lines
