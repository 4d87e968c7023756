"""The Markdown documents: what they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.project import SOURCE

TOP = ("README.md", "README.ko.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
DOCUMENTS = [*TOP, *sorted(f"docs/{path.name}" for path in (SOURCE / "docs").glob("*.md"))]


def text_of(document: str) -> str:
    """Return the text of the document."""
    return (SOURCE / document).read_text(encoding="utf-8")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files_and_headings(document: str) -> None:
    folder = (SOURCE / document).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(document)):
        path, _, heading = target.partition("#")
        if path.startswith("http"):
            continue
        linked = folder / path if path else SOURCE / document
        assert linked.is_file(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in headings]
            assert heading in anchors, target


@pytest.mark.parametrize("document", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_source_paths_exist(document: str) -> None:
    for path in re.findall(r"`([\w./-]+\.(?:py|toml|txt|lock|md|yaml))`", text_of(document)):
        if "/" in path or path == path.lower():
            assert (SOURCE / path).exists() or path in ("lakefs.lock",), path


def test_architecture_names_existing_symbols() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py") if ".venv" not in path.parts)
    for name in re.findall(r"`([A-Z]\w+|\w+_\w+)`", text_of("ARCHITECTURE.md")):
        assert re.search(rf"\b{name}\b", sources), name


@pytest.mark.parametrize("document", ["README.md", "README.ko.md"])
def test_readme_is_short(document: str) -> None:
    assert text_of(document).count("\n") <= 180


@pytest.mark.parametrize("document", ["README.md", "README.ko.md"])
def test_readme_has_the_two_commands_of_the_first_minute(document: str) -> None:
    lines = [line.split("  #")[0].rstrip() for line in text_of(document).splitlines()]
    assert "pip install -r requirements.txt && python train.py" in lines
    assert "pip install -r requirements-dev.txt && python -m pytest" in lines


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name.endswith(".ko.md")])
def test_korean_documents_link_to_korean_pages(document: str) -> None:
    own = Path(document).name.replace(".ko.md", ".md")
    for target in re.findall(r"\]\(((?:\.\./|docs/)?[\w/]+\.md)(?:#[^)]*)?\)", text_of(document)):
        korean = (SOURCE / document).parent / target.replace(".md", ".ko.md")
        assert target == own or not korean.is_file(), target
