"""Generate the documentation of options and settings from the code: .env.example and the tables of docs/options*.md.

python tools/settings_docs.py update     # rewrite the parts between the :begin and :end markers
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
from core.errors import ExitCode  # noqa: E402
from core.i18n import current_language, mark, set_language, tr  # noqa: E402
from core.settings import Setting, default_text, defaults_of  # noqa: E402
from tools.command_options import markdown_table, option_lines  # noqa: E402

DEFAULTS = defaults_of(Settings)
ENV_EXAMPLE = ".env.example"
HEADERS = (mark("name"), mark("option"), mark("default"), mark("meaning"))
EXIT_CODES = {
    ExitCode.DONE: mark("success"),
    ExitCode.FAILED: mark("failure: something could not be done, or a check found a difference"),
    ExitCode.WRONG_USE: mark("wrong usage or invalid data; nothing was started"),
    ExitCode.BELOW_THRESHOLD: mark(
        "`register_model.py` only: below the threshold, or registered as challenger instead of champion"
    ),
    ExitCode.INTERRUPTED: mark("interrupted by Ctrl-C; the last line names the command that resumes"),
}


def env_lines(handwritten: str) -> list[str]:
    """Return the lines of .env.example for every setting that its handwritten part does not list."""
    lines = []
    for name, info in SETTINGS.items():
        if re.search(rf"^#?{name.upper()}=", handwritten, re.MULTILINE):
            continue
        # train.py --init-env appends a key to each line that ends with "=": an unset value is written as "".
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


def exit_code_lines() -> list[str]:
    """Return the Markdown table of the exit codes in the current language."""
    rows = [(str(int(code)), tr(EXIT_CODES[code])) for code in ExitCode]
    return markdown_table([(tr("code"), tr("meaning")), ("---",) * 2, *rows])


def table_lines() -> list[str]:
    """Return the Markdown table of all settings in the current language."""
    rows = [_row(name, info) for name, info in SETTINGS.items()]
    return markdown_table([tuple(tr(name) for name in HEADERS), ("---",) * 4, *rows])


def _row(name: str, info: Setting) -> tuple[str, ...]:
    default = default_text(DEFAULTS[name])
    shown = tr(info.unset) if info.unset else f"`{default}`" if default else ""
    option = f"`{info.option}`" if info.option else ""
    choices = f" ({', '.join(f'`{choice}`' for choice in info.choices)})" if info.choices else ""
    return f"`{name.upper()}`", option, shown, tr(info.help) + choices


def in_language(language: str, lines: Callable[[], list[str]]) -> list[str]:
    """Return the lines in the language, and leave the current one as it is."""
    previous = current_language()
    set_language(language)
    try:
        return lines()
    finally:
        set_language(previous)


# --- files ------------------------------------------------------------------------------------------------------------

# File -> its generated parts: the name in the marker lines, and what produces the part from the rest of the file.
Generator = Callable[[str], list[str]]
DOCUMENTS: dict[str, dict[str, Generator]] = {
    ENV_EXAMPLE: {"settings": env_lines},
    "docs/options.md": {
        "exit-codes": lambda _: in_language("en", exit_code_lines),
        "options": lambda _: in_language("en", option_lines),
        "settings": lambda _: in_language("en", table_lines),
    },
    "docs/options.ko.md": {
        "exit-codes": lambda _: in_language("ko", exit_code_lines),
        "options": lambda _: in_language("ko", option_lines),
        "settings": lambda _: in_language("ko", table_lines),
    },
}


def generated(name: str) -> str:
    """Return the text that the file must have. Raises ValueError if a marker line is missing or occurs twice."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    marker = "# {}" if name == ENV_EXAMPLE else "<!-- {} -->"
    for part, generate in DOCUMENTS[name].items():
        begin, end = marker.format(f"{part}:begin"), marker.format(f"{part}:end")
        if lines.count(begin) != 1 or lines.count(end) != 1 or lines.index(begin) > lines.index(end):
            raise ValueError(f"{name}: expected the line {begin!r} once, and {end!r} once after it")
        before, after = lines[: lines.index(begin) + 1], lines[lines.index(end) :]
        made = generate("\n".join(before + after))
        lines = [*before, *([] if name == ENV_EXAMPLE else [""]), *made, *([] if name == ENV_EXAMPLE else [""]), *after]
    return "\n".join(lines) + "\n"


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
