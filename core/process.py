"""Run a script: exit codes, signals, log levels, and the setting of the garbage collector."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from core.console import configure_logging, print_error, print_traceback
from core.console_reporter import ConsoleReporter
from core.errors import AppError, ExitCode, describe_error
from core.i18n import Message, tr
from core.machine.packages import describe_missing_package
from core.machine.storage import describe_storage_error
from core.reporting import use_reporter

GC_THRESHOLD = 100_000  # new objects between collections: importing torch and MLflow takes 10 % less time than with 700
ROOT = Path(__file__).resolve().parent.parent


def collect_garbage_rarely() -> None:
    """Set the threshold of Python's garbage collector for this process to `GC_THRESHOLD`."""
    gc.set_threshold(GC_THRESHOLD)


def _raise_interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def handle_first_signal(call: Callable[[], None]) -> Iterator[None]:
    """On the first Ctrl-C or SIGTERM call `call`; on the second one raise KeyboardInterrupt. Main thread only."""
    received = False

    def handle(_number: int, _frame: FrameType | None) -> None:
        nonlocal received
        if received:
            raise KeyboardInterrupt
        received = True
        call()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def defer_interrupt() -> Iterator[None]:
    """Defer the first Ctrl-C or SIGTERM to the end of the block; a second one interrupts it. For short operations.

    An interrupted database transaction would stay open and block the call that records the interruption.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received = threading.Event()
    with handle_first_signal(received.set):
        yield
    if received.is_set():
        raise KeyboardInterrupt


def run_script(main: Callable[[list[str]], int]) -> None:
    """Run a script's `main` and exit with its code; an error is one line, `--debug` adds the traceback.

    SIGTERM has the effect of Ctrl-C, so that open runs are closed and private branches are reported. Configures signals,
    standard streams, logging, the reporter and the garbage collector of this process.
    """
    collect_garbage_rarely()
    debug = "--debug" in sys.argv
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a console without Korean characters must not crash
    signal.signal(signal.SIGTERM, _raise_interrupt)
    use_reporter(ConsoleReporter())
    try:
        configure_logging(debug)
        code = main(sys.argv[1:])
    except KeyboardInterrupt:
        print_error(tr("\ninterrupted."))
        code = ExitCode.INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = ExitCode.FAILED
    except Exception as error:  # every error ends here as one line and an exit code
        if debug:
            print_traceback()
        known = describe_storage_error(error) or describe_missing_package(error, ROOT)
        text = known or (str(error) if isinstance(error, AppError) else describe_error(error))
        print_error(tr("error: {text}", text=Message(text)))
        if not isinstance(error, AppError) and known is None and not debug:
            print_error(tr("run with --debug for the traceback."))
        code = error.exit_code if isinstance(error, AppError) else ExitCode.FAILED
    sys.stdout.flush()
    sys.exit(code)
