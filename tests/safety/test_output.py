"""What is printed: no control character, no credentials, and through one module only."""

from __future__ import annotations

import ast
import logging
import sys
import warnings
from pathlib import Path

import pytest

from core import console, progress, reporting
from core.command_line.parser import CommandParser
from core.console import format_table
from core.console_reporter import ConsoleReporter
from core.errors import UsageError
from core.i18n import Message, tr
from core.process import run_script
from core.safety import redaction
from core.safety.terminal import escape_text
from core.safety.urls import without_credentials
from tests.support.project import SOURCE

HOSTILE = [
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "\x1bP+q\x1b\\",
    "\x9b2J",
    "\x9d8;;http://x\x9c",
    "\x08\x08\x08fake",
    "line\rover",
    "\x0b\x0c\x00\x7f",
    "\u202egnp.exe",
    "\u2066\u2067\u2068\u2069\u202a\u202b\u202c\u202d\u200e\u200f\u061c",
    "one\u2028two\u2029three\x85four",
    b"latin-\xe9".decode("utf-8", "surrogateescape"),
    "\ud800",
]
UNSAFE = {*map(chr, range(32)), *map(chr, range(0x7F, 0xA0)), *"\u061c\u200e\u200f\u2028\u2029"} - {"\n", "\t"}
UNSAFE |= {chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000))}


def _is_clean(text: str) -> bool:
    return not UNSAFE.intersection(text)


@pytest.fixture(autouse=True)
def _reporter() -> None:
    reporting.use_reporter(ConsoleReporter())


@pytest.mark.parametrize("text", HOSTILE)
def test_control_characters_are_displayed_escaped(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_AFTER_S", 0.0)
    reporting.notify(text)
    reporting.warn(text)
    console.print_result(text)
    list(progress.show_progress([1], 1, text, text))
    print(console._Formatter("%(message)s").format(logging.LogRecord("t", 40, "f", 1, text, None, None)))
    print(format_table(["name"], [[text]]))
    out = capsys.readouterr()
    assert _is_clean(out.out + out.err) and escape_text(text) in out.out
    assert escape_text("한국어 é ✓ 🙂") == "한국어 é ✓ 🙂", "ordinary text is not changed"


def test_name_cannot_start_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a.png\nerror: everything was deleted"
    reporting.warn(tr("{path}: not found", path=name))
    reporting.warn(tr("{path}: not found", path=Path(name)))
    reporting.warn(tr("{path}: not found", path=ValueError(name)))
    assert len(capsys.readouterr().err.splitlines()) == 3
    assert len(format_table(["name"], [[name]]).splitlines()) == 3
    assert tr("{a}{b}", a=Message("x\ny"), b=Message(tr("\nz"))) == "x\ny\nz", "our own lines stay"


def test_errors_arguments_warnings_and_tracebacks_are_escaped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(arguments: list[str]) -> int:
        warnings.warn("\x1b[2Jcleared", stacklevel=1)
        if arguments == ["parse"]:
            parser = CommandParser()
            parser.add_argument("command", choices=["a"])
            parser.parse(["\x1b[31m\u202e"])
        if arguments == ["usage"]:
            raise UsageError("\x1b[31mred")
        raise ValueError("\x1b[31mred")

    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(warnings, "showwarning", lambda *a, **k: sys.stderr.write(warnings.formatwarning(*a[:4])))
    for arguments in (["parse"], ["usage"], ["other"], ["--debug"]):
        monkeypatch.setattr(sys, "argv", ["x.py", *arguments])
        with pytest.raises(SystemExit):
            run_script(main)
        out = capsys.readouterr()
        assert out.err and _is_clean(out.out + out.err), out


def test_prompt_is_escaped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shown: list[str] = []
    answers = iter(["\x1b[31m", "1"])

    def answer(prompt: str) -> str:
        shown.append(prompt)
        return next(answers)

    monkeypatch.setattr("builtins.input", answer)
    assert console.choose("run \x1b[31m", 2) == 0
    assert _is_clean(shown[0] + capsys.readouterr().out)


def test_progress_bar_keeps_its_terminal_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "BAR_AFTER_S", 0.0)
    assert list(progress.show_progress(range(3), 3, "reading \x1b[31m", "files")) == [0, 1, 2]
    err = capsys.readouterr().err
    assert err.count("\r") >= 2 and "0/3" in err and "\\x1b[31m" in err


# --- one module prints --------------------------------------------------------------------------------------------------

