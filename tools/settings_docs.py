"""Generate the documentation of the settings from config.py: .env.example and the tables of both READMEs.

python tools/settings_docs.py update     # rewrite the parts between the settings:begin and settings:end markers
python tools/settings_docs.py check      # exit code 1 if one of them is out of date
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a script, Python puts only tools/ on the path

from config import SETTINGS, Settings  # noqa: E402
from core.i18n import current_language, mark, set_language, tr  # noqa: E402
from core.settings import Setting, default_text, defaults_of  # noqa: E402

DEFAULTS = defaults_of(Settings)
ENV_EXAMPLE = ".env.example"
HEADERS = (mark("name"), mark("option"), mark("default"), mark("meaning"))


def env_lines(handwritten: str) -> list[str]:
    """Return the lines of .env.example for every setting that its handwritten part does not list."""
    lines = []
    for name, info in SETTINGS.items():
        if re.search(rf"^#?{name.upper()}=", handwritten, re.MULTILINE):
            continue
        # The command that makes .env appends a key to each line that ends with "=": an unset value is written as "".
        value = default_text(DEFAULTS[name]) or '""'
        lines += [f"# {info.help}{_notes(info)}", f"#{name.upper()}={value}"]
    return lines


def _notes(info: Setting) -> str:
    notes = []
    if info.choices:
        notes.append(f"one of {', '.join(info.choices)}")
    if info.unset:
        notes.append(f"unset: {info.unset}")
    return f" ({'; '.join(notes)})" if notes else ""


def table_lines(language: str) -> list[str]:
    """Return the Markdown table of all settings in the language."""
    previous = current_language()
    set_language(language)
    try:
        rows = [_row(name, info) for name, info in SETTINGS.items()]
    finally:
        set_language(previous)
    return [_markdown_row(cells) for cells in (tuple(tr(name) for name in HEADERS), ("---",) * 4, *rows)]


def _row(name: str, info: Setting) -> tuple[str, ...]:
    default = default_text(DEFAULTS[name])
    shown = tr(info.unset) if info.unset else f"`{default}`" if default else ""
    option = f"`{info.option}`" if info.option else ""
    choices = f" ({', '.join(f'`{choice}`' for choice in info.choices)})" if info.choices else ""
    return f"`{name.upper()}`", option, shown, tr(info.help) + choices


def _markdown_row(cells: tuple[str, ...]) -> str:
    escaped = [cell.replace("|", r"\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


# --- files ------------------------------------------------------------------------------------------------------------

# File -> the lines that begin and end its generated part, and what produces that part from the rest of the file.
Generator = Callable[[str], list[str]]
DOCUMENTS: dict[str, tuple[str, str, Generator]] = {
    ENV_EXAMPLE: ("# settings:begin", "# settings:end", env_lines),
    "README.md": ("<!-- settings:begin -->", "<!-- settings:end -->", lambda _: table_lines("en")),
    "README.ko.md": ("<!-- settings:begin -->", "<!-- settings:end -->", lambda _: table_lines("ko")),
}


def generated(name: str) -> str:
    """Return the text that the file must have. Raises ValueError if a marker line is missing or occurs twice."""
    begin, end, generate = DOCUMENTS[name]
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    if lines.count(begin) != 1 or lines.count(end) != 1 or lines.index(begin) > lines.index(end):
        raise ValueError(f"{name}: expected the line {begin!r} once, and {end!r} once after it")
    before, after = lines[: lines.index(begin) + 1], lines[lines.index(end) :]
    return "\n".join([*before, *generate("\n".join(before + after)), *after]) + "\n"


def problems() -> list[str]:
    """Return the files whose generated part is out of date, one line each."""
    return [
        f"{name} is out of date: python tools/settings_docs.py update"
        for name in DOCUMENTS
        if (ROOT / name).read_text(encoding="utf-8") != generated(name)
    ]


def update() -> None:
    """Rewrite the generated part of each file."""
    for name in DOCUMENTS:
        (ROOT / name).write_text(generated(name), encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Return the exit code."""
    if arguments == ["update"]:
        update()
    elif arguments != ["check"]:
        print(__doc__)
        return 2
    lines = problems()
    print("\n".join(lines) or "the settings documentation is current")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
