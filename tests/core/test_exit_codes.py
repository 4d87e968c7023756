"""The exit codes of the scripts: one enumeration, which the documentation lists."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from core.errors import AppError, BelowThreshold, ExitCode, UsageError
from core.process import run_script
from tools import settings_docs

SCRIPTS = ["train.py", "register_model.py", "infer.py", "lake.py"]
COMMANDS = [
    "train/commands.py",
    "train/jobs/training.py",
    "train/reproduce.py",
    "registry/commands.py",
    "inference/commands.py",
]
COMMANDS += ["versioning/commands.py", "lineage/trace.py", "utils/minio_utils.py", "utils/local_lakefs/__main__.py"]


def test_exit_codes_are_part_of_the_stability_promise() -> None:
    assert [int(code) for code in ExitCode] == [0, 1, 2, 3, 130]


@pytest.mark.parametrize("name", ["docs/options.md", "docs/options.ko.md"])
def test_documents_list_every_exit_code(name: str) -> None:
    text = (settings_docs.ROOT / name).read_text(encoding="utf-8")
    table = text.partition("<!-- exit-codes:begin -->")[2].partition("<!-- exit-codes:end -->")[0]
    codes = [line.split("|")[1].strip() for line in table.strip().splitlines()[2:]]
    assert codes == [str(int(code)) for code in ExitCode] and set(settings_docs.EXIT_CODES) == set(ExitCode)


@pytest.mark.parametrize("name", [*SCRIPTS, *COMMANDS])
def test_commands_return_names_instead_of_numbers(name: str) -> None:
    tree = ast.parse((settings_docs.ROOT / name).read_text(encoding="utf-8"))
    numbers = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Constant) and type(node.value.value) is int
    ]
    assert numbers == [], f"{Path(name).name}: lines that return a number"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (AppError("x"), ExitCode.FAILED),
        (UsageError("x"), ExitCode.WRONG_USE),
        (BelowThreshold("x"), ExitCode.BELOW_THRESHOLD),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
        (ZeroDivisionError(), ExitCode.FAILED),
        (None, ExitCode.DONE),
    ],
)
def test_scripts_end_with_the_code_of_their_error(
    error: BaseException | None, code: ExitCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def main(arguments: list[str]) -> int:
        if error is not None:
            raise error
        return ExitCode.DONE

    monkeypatch.setattr("core.process.signal.signal", lambda *_: None)
    monkeypatch.setattr("core.process.use_reporter", lambda _: None)
    monkeypatch.setattr("core.process.configure_logging", lambda _: None)
    monkeypatch.setattr("core.process.collect_garbage_rarely", lambda: None)
    monkeypatch.setattr("sys.argv", ["train.py"])
    with pytest.raises(SystemExit) as ended:
        run_script(main)
    assert ended.value.code == code
