"""The description that `--help` prints: the docstring of the script, translated paragraph by paragraph.

A docstring consists of paragraphs and of lines `python SCRIPT OPTIONS   # comment`. Each paragraph, with its line breaks,
and each comment is a message of the catalogue; tools/catalogue.py takes them from here. Commands stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from core.i18n import tr

_COMMAND = re.compile(r"^\s*(?:python|torchrun) ")
_COMMENT = re.compile(r"\s# (?P<text>.*)$")


def messages_of(docstring: str) -> list[str]:
    """Return the messages of a docstring, in order."""
    return [message for _, message in _parts(docstring) if message]


def translated(docstring: str) -> str:
    """Return the docstring in the current language."""
    return "\n".join(before + (tr(message) if message else "") for before, message in _parts(docstring))


def _parts(docstring: str) -> Iterator[tuple[str, str]]:
    """Yield the lines as what stays as it is and the message after it; a paragraph of several lines is one message."""
    paragraph: list[str] = []
    for line in docstring.strip().splitlines():
        if line.strip() and not _COMMAND.match(line):
            paragraph.append(line.strip())
            continue
        if paragraph:
            yield "", "\n".join(paragraph)
            paragraph = []
        comment = _COMMENT.search(line)
        yield (line[: comment.start("text")], comment["text"]) if comment else (line, "")
    if paragraph:
        yield "", "\n".join(paragraph)
