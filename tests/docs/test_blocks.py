"""The commands of the documents without running them: syntax, options, reasons, and the same commands in both languages."""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
from types import ModuleType

import pytest

from tests.support.documents.blocks import Block, blocks_of, simple_commands, without_comments
from tests.support.project import SOURCE
from tools import command_options

TOP = ("README.md", "README.ko.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "SECURITY.md", "CHANGELOG.md")
DOCUMENTS = [*TOP, *sorted(f"docs/{path.name}" for path in (SOURCE / "docs").glob("*.md"))]
TRANSLATED = [name for name in DOCUMENTS if name.endswith(".ko.md")]
BLOCKS = [block for document in DOCUMENTS for block in blocks_of(SOURCE, document)]
# Options of python -m utils.local_lakefs and of other programs that the texts name without the program.
OTHER_OPTIONS = {
    *("--repair", "--mend", "--drop-run", "--port", "--region", "--sidecar", "--env-manager", "--shm-size"),
    *(
        "--rdzv_endpoint",
        "--rdzv_conf",
        "--max_restarts",
        "--requeue",
        "--restarts",
        "--models",
        "--workers",
    ),  # of torchrun, sbatch, Ray
    "--slices",  # of benchmarks/gate_coverage.py
    "--times",  # of benchmarks/training.py
}
CODE_OF_PROJECT = re.compile(rf"--|(?:python )?(?:{'|'.join(map(re.escape, command_options.SCRIPTS))})\b")


@functools.cache
def module_of(script: str) -> ModuleType:
    return command_options._load(script)


@functools.cache
def known_options() -> set[str]:
    parsers = [parser for script in command_options.SCRIPTS for _, _, parser in command_options.commands_of(script)]
    return {name for parser in parsers for action in parser._actions for name in action.option_strings}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_block_is_valid_shell(block: Block) -> None:
    done = subprocess.run(["bash", "-n", "-c", block.text], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_commands_of_the_project_have_options_that_exist(block: Block) -> None:
    for command in simple_commands(block.text):
        words = shlex.split(re.sub(r"\$\((.*?)\)", "VALUE", command))
        script = next((word for word in words if word in command_options.SCRIPTS), None)
        if script is None:
            continue
        arguments = words[words.index(script) + 1 :]
        if "--help" in arguments or "--version" in arguments:
            continue
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((100, 24)))
            try:
                module_of(script).parse([word for word in arguments if word not in (">", "&")])
            except SystemExit as end:
                pytest.fail(f"{block.place}: {command}: exit code {end.code}")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_options_that_texts_name_exist(document: str) -> None:
    if document == "CHANGELOG.md":
        return  # names options of other versions
    text = (SOURCE / document).read_text(encoding="utf-8")
    codes = [code for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text) if CODE_OF_PROJECT.match(code)]
    for code in codes:
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]+", code, re.ASCII):
            assert option in known_options() | OTHER_OPTIONS, f"{code}: {option}"


@pytest.mark.parametrize("document", TRANSLATED)
def test_translation_has_the_same_commands(document: str) -> None:
    original = document.replace(".ko.md", ".md")
    commands = [[without_comments(block.text) for block in blocks_of(SOURCE, name)] for name in (original, document)]
    assert commands[0] == commands[1]
