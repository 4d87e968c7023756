"""A place where the commands of the documents run: a repository to clone, small data, and programs that need no network."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dataset.sources.synthetic import generate_sample
from tests.support import preloaded
from tests.support.documents.blocks import Block
from tests.support.processes import free_port
from tests.support.project import OWN_NAMES, SOURCE, copy_source

REPOSITORY_URL = "https://HOST/image-segmentation.git"  # in README.md
# Settings under which the documented commands are short; they change no command.
SMALL = {
    "EPOCHS": "1",
    "BATCH_SIZE": "4",
    "IMAGE_SIZE": "32 32",
    "REGISTER_THRESHOLD": "0",
    "REGISTER_CONFIDENCE": "0",
    "REGISTER_ACCEPT_WARNINGS": "true",
    "OMP_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONWARNINGS": "ignore",
}
# Ports of the documents, which may be taken on this machine -> a setting of `Workplace` has the one that is used.
PORTS = ("8080", "8000", "5000", "5001", "9000")
PIP = '''#!{python}
"""Stands for pip: checks that what is to be installed is here, and installs nothing."""
import importlib.metadata, pathlib, sys
from packaging.requirements import Requirement
arguments = [a for a in sys.argv[1:] if a != "--quiet"]
assert arguments.pop(0) == "install", sys.argv
known = pathlib.Path({known!r}).read_text().lower()
while arguments:
    name = arguments.pop(0)
    if name in ("--index-url", "--extra-index-url"):
        assert arguments.pop(0).startswith("https://download.pytorch.org/whl/"), sys.argv
    elif name in ("-r", "--requirement"):
        for line in pathlib.Path(arguments.pop(0)).read_text().splitlines():
            requirement = line.partition("#")[0].strip()
            if requirement and not requirement.startswith("-"):
                parsed = Requirement(requirement)
                assert importlib.metadata.version(parsed.name) in parsed.specifier, requirement
    elif not name.startswith("-"):
        importlib.metadata.version(Requirement(name).name)
'''


@dataclass(frozen=True)
class Outcome:
    """What became of the blocks of a document."""

    code: int
    output: str
    last: str  # place of the block that was run last


@dataclass(frozen=True)
class Workplace:
    """Directories of the test: `home` of the user, `bin` with the stand-ins, and the repository `origin`."""

    folder: Path
    ports: dict[str, str]

    def environment(self) -> dict[str, str]:
        """Return the environment of a new user on this machine."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(OWN_NAMES)}
        kept.pop("VIRTUAL_ENV", None)
        path = os.pathsep.join([str(self.folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
        own = {"HOME": str(self.folder / "home"), "PATH": path, "GIT_CONFIG_GLOBAL": str(self.folder / "gitconfig")}
        own["GIT_CONFIG_NOSYSTEM"] = "1"
        return kept | SMALL | own | {"APP_LANG": "en"}

    def run(self, blocks: list[Block], folder: Path) -> Outcome:
        """Run blocks in one shell that starts in `folder`; stop at the first command that fails."""
        folder.mkdir(parents=True, exist_ok=True)
        script = folder.parent / f"{folder.name}.sh"
        script.write_text("\n".join([self._prologue(), *(self._script(block) for block in blocks)]), encoding="utf-8")
        done = subprocess.run(
            ["bash", str(script)],
            cwd=folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1800,
        )
        places = [line.removeprefix("@@ ") for line in done.stdout.splitlines() if line.startswith("@@ ")]
        return Outcome(done.returncode, done.stdout, places[-1] if places else "")

    def _prologue(self) -> str:
        """Return shell functions: the small data takes the place of the generated one, servers end with the shell."""
        data = shlex.quote(str(self.folder / "sample"))
        return f"""set -eo pipefail
servers=()
trap 'for server in "${{servers[@]}}"; do kill "$server" 2> /dev/null || true; done' EXIT
small_data() {{
  if [ -d data/images ] && [ -z "$(find data -name '*.png' -print -quit)" ]; then cp -r {data}/. .; fi
}}
answers() {{
  for _ in $(seq 6000); do curl --silent --output /dev/null "$1" && return; kill -0 "$2" || return; sleep 0.2; done
  return 1
}}
"""

    def _script(self, block: Block) -> str:
        text = self._with_free_ports(block.text.replace(block.skipped, "true") if block.skipped else block.text)
        mark = f"echo '@@ {block.place}'"
        if block.kind == "background":
            return f"{mark}\n{text} &\nservers+=($!)\nanswers {shlex.quote(self._with_free_ports(block.value))} $!"
        if block.kind == "exit code":
            code = f'code=$?\n[ $code = {int(block.value)} ] || {{ echo "exit code $code"; exit 1; }}'
            return f"{mark}\nset +e\n{text}\n{code}\nset -e"
        return f"{mark}\n{text}\nsmall_data"

    def _with_free_ports(self, text: str) -> str:
        for documented, free in self.ports.items():
            text = text.replace(f":{documented}", f":{free}").replace(f"--port {documented}", f"--port {free}")
        return text.replace("infer.py --serve", f"infer.py --serve --port {self.ports['8080']}")


@contextlib.contextmanager
def workplace(folder: Path) -> Iterator[Workplace]:
    """Prepare a workplace; its preloaded Python runs until the block ends."""
    place = Workplace(folder, {port: str(free_port()) for port in PORTS})
    for name in ("bin", "home"):
        (folder / name).mkdir(parents=True)
    (folder / "gitconfig").write_text(
        f"[user]\n\tname = Test\n\temail = test@example.org\n[init]\n\tdefaultBranch = main\n"
        f'[url "{folder / "origin"}"]\n\tinsteadOf = {REPOSITORY_URL}\n'
    )
    make_origin(folder / "origin", place.environment())
    make_inputs(folder / "sample")
    with preloaded_python(folder / "bin"):
        yield place


def make_origin(folder: Path, environment: dict[str, str]) -> None:
    """Make a Git repository of the files of this project, uncommitted ones included."""
    copy_source(folder, without="tests/")
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "-m", "the project"]):
        subprocess.run(["git", *command], cwd=folder, env=environment, check=True)


def make_inputs(folder: Path) -> None:
    """Make the files that the documents take for granted: the user's data, single images, a film, an export."""
    generate_sample(folder / "data", seed=0, count=30)
    photos = folder / "photos"
    photos.mkdir()
    for number, image in enumerate(sorted((folder / "data/images").iterdir())[:4]):
        shutil.copy(image, photos / f"p{number}.png")
    Image.open(photos / "p0.png").convert("RGB").save(folder / "photo.jpg")


@contextlib.contextmanager
def preloaded_python(folder: Path) -> Iterator[None]:
    """Put `python` and `pip` into the directory; both need no network, and `python` starts without imports."""
    (folder / "pip").write_text(PIP.format(python=sys.executable, known=str(SOURCE / "requirements-dev.txt")))
    address = folder / "socket"
    server = preloaded.start_server(address, _server_environment())
    try:
        run = f"exec {shlex.join(preloaded.client_command(address))}"
        (folder / "python").write_text(
            "#!/bin/sh\n"
            'case "$1 $2" in\n'
            f'"-m venv") {sys.executable} "$@" --without-pip || exit 1\n'
            f'  cp --remove-destination {folder}/python {folder}/python3 {folder}/pip "$3/bin/" ;;\n'
            f'*) {run} "$@" ;;\n'
            "esac\n"
        )
        shutil.copy(folder / "python", folder / "python3")
        for program in ("pip", "python", "python3"):
            (folder / program).chmod(0o755)
        yield
    finally:
        server.kill()
        server.wait()


def _server_environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith(OWN_NAMES)} | SMALL
