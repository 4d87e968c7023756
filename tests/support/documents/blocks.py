"""Fenced blocks of Markdown documents with commands, and what the comment before each says about running it.

A block that says ```bash or ```console is run, unless the line before it is one of these comments (invisible on a page):

<!-- not run: REASON -->             it cannot run in a test; its syntax and options are still checked
<!-- not run `COMMAND`: REASON -->   the same for one command of the block; the others run
<!-- exit code: N -->                the last command ends with this code
<!-- background: URL -->             it runs until the page ends; the next block starts when URL answers
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

LANGUAGES = ("bash", "console")
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w+)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_ANNOTATION = re.compile(r"<!-- (not run|exit code|background)(?: `([^`]+)`)?: (.+?) -->\s*\Z")


@dataclass(frozen=True)
class Block:
    """A block of commands: where it is, its text without indentation, and the annotation before it."""

    document: str
    line: int
    text: str
    kind: str = "run"  # run, not run, exit code, background
    value: str = ""  # reason, code or URL
    skipped: str = ""  # the only command that is not run

    @property
    def runs(self) -> bool:
        """Return whether at least a part of it is run."""
        return self.kind != "not run" or bool(self.skipped)

    @property
    def place(self) -> str:
        """Return the document and line, as editors open them."""
        return f"{self.document}:{self.line}"


def blocks_of(root: Path, document: str) -> list[Block]:
    """Return the blocks of commands of a document, in order."""
    text = (root / document).read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        if match["language"] not in LANGUAGES:
            continue
        before = text[: match.start()]
        annotation = _ANNOTATION.search(before)
        indent = len(match["indent"])
        commands = "\n".join(_command(line[indent:], match["language"]) for line in match["text"].splitlines())
        kind, skipped, value = annotation.groups("") if annotation else ("run", "", "")
        found.append(Block(document, before.count("\n") + 1, commands.strip("\n"), kind, value, skipped))
    return found


def _command(line: str, language: str) -> str:
    """Return the line as bash reads it: a console shows commands after "$ ", and their output without it."""
    if language == "bash":
        return line
    return line.removeprefix("$ ") if line.startswith("$ ") else f"# {line}"


def without_comments(text: str) -> list[str]:
    """Return the lines of commands without comments, which are translated, and without empty lines."""
    lines = [re.sub(r"(^|\s)# .*$", "", line).rstrip() for line in text.splitlines()]
    return [line for line in lines if line]


def simple_commands(text: str) -> list[str]:
    """Return the commands of a block, split at newlines, `&&`, `;` and `|` outside of quotes."""
    joined = re.sub(r"\\\n\s*", " ", "\n".join(without_comments(text)))
    parts = re.split(r"""(?:\n|&&|;|\|)(?=(?:[^'"\n]|'[^'\n]*'|"[^"\n]*")*$)""", joined, flags=re.MULTILINE)
    return [part.strip() for part in parts if part.strip()]
