"""Ten clients push, pull, train and register at the same time while a server is killed; nothing acknowledged may be lost.

    python benchmarks/concurrent_clients.py --minutes 10                     # versitygw, lakeFS and MLflow on the PATH
    python benchmarks/concurrent_clients.py --minutes 10 --store weed --kill lakefs store mlflow
    python benchmarks/concurrent_clients.py --minutes 2 --clients 3 --trainers 1 --folder /tmp/clients

Starts lakeFS over the store, and MLflow, on this machine. Each client is a clone of the project with its own data directory,
and runs the scripts as users do; all of them publish to one branch. The servers named by --kill are killed by SIGKILL, one
after another, and started again after a few seconds. A command that ends with exit code 0 is acknowledged: at the end, every
acknowledged commit, file, run and version must be there, and every version must verify. Exit code 1 if one is not.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
from PIL import Image

import config
from core.console import format_table
from core.hashing import file_sha256
from tests.support import servers, stores
from tests.support.processes import ServerProcess
from tests.support.project import Project, make_project
from utils.lakefs_utils import connect

REPO, SIDE = "concurrent-clients", 64
PAUSE_S = 5  # between the kill of a server and its start
COMMAND_S = 1800  # limit of one command: the cores are shared by all clients
COMMIT = re.compile(r"commit:? ([0-9a-f]{64})")
VERSION = re.compile(r" v(\d+): ")
TRAIN = ("--epochs", "1", "--batch-size", "8", "--image-size", str(SIDE), str(SIDE), "--data-ref", "main")
# What each kind of command may be refused with although nothing is wrong: another client was faster.
EXPECTED = ("pull", "changed meanwhile", "run again", "in use", "already")


@dataclasses.dataclass
class Ledger:
    """What was acknowledged, and how each command ended."""

    commits: set[str] = dataclasses.field(default_factory=set)
    files: dict[str, str] = dataclasses.field(default_factory=dict)  # path in data/ -> SHA-256; one client each
    runs: set[str] = dataclasses.field(default_factory=set)
    versions: dict[str, tuple[str, Project]] = dataclasses.field(default_factory=dict)  # number -> run, its clone
    seconds: dict[str, list[float]] = dataclasses.field(default_factory=lambda: defaultdict(list))
    ends: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)
    errors: list[str] = dataclasses.field(default_factory=list)
    last_outage: float = 0.0  # when the last killed server was back, of time.monotonic()
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)


@dataclasses.dataclass
class Client:
    """One clone of the project; only its thread uses it."""

    number: int
    project: Project
    ledger: Ledger
    outage: threading.Event
    random: random.Random
    pairs: int = 0

    @property
    def data(self) -> Path:
        return self.project.folder / "data"

    def run(self, kind: str, script: str, *arguments: str) -> str | None:
        """Run a script; return its output if it was acknowledged, else None."""
        start, outage = time.monotonic(), self.outage.is_set()
        done = subprocess.run(
            self.project.command(script, *arguments),
            cwd=self.project.folder,
            env=self.project.environment(),
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
        )
        self.ledger.seconds[kind].append(time.monotonic() - start)
        last = (done.stderr.strip().splitlines() or [""])[-1]
        accepted = (0, 3) if kind == "register" else (0,)  # 3: registered, but not promoted
        if done.returncode in accepted:
            end = "acknowledged"
        elif "Traceback" in done.stderr:
            end = "traceback"
            self.ledger.errors.append(f"client {self.number}, {kind}: {done.stderr[-2000:]}")
        elif outage or self.outage.is_set() or start < self.ledger.last_outage:
            end = "failed while a server was down"
        elif any(word in done.stderr for word in EXPECTED):
            end = "another client was faster"
        else:
            end = "failed"
            self.ledger.errors.append(f"client {self.number}, {kind}: exit code {done.returncode}: {last}")
        with self.ledger.lock:
            self.ledger.ends[kind, end] += 1
        print(f"{time.strftime('%X')} client {self.number:2} {kind:8} {end}", flush=True)
        return done.stdout if done.returncode in accepted else None

    def change(self) -> dict[str, str]:
        """Add a pair and draw an own mask again; return the SHA-256 of the client's files."""
        self.pairs += 1
        for number in {self.pairs, self.random.randint(1, self.pairs)}:
            pixels = np.frombuffer(self.random.randbytes(SIDE * SIDE * 3), np.uint8).reshape(SIDE, SIDE, 3)
            mask = np.zeros((SIDE, SIDE), np.uint8)
            mask[: self.random.randint(8, SIDE - 8)] = self.random.randint(1, 2)
            for kind, content in (("images", pixels), ("masks", mask)):
                path = self.data / "train" / kind / f"client{self.number}-{number}.png"
                if kind == "masks" or not path.exists():
                    Image.fromarray(content).save(path)
        own = self.data.glob(f"train/*/client{self.number}-*.png")
        return {path.relative_to(self.data).as_posix(): file_sha256(path) for path in own}

    def push(self) -> None:
        """Publish an own change: half of the clients merge first, the others publish only what they changed."""
        own = self.change()
        for _ in range(6):
            if self.number % 2:
                output = self.run("push", "lake.py", "push", "--keep-remote", "-m", f"client {self.number}")
            else:
                self.run("pull", "lake.py", "pull", "--merge", "--prefer", "local")
                output = self.run("push", "lake.py", "push", "-m", f"client {self.number}")
            if output is not None:
                self.ledger.commits.update(COMMIT.findall(output)[:1])
                self.ledger.files |= own
                return
            time.sleep(self.random.uniform(0, 2))

    def pull(self) -> None:
        """Bring the changes of the others; the own files must stay."""
        before = {path: file_sha256(path) for path in self.data.glob(f"train/*/client{self.number}-*.png")}
        self.run("pull", "lake.py", "pull", "--merge", "--prefer", "local")
        if lost := [str(path) for path, sha256 in before.items() if not path.exists() or file_sha256(path) != sha256]:
            self.ledger.errors.append(f"client {self.number}: pull changed its own files: {', '.join(lost)}")

    def train_and_register(self) -> None:
        """Train on the branch, and register the run until it is acknowledged."""
        output = self.run("train", "train.py", *TRAIN)
        if output is None:
            return
        self.ledger.commits.update(re.findall("커밋 ID: ([0-9a-f]{64})", output)[:1])
        run = json.loads((self.project.folder / "lakefs.lock").read_text(encoding="utf-8"))["mlflow_run_id"]
        self.ledger.runs.add(run)
        for _ in range(4):
            output = self.run("register", "register_model.py", "--run-id", run, "--threshold", "0")
            if output is not None:
                self.ledger.versions[VERSION.findall(output)[-1]] = run, self.project
                return


