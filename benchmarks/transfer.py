"""Compare versioning a folder with the alternatives that users would choose, in one run: medians, ratios, spread.

    python benchmarks/transfer.py path/to/folder --rounds 3 --dvc path/to/dvc

Needs a lakeFS server over S3 with the settings of README.md in the environment (LAKEFS_*, MINIO_*), `lakectl` on the
PATH, and DVC (with its S3 extra) in a separate environment. Missing peers are left out. Each round runs every peer
once, in turn, so that a drift of the machine's speed affects all. A ratio below 1 means that ours is faster.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import config
from core.console import format_table
from utils.lakefs_utils import LakePath, connect
from versioning.versions import local_files

Times = dict[str, list[float]]
# What is compared with what, and the largest ratio that the project sets itself.
RATIOS = [
    ("ours: upload + commit", "lakectl: upload + commit", 1.1),
    ("ours: verified download", "lakectl: download", 1.1),
    ("ours: download, cached", "lakectl: download", 0.1),
    ("ours: push, one file changed", "dvc: add + push, one file changed", 0.5),
    ("ours: push, nothing changed", "dvc: add + push, nothing changed", 0.5),
    ("ours, embedded: upload + commit", "lakectl: upload + commit", 1.0),
    ("ours, embedded: verified download", "lakectl: download", 1.0),
]


def timed(times: Times, name: str, work: Callable[[], object]) -> None:
    start = time.perf_counter()
    work()
    times[name].append(time.perf_counter() - start)
    print(f"  {name:36s} {times[name][-1]:7.2f} s", flush=True)


def quiet(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    subprocess.run(command, check=True, cwd=cwd, env=env, stdout=subprocess.DEVNULL)


def ours(times: Times, folder: Path, scratch: Path, embedded: bool) -> None:
    """Time the calls that train.py and infer.py make: hashing, private branch, commit and merge included."""
    label = "ours, embedded" if embedded else "ours"
    settings = config.load_settings(
        data_dir=folder, lakefs_repo=f"b-{uuid.uuid4().hex[:10]}", lakefs_local_dir=scratch / "local"
    )
    if embedded:
        settings = dataclasses.replace(settings, lakefs_endpoint=None)
    with connect(settings, create=True) as lake:
        commits: list[str] = []

        def upload() -> None:
            files = local_files(settings)
            commits.append(lake.publish(files, "data/", "benchmark", {}, mirror=True).commit_id)

        timed(times, f"{label}: upload + commit", upload)
        source = LakePath(lake.repo, commits[0], "data/")
        timed(times, f"{label}: verified download", lambda: lake.download(source, scratch / "cache"))
        timed(times, f"{label}: download, cached", lambda: lake.download(source, scratch / "cache"))


def lakectl(times: Times, folder: Path, scratch: Path) -> None:
    repo = f"b-{uuid.uuid4().hex[:10]}"
    prefix = (os.environ.get("LAKEFS_STORAGE_NAMESPACE") or "s3://lake").rstrip("/")
    quiet("lakectl", "repo", "create", f"lakefs://{repo}", f"{prefix}/{repo}")

    def upload() -> None:
        quiet("lakectl", "fs", "upload", "--recursive", "--source", str(folder), f"lakefs://{repo}/main/data/")
        quiet("lakectl", "commit", f"lakefs://{repo}/main", "--message", "benchmark")

    timed(times, "lakectl: upload + commit", upload)
    out = str(scratch / "lakectl")
    timed(
        times,
        "lakectl: download",
        lambda: quiet("lakectl", "fs", "download", "--recursive", f"lakefs://{repo}/main/data/", out),
    )


def change_one(folder: Path) -> None:
    path = next(path for path in sorted(folder.rglob("*")) if path.is_file())
    content = path.read_bytes()
    path.unlink()  # not through a hard link into somebody's cache
    path.write_bytes(content + b"x")


def push_commands(times: Times, folder: Path, scratch: Path) -> None:
    """Time whole commands, the start of the interpreter included."""
    data = shutil.copytree(folder, scratch / "data")
    keys = {
        "DATA_DIR": str(data),
        "LAKEFS_REPO": f"b-{uuid.uuid4().hex[:10]}",
        "LAKEFS_LOCAL_DIR": str(scratch / "local"),
    }
    push = [sys.executable, str(ROOT / "lake.py"), "push", "--message", "benchmark"]
    env = os.environ | keys
    time.sleep(2.1)  # a file this young is not remembered by its stat
    timed(times, "ours: push, everything", lambda: quiet(*push, env=env))
    timed(times, "ours: push, nothing changed", lambda: quiet(*push, env=env))
    change_one(data)
    timed(times, "ours: push, one file changed", lambda: quiet(*push, env=env))


def dvc(times: Times, folder: Path, scratch: Path, program: str) -> None:
    from utils import minio_utils

    settings = config.load_settings()
    minio_utils.ensure_bucket(settings, "dvc")
    work = scratch / "dvc"
    work.mkdir()
    keys = {
        "AWS_ACCESS_KEY_ID": str(settings.minio_access_key),
        "AWS_SECRET_ACCESS_KEY": str(settings.minio_secret_key),
    }
    env = os.environ | keys | {"DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(scratch / "dvc-site")}
    quiet("git", "init", "--quiet", str(work))
    quiet(program, "init", "--quiet", cwd=work, env=env)
    quiet(program, "remote", "add", "--default", "s3", f"s3://dvc/{uuid.uuid4().hex}", cwd=work, env=env)
    quiet(program, "remote", "modify", "s3", "endpointurl", str(settings.minio_endpoint), cwd=work, env=env)
    shutil.copytree(folder, work / "data")

    def push() -> None:
        quiet(program, "add", "--quiet", "data", cwd=work, env=env)
        quiet(program, "push", "--quiet", cwd=work, env=env)

    timed(times, "dvc: add + push, everything", push)
    timed(times, "dvc: add + push, nothing changed", push)
    change_one(work / "data")
    timed(times, "dvc: add + push, one file changed", push)


def report(times: Times) -> None:
    rows = [[name, f"{statistics.median(t):.2f}", f"{min(t):.2f} - {max(t):.2f}"] for name, t in times.items()]
    print("\n" + format_table(["seconds", "median", "min - max"], rows) + "\n")
    ratios = []
    for one, other, limit in RATIOS:
        if one in times and other in times:
            pairs = [a / b for a, b in zip(times[one], times[other], strict=True)]
            median = statistics.median(times[one]) / statistics.median(times[other])
            ratios.append([f"{one} / {other}", f"{median:.2f}", f"{min(pairs):.2f} - {max(pairs):.2f}", f"<= {limit}"])
    print(format_table(["ratio", "of medians", "spread", "aim"], ratios))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dvc", help="path of the dvc program")
    options = parser.parse_args()
    files = [path for path in options.folder.rglob("*") if path.is_file()]
    print(f"{len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB")
    times: Times = defaultdict(list)
    # Nothing is removed before the end: for some seconds ext4 looks long for room where files were removed.
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, options.rounds + 1):
            print(f"round {number}")
            scratch = Path(folder) / str(number)
            for name in ("ours", "lakectl", "embedded", "push", "dvc"):
                (scratch / name).mkdir(parents=True)
            ours(times, options.folder, scratch / "ours", embedded=False)
            if shutil.which("lakectl"):
                lakectl(times, options.folder, scratch / "lakectl")
            ours(times, options.folder, scratch / "embedded", embedded=True)
            push_commands(times, options.folder, scratch / "push")
            if options.dvc:
                dvc(times, options.folder, scratch / "dvc", options.dvc)
    report(times)


if __name__ == "__main__":
    main()
