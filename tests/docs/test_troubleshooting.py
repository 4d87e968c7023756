"""The messages of docs/troubleshooting.md are those that the program prints, in both languages."""

from __future__ import annotations

import functools
import re

import pytest

from tests.support.project import SOURCE
from tools import catalogue

PAGES = ("docs/troubleshooting.md", "docs/troubleshooting.ko.md")


@functools.cache
def known_messages(language: str) -> list[list[str]]:
    """Return the texts between the fields of every message of the program, up to its first line break."""
    ids = catalogue.extracted()
    korean = catalogue.texts(catalogue.read_catalogue())
    english = {form for message in ids for form in catalogue.forms(message)}
    texts = english if language == "en" else {korean.get(message, "") for message in ids}
    return [re.split(r"\{[^{}]+\}", text.partition("\n")[0]) for text in texts if text]


def is_message(quoted: str, parts: list[str]) -> bool:
    """Return whether a quoted text is this message with values for its fields.

    At least a quarter of it must be the message's own text: "{name}: {error}" fits everything.
    """
    pattern = r"[\s\S]+".join(map(re.escape, parts))
    return sum(map(len, parts)) >= 0.25 * len(quoted) and bool(re.fullmatch(pattern, quoted))


def messages(page: str) -> list[str]:
    """Return the messages of the page: what the first column of its tables has in backticks."""
    rows = re.findall(r"^\| (.+?) \| ", (SOURCE / page).read_text(encoding="utf-8"), re.MULTILINE)
    return [code for row in rows for code in re.findall(r"`([^`]+)`", row)]


@pytest.mark.parametrize("page", PAGES)
def test_messages_are_those_of_the_program(page: str) -> None:
    known = known_messages("ko" if page.endswith(".ko.md") else "en")
    quoted = messages(page)
    unknown = []
    for text in quoted:
        forms = (text, text.partition(": ")[2])  # an option or setting before the message
        if " " in text and not any(is_message(form, parts) for form in forms for parts in known):
            unknown.append(text)
    assert len(quoted) > 40 and unknown == []
