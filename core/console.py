"""What a person sees: Korean or English text, one-line errors with exit codes, tables, progress."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from core.i18n import t

UNITS = {"images": "장", "frames": "프레임", "batches": "배치", "files": "개"}
T = TypeVar("T")


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
