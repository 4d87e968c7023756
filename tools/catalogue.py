"""Maintain the Korean message catalogue (needs Babel).

Messages are the arguments of `tr`, `trn` and `mark`, and the docstrings of scripts, which `--help` prints.

python tools/catalogue.py update     # extract new messages into the .po file, drop unused ones, compile
python tools/catalogue.py check      # exit code 1 if the catalogue is incomplete or the .mo file is out of date
"""

from __future__ import annotations

import ast
import re
import string
import sys
from collections.abc import Sequence
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import extract
from babel.messages.mofile import read_mo, write_mo
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a script, Python puts only tools/ on the path
from core.command_line.description import messages_of  # noqa: E402

PO = ROOT / "locale" / "ko" / "LC_MESSAGES" / "messages.po"
MO = PO.with_suffix(".mo")
PACKAGES = sorted(marker.parent for marker in ROOT.glob("*/py.typed"))
METHODS = {".py": "python", ".html": "jinja2"}  # of Babel, by suffix
KEYWORDS = {"tr": None, "mark": None, "trn": (1, 2)}  # which arguments are messages; None: the first one
SHOWS_DOCSTRING = re.compile(r"\bmake_parser\([^)]*\b__doc__\b")
MessageId = str | tuple[str, ...]  # a message, or its singular and plural


def extracted() -> set[MessageId]:
    """Return the messages that Python code and Jinja2 templates mark with `tr`, `trn` or `mark`."""
    found: set[MessageId] = set()
    for path in [*ROOT.glob("*.py"), *(p for package in PACKAGES for p in package.rglob("*.*"))]:
        method = METHODS.get(path.suffix)
        if method is not None:
            with path.open("rb") as stream:
                found |= {message[1] for message in extract(method, stream, keywords=KEYWORDS)}
            found |= set(description_messages(path.read_text(encoding="utf-8")) if path.suffix == ".py" else ())
    both = {message[0] for message in found if isinstance(message, tuple)}
    return found - both  # gettext has one entry for a message and the singular of a pair


def description_messages(source: str) -> list[str]:
    """Return the messages of a script's docstring, if it is the description of a parser."""
    if not SHOWS_DOCSTRING.search(source):
        return []
    return messages_of(ast.get_docstring(ast.parse(source), clean=False) or "")


def read_catalogue() -> Catalog:
    """Read the .po file."""
    with PO.open("rb") as stream:
        return read_po(stream, locale="ko")


def texts(catalogue: Catalog) -> dict[MessageId, str]:
    """Return message -> translation; the header, which names the version of Babel, is not part of it.

    Korean has one form for all numbers.
    """
    return {_id(message.id): _only_form(message.string) for message in catalogue if message.id}


def _id(message: str | Sequence[str]) -> MessageId:
    return message if isinstance(message, str) else tuple(message)


def _only_form(translation: str | Sequence[str] | None) -> str:
    return translation if isinstance(translation, str) else (translation or ("",))[0]


def read_compiled() -> dict[MessageId, str]:
    """Return message -> translation of the .mo file, which the scripts read."""
    with MO.open("rb") as stream:
        return texts(read_mo(stream))


def forms(message: MessageId) -> tuple[str, ...]:
    """Return the English forms of a message: one, or singular and plural."""
    return (message,) if isinstance(message, str) else message


def fields(text: str) -> set[str]:
    """Return the names of the placeholders of a message; a text with a lone brace has none and is never formatted."""
    try:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}
    except ValueError:
        return set()


def problems() -> list[str]:
    """Return what is wrong with the catalogue, one line each."""
    catalogue, source = read_catalogue(), extracted()
    known = texts(catalogue)
    lines = [f"not in the catalogue: {message!r}" for message in sorted(source - known.keys(), key=str)]
    lines += [f"not used any more: {message!r}" for message in sorted(known.keys() - source, key=str)]
    for message, text in sorted(known.items(), key=str):
        if not text:
            lines.append(f"not translated: {message!r}")
        elif fields(text) != set.union(*(fields(form) for form in forms(message))):
            lines.append(f"placeholders differ: {message!r} and {text!r}")
    lines += [f"marked as fuzzy: {message.id!r}" for message in catalogue if message.id and message.fuzzy]
    if not MO.is_file() or read_compiled() != known:
        lines.append(f"{MO.relative_to(ROOT)} is out of date: python tools/catalogue.py update")
    return lines


def update() -> None:
    """Add new messages, drop unused ones, sort, and compile."""
    old, new = read_catalogue(), Catalog(locale="ko", fuzzy=False, project="image-segmentation", charset="utf-8")
    new.mime_headers = [(k, v) for k, v in old.mime_headers if not k.endswith("-Date")]
    for message in sorted(extracted(), key=str):
        known = old.get(forms(message)[0])
        text = _only_form(known.string) if known else ""
        new.add(message, text if isinstance(message, str) else (text,))
    with PO.open("wb") as stream:
        write_po(stream, new, width=0, sort_output=True, omit_header=False, no_location=True)
    with MO.open("wb") as stream:
        write_mo(stream, read_catalogue())


def main(arguments: list[str]) -> int:
    """Return the exit code."""
    if arguments == ["update"]:
        update()
    elif arguments != ["check"]:
        print(__doc__)
        return 2
    lines = problems()
    print("\n".join(lines) or "the catalogue is complete")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