PRINTERS = {"print", "input", "tqdm", "print_exc", "print_exception", "print_stack", "print_tb", "pprint"}
MAY_PRINT = {"core/console.py", "core/progress.py"}
FOR_DEVELOPERS = ("action", "tests", "tools", "benchmarks", "noxfile.py")


def _bypasses(path: Path) -> list[str]:
    """Return the calls and names in a file that print without the console module."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
            if name in PRINTERS | {"StreamHandler", "basicConfig"}:
                found.append(f"{node.lineno}: {name}")
            if name in ("write", "writelines") and owner.startswith("sys.std"):
                found.append(f"{node.lineno}: {owner}.{name}")
            if owner == "argparse" and name == "ArgumentParser":
                found.append(f"{node.lineno}: argparse.ArgumentParser")
    return found


def test_only_the_console_module_prints() -> None:
    files = [
        path
        for path in SOURCE.rglob("*.py")
        if not path.relative_to(SOURCE).parts[0].startswith((*FOR_DEVELOPERS, ".", "build"))
        and (path.parent == SOURCE or (path.parent / "__init__.py").exists())
    ]
    assert len(files) > 200
    bypasses = {path.relative_to(SOURCE).as_posix(): _bypasses(path) for path in files}
    assert {name: found for name, found in bypasses.items() if found and name not in MAY_PRINT} == {}
    assert bypasses["core/console.py"], "the test sees the calls that it forbids elsewhere"


def test_parser_of_every_script_is_ours() -> None:
    assert isinstance(CommandParser().add_subparsers().add_parser("x"), CommandParser)


# --- credentials ----------------------------------------------------------------------------------------------------------

PASSWORDS = [
    "pw",
    "p/w",
    "p@w",
    "p:w",
    "p#w",
    "p?w",
    "p%2Fw",
    "암호",
    "p//w/@/w",
    "p&w=x",
    "12/34",
    "[p]w",
    "p\\w",
    "ⅷ℀w",
]


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("scheme", ["http", "https", "postgresql+psycopg2", "ssh", "git+https"])
def test_password_of_any_characters_is_removed_from_a_url(scheme: str, password: str) -> None:
    for tail in ("", ":5000", "/path", ":5000/path?x=1#frag"):
        url = f"{scheme}://alice:{password}@host.example{tail}"
        assert without_credentials(url) == f"{scheme}://host.example{tail}"
        assert (
            without_credentials(url.replace("alice:", "")) == f"{scheme}://host.example{tail}"
            or "/" in password
            or (set("#?") & set(password))
        )


@pytest.mark.parametrize(
    "url",
    [
        "git@github.com:a/b.git",
        "https://host/path/@v1",
        "https://host/user/name@tag",
        "models:/name@champion",
        "lakefs://repo/main/data/a@b.png",
        "sqlite:////home/me@work/mlflow.db",
        "C:\\me@work\\mlflow.db",
        "name@champion",
        "(?:a)@b",
        "",
        "none",
    ],
)
def test_text_without_credentials_is_unchanged(url: str) -> None:
    assert without_credentials(url) == url


def test_keys_in_a_query_are_masked() -> None:
    url = "https://host/a?X-Amz-Signature=abc123&x=1&access_token=zzz&sig=1"
    assert without_credentials(url) == "https://host/a?X-Amz-Signature=***&x=1&access_token=***&sig=***"


def test_console_prints_no_credentials(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("EXAMPLE_TOKEN", "tok/en+va=lue")
    monkeypatch.setenv("OTHER_URI", "http://alice:s3cret/pw@host")
    reporting.warn("a http://u:p/w@host:1/x failed; tok/en+va=lue, tok%2Fen%2Bva%3Dlue, s3cret/pw; postgresql://a:b@c")
    err = capsys.readouterr().err
    assert err == "warning: a http://host:1/x failed; ***, ***, ***; postgresql://c\n"


def test_ordinary_variables_are_not_taken_for_secrets() -> None:
    harmless = {
        "TOKENIZERS_PARALLELISM": "false",
        "SSH_AUTH_SOCK": str(SOURCE),
        "S3_KEY": "images",
        "KEYBOARD": "korean",
        "DB_PASSWORD": "abc",
        "PASSWORD": "changeme",
        "XDG_SESSION_TYPE": "wayland",
    }
    assert set(redaction.secret_values(harmless)) <= set(redaction.secret_values({}))
    secrets = {"MY_API_KEY": "supervalue", "MODEL_KEY": "Ab12345678", "DB_PASS": "hunter2", "GH_PAT": "ghp_1234567"}
    assert set(secrets.values()) <= set(redaction.secret_values(secrets))
