"""Progress of a step: a tqdm bar on a terminal, plain lines elsewhere, nothing for a short step."""

from __future__ import annotations

import contextlib
import contextvars
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO, TypeVar

from core.console import format_size, print_text
from core.i18n import tr
from core.reporting import ByteCount
from core.safety.redaction import redact
from core.safety.terminal import escape_line

T = TypeVar("T")
BAR_AFTER_S = 0.5  # a step shorter than this shows no bar on a terminal
LINE_AFTER_S, LINE_EVERY_S = 2.0, 5.0  # without a terminal: when the first line of a step comes, and the following ones
TICK_S = 0.5  # seconds between two looks at the bytes of a transfer, whose next file may take an hour


def show_progress(
    items: Iterable[T],
    total: int | None,
    description: str,
    unit: str,
    output: TextIO | None = None,
    moved: ByteCount | None = None,
) -> Iterator[T]:
    """Return the items with a tqdm bar on a terminal, otherwise with plain lines on `output` (stdout).

    Steps that end within `BAR_AFTER_S` or `LINE_AFTER_S` show nothing. `moved` counts the bytes of a transfer: they are
    shown too, also while one item takes long.
    """
    description, unit = escape_line(redact(description)), escape_line(unit)
    if sys.stderr.isatty():
        return _with_bar(items, total, description, unit, moved)
    return _with_lines(items, _Lines(total, description, unit, output, moved))


def _with_bar(
    items: Iterable[T], total: int | None, description: str, unit: str, moved: ByteCount | None
) -> Iterator[T]:
    """Yield the items with a tqdm bar; its rate is "3.20/s", as tqdm would write "3.20images/s" in any language."""
    from tqdm import tqdm

    unit = unit.replace("{", "{{").replace("}", "}}")
    layout = f"{{desc}}: {{n_fmt}} {unit} [{{elapsed}}, {{rate_noinv_fmt}}{{postfix}}]"
    if total:
        layout = f"{{l_bar}}{{bar}}| {{n_fmt}}/{{total_fmt}} {unit} [{{elapsed}}<{{remaining}}, {{rate_noinv_fmt}}{{postfix}}]"
    bar = tqdm(
        items,
        total=total,
        desc=description,
        unit="",
        bar_format=layout,
        leave=False,
        dynamic_ncols=True,
        delay=BAR_AFTER_S,
    )
    if moved is None:
        yield from bar
        return
    before = moved.value
    with _repeated(lambda: bar.set_postfix_str(format_size(moved.value - before))):
        yield from bar


def _with_lines(items: Iterable[T], lines: _Lines) -> Iterator[T]:
    """Yield the items with a plain line after `LINE_AFTER_S`, and then every `LINE_EVERY_S`."""
    with _repeated(lines.write_if_due) if lines.moved else contextlib.nullcontext():
        for item in items:
            yield item
            lines.done += 1
            lines.write_if_due()


class _Lines:
    """The lines of one step; written by the thread that works, or by the one that watches a transfer."""

    def __init__(
        self, total: int | None, description: str, unit: str, output: TextIO | None, moved: ByteCount | None
    ) -> None:
        self.total, self.description, self.unit, self.output, self.moved = total, description, unit, output, moved
        self.done, self.before = 0, moved.value if moved else 0
        self.start = time.monotonic()
        self.due = self.start + LINE_AFTER_S
        self.lock = threading.Lock()

    def write_if_due(self) -> None:
        """Write a line unless the last one was written a moment ago."""
        with self.lock:
            now = time.monotonic()
            if now < self.due:
                return
            self.due = now + LINE_EVERY_S
            text = self.text(now - self.start)
            if self.moved:
                text += f", {format_size(self.moved.value - self.before)}"
            print_text(text, self.output)

    def text(self, seconds: float) -> str:
        """Return what is done after these seconds, at which rate, and how long the rest takes."""
        facts = {"description": self.description, "done": self.done, "unit": self.unit}
        if not self.done:
            return tr("{description}: {done}/{total} {unit}", total=self.total or "?", **facts)
        rate = self.done / seconds
        if not self.total:
            return tr("{description}: {done} {unit}, {rate:.1f}/s", rate=rate, **facts)
        return tr(
            "{description}: {done}/{total} {unit}, {rate:.1f}/s, {left_s:.0f} s left",
            total=self.total,
            rate=rate,
            left_s=(self.total - self.done) / rate,
            **facts,
        )


@contextlib.contextmanager
def _repeated(action: Callable[[], None]) -> Iterator[None]:
    """Call the action every `TICK_S` in a thread, in the language of this one, until the block ends."""
    ended, context = threading.Event(), contextvars.copy_context()

    def run() -> None:
        while not ended.wait(TICK_S):
            action()

    thread = threading.Thread(target=context.run, args=(run,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
