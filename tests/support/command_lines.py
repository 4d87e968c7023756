"""Run many command lines of one script in a process that imports it once and forks for each: `python THIS SCRIPT`.

Reads a JSON list of argument lists from standard input; prints a JSON list of [exit code, stdout, stderr].
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import tempfile
from pathlib import Path

PRELOADED = ("config", "core.command_line.common", "core.process", "core.settings", "difflib")


def run_one(script: str, arguments: list[str]) -> list[object]:
    """Run the script as __main__ in a child process."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.argv = [script, *arguments]
            code = 0
            try:
                runpy.run_path(script, run_name="__main__")
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode())
        return [os.waitstatus_to_exitcode(status), *texts]


def main() -> None:
    script = sys.argv[1]
    sys.path[0] = str(Path(script).resolve().parent)
    for name in PRELOADED:
        __import__(name)
    lines = json.load(sys.stdin)
    print(json.dumps([run_one(script, arguments) for arguments in lines]))


if __name__ == "__main__":
    main()
