"""Calls that may wait for a server, made one after another in a thread beside the work that they report on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

MOST_WAITING = 64  # calls; a server that cannot keep up slows the work down instead of filling the memory


class Background:
    """Makes calls in their order. After the first that fails none is made; its error is raised by `call` and `finish`."""

    def __init__(self) -> None:
        self._calls: queue.Queue[Callable[[], Any]] = queue.Queue(MOST_WAITING)
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def call(self, work: Callable[[], Any]) -> None:
        """Make this call as soon as those before it are done."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="background", daemon=True)
            self._thread.start()
        self._raise()
        self._calls.put(work)

    def finish(self) -> None:
        """Wait until every call is made."""
        self._calls.join()
        self._raise()

    def _run(self) -> None:
        while True:
            work = self._calls.get()
            try:
                if self._error is None:
                    work()
            except BaseException as error:  # of any kind: the thread that asked has to hear of it
                self._error = error
            finally:
                self._calls.task_done()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
