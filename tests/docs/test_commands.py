"""The commands of README.md and docs/ run, in a clone of the project as a new user makes it.

README.md runs from `git clone` on.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.documents.blocks import blocks_of
from tests.support.documents.workplace import Outcome, Workplace, workplace
from tests.support.project import SOURCE


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
