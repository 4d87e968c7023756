"""The commands of README.md and docs/ run, in a clone of the project as a new user makes it.

README.md runs first, from `git clone` on. Every page of docs/ that does not begin with it, too, then runs in a copy of the
directory that README.md left, so that pages may rely on a trained and registered model but not on each other.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.documents.blocks import blocks_of
from tests.support.documents.workplace import Outcome, Workplace, workplace
from tests.support.project import SOURCE

PAGES = sorted(f"docs/{path.name}" for path in (SOURCE / "docs").glob("*.md") if not path.name.endswith(".ko.md"))
PAGES_WITH_COMMANDS = [page for page in PAGES if any(block.runs for block in blocks_of(SOURCE, page))]
CLONE = "image-segmentation"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    with workplace(tmp_path_factory.mktemp("documents")) as made:
        yield made


@pytest.fixture(scope="module")
def readme(place: Workplace) -> Outcome:
    blocks = [block for block in blocks_of(SOURCE, "README.md") if block.runs]
    return place.run(blocks, place.folder / "readme")


def test_commands_of_readme_run(readme: Outcome) -> None:
    assert readme.code == 0, f"{readme.last}\n{readme.output}"


@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS)
def test_commands_of_page_run(page: str, place: Workplace, readme: Outcome) -> None:
    if readme.code:
        pytest.skip("the commands of README.md, which the pages continue, have failed")
    blocks = [block for block in blocks_of(SOURCE, page) if block.runs]
    folder = place.folder / Path(page).stem
    if "git clone" not in blocks[0].text:
        folder /= CLONE
        shutil.copytree(place.folder / "readme" / CLONE, folder, symlinks=True)
    outcome = place.run(blocks, folder)
    assert outcome.code == 0, f"{outcome.last}\n{outcome.output}"
