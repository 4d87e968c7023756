"""tools/image_digests.py: the digests of the Compose files are those of the registries, which Docker asks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.project import SOURCE
from tools import image_digests

DIGEST, OTHER = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
pytestmark = pytest.mark.skipif(os.name == "nt", reason="the stand-in for Docker is a shell script")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three small Compose files: a pinned image, and two with a tag only."""
    for name in image_digests.FILES:
        (tmp_path / name).write_text("services: {}\n")
    (tmp_path / image_digests.FILES[0]).write_text(
        f"services:\n  a:\n    image: ${{A_IMAGE:-example.org/a:1.0@{DIGEST}}}\n  b:\n    image: ${{B_IMAGE:-b/b:v2}}\n"
    )
    (tmp_path / image_digests.FILES[1]).write_text("services:\n  c:\n    image: ${C_IMAGE:-c:3-alpine}\n")
    return tmp_path


def docker_answers(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a program `docker` on the PATH, which records its arguments and runs `script`."""
    (folder / "bin").mkdir(exist_ok=True)
    program = folder / "bin" / "docker"
    program.write_text(f'#!{shutil.which("sh")}\necho "$@" >> {folder}/asked\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder / "bin"))


def test_pin_writes_the_digest_behind_each_tag_that_has_none(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    docker_answers(root, monkeypatch, f'echo \'{{"digest": "{OTHER}"}}\'')
    assert image_digests.run("pin", root) == 0
    assert [(image.tagged, image.digest) for image in image_digests.read_images(root)] == [
        ("example.org/a:1.0", DIGEST),
        ("b/b:v2", OTHER),
        ("c:3-alpine", OTHER),
    ]
    assert f"b/b:v2@{OTHER} (pinned now)" in capsys.readouterr().out
    assert "buildx imagetools inspect example.org/a:1.0" in (root / "asked").read_text()


@pytest.mark.parametrize(("digest", "code"), [(DIGEST, 0), (OTHER, 1)])
def test_check_fails_if_the_registry_has_another_digest(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], digest: str, code: int
) -> None:
    docker_answers(root, monkeypatch, f'echo \'{{"digest": "{digest}"}}\'')
    before = {file: (root / file).read_text() for file in image_digests.FILES}
    assert image_digests.run("check", root) == code and image_digests.run("show", root) == 0
    assert (f"pinned is {DIGEST}" in capsys.readouterr().out) == bool(code)
    assert before == {file: (root / file).read_text() for file in image_digests.FILES}


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'ERROR: no such tag' >&2; exit 1", "ERROR: no such tag"),
        ("echo '{}'", "Docker's answer has no digest"),
        ('echo \'{"digest": "sha256:../x"}\'', "Docker's answer has no digest"),
        ("exit 3", "no message"),
    ],
)
def test_registry_that_does_not_answer_is_reported_and_nothing_is_written(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], script: str, message: str
) -> None:
    docker_answers(root, monkeypatch, script)
    before = (root / image_digests.FILES[0]).read_text()
    assert image_digests.run("pin", root) == 1
    assert capsys.readouterr().err.count(message) == 3 and before == (root / image_digests.FILES[0]).read_text()


def test_missing_docker_is_reported(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(root))
    assert image_digests.run("show", root) == 1
    assert "docker is not installed" in capsys.readouterr().err


def test_the_files_of_the_project_are_read_completely() -> None:
    found = list(image_digests.read_images(SOURCE))
    lines = [line for file in image_digests.FILES for line in (SOURCE / file).read_text(encoding="utf-8").splitlines()]
    assert len(found) == sum(line.strip().startswith("image:") for line in lines) == 5
    assert {image.file for image in found} == {path.name for path in SOURCE.glob("docker-compose*.yml")}
