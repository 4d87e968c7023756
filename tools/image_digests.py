"""Pin the container images of the Compose files by digest, or compare the pinned digests with the registries.

python tools/image_digests.py show       # each image, the digest in the file, and the digest in its registry
python tools/image_digests.py check      # exit code 1 if a digest differs from the registry
python tools/image_digests.py pin        # write the digest behind each tag that has none

Docker asks the registries (`docker buildx imagetools inspect`): nothing is downloaded, and no Docker server is needed.
A tag can be moved to other content, a digest cannot. `pin` never replaces a digest: to update an image, change its tag and
remove its digest by hand, then pin again.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = ("docker-compose.yml", "docker-compose.postgres.yml", "docker-compose.minio.yml")
_IMAGE = re.compile(
    r"\$\{(?P<variable>\w+_IMAGE):-(?P<name>[\w./-]+):(?P<tag>[\w.-]+)(?:@(?P<digest>sha256:[0-9a-f]{64}))?\}"
)
_LIMIT_S = 120  # for the answer of one registry


@dataclass(frozen=True)
class Image:
    """The default image of a service: `variable` of .env replaces it; `digest` is None if only the tag is pinned."""

    file: str
    variable: str
    tagged: str  # name:tag
    digest: str | None


def read_images(root: Path) -> Iterator[Image]:
    """Yield the image of every service that has one, in the order of the files."""
    for file in FILES:
        for found in _IMAGE.finditer((root / file).read_text(encoding="utf-8")):
            yield Image(file, found["variable"], f"{found['name']}:{found['tag']}", found["digest"])


def ask_registry(tagged: str) -> str:
    """Return the digest that the registry has for name:tag. Raises RuntimeError with Docker's message."""
    command = ["docker", "buildx", "imagetools", "inspect", tagged, "--format", "{{json .Manifest}}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S)
    except FileNotFoundError:
        raise RuntimeError("docker is not installed: it asks the registries") from None
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{tagged}: no answer within {_LIMIT_S} seconds") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise RuntimeError(f"{tagged}: {lines[-1]}")
    try:
        digest = json.loads(done.stdout)["digest"]
    except (ValueError, TypeError, KeyError):
        digest = None
    if not isinstance(digest, str) or not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise RuntimeError(f"{tagged}: Docker's answer has no digest: {done.stdout[:80]!r}")
    return digest


def pin_image(root: Path, image: Image, digest: str) -> None:
    """Write the digest behind the tag of `image`."""
    path = root / image.file
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(f":-{image.tagged}}}", f":-{image.tagged}@{digest}}}"), encoding="utf-8")


def run(command: str, root: Path) -> int:
    """Run the command on the files of `root`; return the exit code: 1 if a registry failed, or `check` found another digest."""
    code = 0
    for image in read_images(root):
        try:
            found = ask_registry(image.tagged)
        except RuntimeError as error:
            print(f"{image.file}: {error}", file=sys.stderr)
            code = 1
            continue
        if image.digest is None and command == "pin":
            pin_image(root, image, found)
            state = "pinned now"
        elif image.digest is None:
            state = "only the tag is pinned"
        else:
            state = "the pinned digest" if image.digest == found else f"pinned is {image.digest}"
        print(f"{image.file}: {image.tagged}@{found} ({state})")
        if command == "check" and image.digest not in (None, found):
            code = 1
    return code


def main() -> int:
    """Parse the command line and run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("show", "check", "pin"))
    return run(parser.parse_args().command, ROOT)


if __name__ == "__main__":
    sys.exit(main())
