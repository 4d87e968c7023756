"""Measure how versioning grows with the number of objects: time per object, peak memory of client and server, size on disk.

    python benchmarks/growth.py 1000 10000 100000        # the embedded server, in a process of its own
    python benchmarks/growth.py 1000 10000 30000 --real  # the server that LAKEFS_ENDPOINT names
    python benchmarks/growth.py 1000 --real --disk /srv/lakefs /srv/minio  # and how much its folders grow meanwhile

Each number of objects (of 1 KB) is published to a new repository by a client process of its own; then one object is
changed and published again; then everything is listed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import config
from core.console import format_size, format_table
from core.hashing import file_sha256
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import connect


def make_files(folder: Path, count: int) -> None:
    for number in range(count):
        path = folder / f"{number // 1000:04}" / f"{number:07}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(16) * 64)


def client(folder: Path) -> None:
    """Publish, change, publish and list as one client; print times and peak memory as a line of JSON."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.bin")}
    files = {name: LocalFile(path, file_sha256(path)) for name, path in found.items()}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with connect(config.load_settings(), create=True) as lake:
        start = time.perf_counter()
        lake.publish(files, "data/", "benchmark", {}, mirror=True)
        first = time.perf_counter()
        name, path = next(iter(found.items()))
        path.write_bytes(b"changed")
        files[name] = LocalFile(path, file_sha256(path))
        lake.publish(files, "data/", "benchmark", {}, mirror=True)
        second = time.perf_counter()
        count = sum(1 for _ in lake.objects("main", "data/"))
        third = time.perf_counter()
    assert count == len(files)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"first": first - start, "one": second - first, "list": third - second, "peak": peak - before}))


def server_memory(pid: int) -> int:
    """Return the peak resident memory of a process in bytes (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def disk_usage(folders: list[Path]) -> int:
    """Return the bytes that the files below the folders take, as `du` counts: lakeFS's local database has holes in its files."""
    total = 0
    for folder in folders:
        for parent, _, names in os.walk(folder):
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # a running server deletes files of its own
                    total += os.lstat(os.path.join(parent, name)).st_blocks * 512
    return total


def start_embedded(folder: Path) -> tuple[subprocess.Popen[str], dict[str, str]]:
    """Start the embedded server in a separate process; yield the settings that reach it."""
    command = [sys.executable, "-m", "utils.local_lakefs", "--port", "0", "--dir", str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    rows = [row.removeprefix("export ").split("=", 1) for row in (folder / "lakectl.env").read_text().splitlines()]
    values = {key: value.strip("'\"") for key, value in rows}
    return process, {
        "LAKEFS_ENDPOINT": values["LAKECTL_SERVER_ENDPOINT_URL"].removesuffix("/api/v1"),
        "LAKEFS_ACCESS_KEY_ID": values["LAKECTL_CREDENTIALS_ACCESS_KEY_ID"],
        "LAKEFS_SECRET_ACCESS_KEY": values["LAKECTL_CREDENTIALS_SECRET_ACCESS_KEY"],
        "LAKEFS_STORAGE_NAMESPACE": "local://growth",
    }


def measure(count: int, real: bool, folders: list[Path]) -> list[str]:
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        make_files(scratch / "files", count)
        env = os.environ | {"LAKEFS_REPO": f"g-{uuid.uuid4().hex[:10]}"}
        process = None
        if not real:
            (scratch / "store").mkdir()
            process, settings = start_embedded(scratch / "store")
            env |= settings
            folders = [scratch / "store"]
        before = disk_usage(folders)
        command = [sys.executable, __file__, "--client", str(scratch / "files")]
        done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
        figures = json.loads(done.stdout.splitlines()[-1])
        memory = "-"
        if process:
            memory = format_size(server_memory(process.pid))
            process.terminate()
            process.wait()
        disk = format_size(disk_usage(folders) - before) if folders else "-"
        per_object = figures["first"] / count * 1000
        peak = format_size(figures["peak"] * 1024)
        return [
            f"{count:,}",
            f"{per_object:.2f}",
            f"{figures['one']:.2f}",
            f"{figures['list']:.2f}",
            peak,
            memory,
            disk,
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counts", type=int, nargs="*")
    parser.add_argument("--real", action="store_true", help="use the server of LAKEFS_ENDPOINT")
    parser.add_argument(
        "--disk",
        type=Path,
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="with --real: where that server keeps its data",
    )
    parser.add_argument("--client", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        return client(options.client)
    if options.disk and not options.real:
        parser.error("--disk counts the folders of a server that runs already: add --real")
    if missing := [str(folder) for folder in options.disk if not folder.is_dir()]:
        parser.error(f"no such folder: {', '.join(missing)}")
    headers = ["objects", "ms an object", "one changed, s", "list all, s", "client grew by", "server's peak", "on disk"]
    rows = []
    for count in options.counts:
        rows.append(measure(count, options.real, options.disk))
        print(format_table(headers, rows[-1:]), flush=True)
    print("\n" + format_table(headers, rows))


if __name__ == "__main__":
    main()
