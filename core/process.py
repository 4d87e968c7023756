"""Run a script: exit codes, signals and log levels."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from types import FrameType

from core.console import ConsoleReporter
from core.errors import EXIT_FAILED, EXIT_INTERRUPTED, AppError, one_line
from core.i18n import tr
from core.reporting import use_reporter

GARBAGE = (
    100_000  # new objects between two looks for cycles: importing torch and MLflow is a tenth faster than with 700
)


def _terminated(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def first_signal(call: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM makes this call, a second one raises KeyboardInterrupt; in the main thread only."""
    came = False

    def handle(_number: int, _frame: FrameType | None) -> None:
        nonlocal came
        if came:
            raise KeyboardInterrupt
        came = True
        call()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold the first Ctrl-C or SIGTERM back until a short piece of work is whole; a second one breaks it off.

    A database transaction that is cut in the middle would stay open, and lock out the call that records the interruption.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held = threading.Event()
    with first_signal(held.set):
        yield
    if held.is_set():
        raise KeyboardInterrupt


@contextlib.contextmanager
def _quiet_libraries(debug: bool) -> Iterator[None]:
    """Libraries log to standard error at will; a person asked for one line."""
    logging.basicConfig(level=logging.INFO if debug else logging.ERROR, format="%(name)s: %(message)s")
    if not debug:
        logging.getLogger("urllib3").setLevel(logging.CRITICAL)
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.ERROR)
    yield


def run_script(main: Callable[[list[str]], int]) -> None:
    """Run a script's `main` and leave the process with its exit code; errors are one line, `--debug` adds the traceback.

    SIGTERM ends a script as Ctrl-C does, so that open runs are closed and private branches are said.
    """
    gc.set_threshold(GARBAGE)
    debug = "--debug" in sys.argv
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a console without Korean must not crash
    signal.signal(signal.SIGTERM, _terminated)
    use_reporter(ConsoleReporter())
    try:
        with _quiet_libraries(debug):
            code = main(sys.argv[1:])
    except KeyboardInterrupt:
        print(tr("\ninterrupted."), file=sys.stderr)
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_FAILED
    except Exception as error:  # the one place where every error ends: one line, and an exit code
        if debug:
            traceback.print_exc()
        text = str(error) if isinstance(error, AppError) else one_line(error)
        print(tr("error: {text}", text=text), file=sys.stderr)
        if not isinstance(error, AppError) and not debug:
            print(tr("--debug shows where."), file=sys.stderr)
        code = error.exit_code if isinstance(error, AppError) else EXIT_FAILED
    sys.stdout.flush()
    sys.exit(code)
