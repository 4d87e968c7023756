"""What a person sees: Korean or English text, one-line errors with exit codes, tables, progress."""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import Any, TypeVar

EXIT_DONE, EXIT_FAILED, EXIT_WRONG_USE, EXIT_BELOW_THRESHOLD, EXIT_INTERRUPTED = 0, 1, 2, 3, 130
GARBAGE = (
    100_000  # new objects between two looks for cycles: importing torch and MLflow is a tenth faster than with 700
)
LANGUAGES = ("ko", "en")
UNITS = {"images": "장", "frames": "프레임", "batches": "배치", "files": "개"}
T = TypeVar("T")

_language = "ko"


class AppError(Exception):
    """Something a person can understand and mend: what, where, expected, found, what to do. Exit code 1."""

    exit_code = EXIT_FAILED


class UsageError(AppError):
    """Wrong use or bad data. Exit code 2."""

    exit_code = EXIT_WRONG_USE


class BelowThreshold(AppError):
    """A model that is not good enough to be registered. Exit code 3."""

    exit_code = EXIT_BELOW_THRESHOLD


def set_language(language: str) -> None:
    """Choose the console's language, one of `LANGUAGES`."""
    global _language
    _language = language


def t(korean: str, english: str) -> str:
    """The text in the console's language; both stand at the place of use, so that they change together."""
    return english if _language == "en" else korean


def say(korean: str, english: str) -> None:
    """Print one line in the console's language, at once (a pipe must not hold it back)."""
    print(t(korean, english), flush=True)


def warn(korean: str, english: str) -> None:
    """Print one warning line to standard error."""
    print(t(f"경고: {korean}", f"warning: {english}"), file=sys.stderr, flush=True)


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A plain table; columns line up for Korean too (tabulate asks wcwidth)."""
    import tabulate

    return tabulate.tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)


def human_size(size_bytes: float) -> str:
    """1536 -> '1.5 KB' (1 KB = 1024 bytes)."""
    for unit in ("B", "KB", "MB", "GB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TB"


def progress(items: Iterable[T], total: int | None, description: str, unit: str) -> Iterator[T]:
    """Yield the items behind a tqdm bar (rate, ETA) on a terminal, behind a plain line every 10 s elsewhere."""
    from tqdm import tqdm

    unit = t(UNITS.get(unit, unit), unit)
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=description, unit=unit, leave=False, dynamic_ncols=True)
        return
    start = shown = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - shown >= 10:
            shown, rate = now, done / (now - start)
            eta = f", ETA {(total - done) / rate:.0f} s" if total else ""
            print(f"{description}: {done}/{total or '?'} {unit}, {rate:.1f} {unit}/s{eta}", flush=True)


def choose(prompt: str, count: int) -> int | None:
    """Ask for a number from 1 to `count` until one is given; None at end of input or 'q'. Returns a 0-based index."""
    while True:
        try:
            answer = input(f"{prompt} [1-{count}, q = {t('그만두기', 'quit')}]: ").strip()
        except EOFError:
            print()
            return None
        if answer.lower() in ("q", "quit", "exit"):
            return None
        if answer.isascii() and answer.isdigit() and 1 <= int(answer) <= count:
            return int(answer) - 1
        say(
            f"'{answer}' 은(는) 1에서 {count} 사이의 번호가 아닙니다.", f"'{answer}' is not a number from 1 to {count}."
        )


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """What every script understands."""
    parser.add_argument(
        "--debug", action="store_true", help=t("오류의 자세한 위치를 보입니다", "show the traceback of an error")
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


def one_line(error: BaseException) -> str:
    """The error's own words on one line, its type first when it is not one of ours."""
    text = " ".join(str(error).split())
    return text if isinstance(error, AppError) else f"{type(error).__name__}: {text}"


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
    try:
        with _quiet_libraries(debug):
            code = main(sys.argv[1:])
    except KeyboardInterrupt:
        print(t("\n중단되었습니다.", "\ninterrupted."), file=sys.stderr)
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_FAILED
    except Exception as error:  # the one place where every error ends: one line, and an exit code
        if debug:
            traceback.print_exc()
        text = str(error) if isinstance(error, AppError) else one_line(error)
        print(t(f"오류: {text}", f"error: {text}"), file=sys.stderr)
        if not isinstance(error, AppError) and not debug:
            print(t("자세한 내용은 --debug 로 확인하세요.", "--debug shows where."), file=sys.stderr)
        code = error.exit_code if isinstance(error, AppError) else EXIT_FAILED
    sys.stdout.flush()
    sys.exit(code)