def work(client: Client, deadline: float, trainers: threading.Semaphore) -> None:
    """Let one client work until the deadline; a command that has begun is finished."""
    try:
        while time.monotonic() < deadline:
            client.push()
            client.pull()
            if time.monotonic() < deadline and trainers.acquire(blocking=False):
                with contextlib.ExitStack() as stack:
                    stack.callback(trainers.release)
                    client.train_and_register()
    except Exception:  # the others go on, and what they acknowledged is verified
        client.ledger.errors.append(f"client {client.number} ended:\n{traceback.format_exc()}")


def kill_in_turn(named: dict[str, ServerProcess], start: float, deadline: float, client: Client) -> None:
    """Kill each server once, spread evenly over the time, and start it again."""
    for number, (name, server) in enumerate(named.items(), 1):
        time.sleep(max(0.0, start + (deadline - start) * number / (len(named) + 1) - time.monotonic()))
        client.outage.set()
        server.kill()
        print(f"{time.strftime('%X')} killed {name}", flush=True)
        time.sleep(PAUSE_S)
        server.start()
        print(f"{time.strftime('%X')} {name} is back", flush=True)
        client.ledger.last_outage = time.monotonic()
        client.outage.clear()


def verify(ledger: Ledger, settings: config.Settings, project: Project) -> list[str]:
    """Return what is missing or damaged of everything that was acknowledged."""
    from mlflow import MlflowClient

    problems = []
    with connect(settings) as lake:
        known = {str(commit.id) for commit in lake.log("main", first_parent=False)}
        problems += [f"commit {commit} is not in main" for commit in sorted(ledger.commits - known)]
        remote = {file.path.removeprefix("data/"): file.sha256 for file in lake.objects("main", "data/")}
        problems += [f"{path} is missing or older" for path, sha in ledger.files.items() if remote.get(path) != sha]
    if project.run("lake.py", "verify", "main").returncode:
        problems.append("lake.py verify main found damaged files")
    registry = MlflowClient(tracking_uri=settings.mlflow_tracking_uri, registry_uri=settings.mlflow_tracking_uri)
    for run in sorted(ledger.runs):
        if (status := registry.get_run(run).info.status) != "FINISHED":
            problems.append(f"run {run} is {status}")
    for number, (run, clone) in ledger.versions.items():
        if registry.get_model_version(settings.registered_model, number).run_id != run:
            problems.append(f"version {number} belongs to another run than {run}")
        traced = clone.run("lake.py", "trace", f"v{number}")
        if traced.returncode:
            problems.append(f"version {number} does not verify:\n{traced.stdout[-1500:]}{traced.stderr[-500:]}")
    return problems


