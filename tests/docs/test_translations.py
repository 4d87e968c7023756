"""The Korean documents have the sections of the English ones: headings, tables, lists, code blocks, named options."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pytest

from tests.support.project import SOURCE
from tools import docs_site

TRANSLATED = ["README.ko.md", *sorted(f"docs/{path.name}" for path in (SOURCE / "docs").glob("*.ko.md"))]
FENCE = re.compile(r"^\s*```(\w*)$")
NAMES = re.compile(
    r"(?<![\w-])--[a-z][\w-]+|\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b", re.ASCII
)  # options, and settings in capitals


@dataclass
class Section:
    """What a section of a document consists of, whatever its language."""

    heading: str
    rows: list[int] = field(default_factory=list)  # cells of each row of its tables
    items: int = 0  # of its lists
    blocks: list[str] = field(default_factory=list)  # languages of its code blocks
    names: set[str] = field(default_factory=set)  # options and settings that its text names

    @property
    def shape(self) -> tuple[int, list[int], int, list[str], set[str]]:
        """Return what the translation must have too: the level of the heading, not its text."""
        return len(self.heading) - len(self.heading.lstrip("#")), self.rows, self.items, self.blocks, self.names


def sections_of(document: str) -> list[Section]:
    """Return the sections of a document; the first has what stands before any heading."""
    found = [Section("")]
    in_block = False
    for line in (SOURCE / document).read_text(encoding="utf-8").splitlines():
        fence = FENCE.match(line)
        if fence:
            in_block = not in_block
            if in_block:
                found[-1].blocks.append(fence[1])
        elif in_block:
            continue
        elif re.match(r"#+ ", line):
            found.append(Section(line))
        elif line.startswith("|"):
            found[-1].rows.append(len(re.findall(r"(?<!\\)\|", line)) - 1)
        elif re.match(r"\s*(?:[-*]|\d+\.) ", line):
            found[-1].items += 1
        if not in_block and not line.startswith("<!--"):
            found[-1].names |= set(NAMES.findall(line))
    return found


@pytest.mark.parametrize("document", TRANSLATED)
def test_translation_has_the_same_sections(document: str) -> None:
    english, korean = sections_of(document.replace(".ko.md", ".md")), sections_of(document)
    headings = [[section.heading.count("#") for section in sections] for sections in (english, korean)]
    assert headings[0] == headings[1], "headings"
    for original, translation in zip(english, korean, strict=True):
        assert translation.shape == original.shape, f"{translation.heading} ({original.heading})"


def test_every_page_is_translated_or_stands_for_an_english_document() -> None:
    pages = [path for path in sorted((SOURCE / "docs").glob("*.md")) if not path.name.endswith(".ko.md")]
    untranslated = {path.name for path in pages if not path.with_suffix(".ko.md").is_file()}
    stand_for = {path.name for path in pages if "<!-- site: " in path.read_text(encoding="utf-8")}
    assert untranslated == stand_for | {"glossary.md"}  # the glossary is in both languages


def test_page_for_an_english_document_says_so_on_the_korean_site() -> None:
    page = (SOURCE / "docs/security.md").read_text(encoding="utf-8")
    korean, english = docs_site.site_text(page, "ko").splitlines(), docs_site.site_text(page).splitlines()
    assert korean[:3] == ["# Security", "", "이 문서는 영어로만 제공합니다."]
    assert korean[3:] == english[1:]