def report(ledger: Ledger, problems: list[str]) -> None:
    rows = []
    for kind, times in sorted(ledger.seconds.items()):
        ends = {end: count for (each, end), count in ledger.ends.items() if each == kind}
        done = ends.pop("acknowledged", 0)
        others = ", ".join(f"{count} {end}" for end, count in ends.items())
        rows.append((kind, str(len(times)), str(done), others, f"{statistics.median(times):.1f}", f"{max(times):.1f}"))
    print(format_table(("command", "started", "acknowledged", "others", "median s", "longest s"), rows))
    print(
        f"acknowledged: {len(ledger.commits)} commits, {len(ledger.files)} files, {len(ledger.runs)} runs, "
        f"{len(ledger.versions)} versions; missing or damaged: {len(problems)}; unexpected errors: {len(ledger.errors)}"
    )
    for line in [*problems, *ledger.errors]:
        print(line)


@contextlib.contextmanager
def servers_of(folder: Path, store: str) -> Iterator[tuple[dict[str, str], dict[str, ServerProcess]]]:
    """Run the three servers; yield the environment of the clients, and the processes by name."""
    for name in ("lakefs", "mlflow"):
        (folder / name).mkdir(parents=True)
    with (
        servers.real(folder / "lakefs", store=store) as lake,
        servers.mlflow_process(folder / "mlflow") as (url, mlflow),
    ):
        assert lake.storage and lake.process and lake.storage.process
        environment = {
            "LAKEFS_ENDPOINT": lake.endpoint,
            "LAKEFS_ACCESS_KEY_ID": lake.access_key_id,
            "LAKEFS_SECRET_ACCESS_KEY": lake.secret_access_key,
            "LAKEFS_STORAGE_NAMESPACE": lake.storage_namespace,
            "LAKEFS_REPO": REPO,
            "MLFLOW_TRACKING_URI": url,
        }
        yield environment, {"lakefs": lake.process, "store": lake.storage.process, "mlflow": mlflow}


def make_clients(folder: Path, count: int, environment: dict[str, str], ledger: Ledger) -> list[Client]:
    """Create the clones; the first one publishes sample data, the others pull it."""
    outage, clients = threading.Event(), []
    for number in range(count):
        project = make_project(folder / f"client{number}", images=0)
        project.env = environment
        clients.append(Client(number, project, ledger, outage, random.Random(number)))
    first = clients[0]
    for split, images in (("train", 8), ("val", 4)):
        for kind in ("images", "masks"):
            (first.data / split / kind).mkdir(parents=True)
        for name in range(images):
            noise = first.random.randbytes(SIDE * SIDE * 3)  # equal images in train and val are refused
            pixels = np.frombuffer(noise, np.uint8).reshape(SIDE, SIDE, 3)
            mask = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE) % 3
            Image.fromarray(pixels).save(first.data / split / "images" / f"{split}{name}.png")
            Image.fromarray(np.roll(mask, name, 0)).save(first.data / split / "masks" / f"{split}{name}.png")
    if first.run("push", "lake.py", "push", "-m", "first") is None:
        raise SystemExit("the first push failed: " + "; ".join(ledger.errors))
    with ThreadPoolExecutor(4) as pool:
        if None in pool.map(lambda client: client.run("pull", "lake.py", "pull", "main"), clients[1:]):
            raise SystemExit("a first pull failed: " + "; ".join(ledger.errors))
    return clients


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--trainers", type=int, default=2, help="trainings at the same time (default: 2)")
    parser.add_argument("--store", choices=stores.STORES, default=next(iter(stores.STORES)))
    parser.add_argument("--kill", nargs="*", choices=("lakefs", "store", "mlflow"), default=["lakefs"])
    parser.add_argument("--folder", type=Path, help="keep everything in this new directory (default: a temporary one)")
    options = parser.parse_args()
    ledger = Ledger()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        environment, processes = stack.enter_context(servers_of(folder, options.store))
        os.environ.update(environment)  # for load_settings below
        clients = make_clients(folder, options.clients, environment, ledger)
        start = time.monotonic()
        deadline, trainers = start + options.minutes * 60, threading.Semaphore(options.trainers)
        with ThreadPoolExecutor(options.clients + 1) as pool:
            killed = {name: processes[name] for name in options.kill}
            futures = [pool.submit(kill_in_turn, killed, start, deadline, clients[0])]
            futures += [pool.submit(work, client, deadline, trainers) for client in clients]
        for future in futures:
            future.result()
        problems = verify(ledger, config.load_settings(), clients[0].project)
    report(ledger, problems)
    return int(bool(problems or ledger.errors))


if __name__ == "__main__":
    sys.exit(main())
