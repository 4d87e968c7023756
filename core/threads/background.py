"""A background thread that makes slow calls, such as requests to a server, in their order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

MAX_QUEUED = 64  # calls; a server that cannot keep up slows the work down instead of filling the memory


class Background:
    """Queue of calls for one thread. After the first failure no more calls are made; `call` and `finish` raise it."""

    def __init__(self) -> None:
        self._calls: queue.Queue[Callable[[], Any]] = queue.Queue(MAX_QUEUED)
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def call(self, work: Callable[[], Any]) -> None:
        """Queue a call; wait if the queue is full. Raises the error of an earlier call."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="background", daemon=True)
            self._thread.start()
        self._raise_error()
        self._calls.put(work)

    def finish(self) -> None:
        """Wait until every call is made. Raises the error of the first failed call."""
        self._calls.join()
        self._raise_error()

    def _run(self) -> None:
        while True:
            work = self._calls.get()
            try:
                if self._error is None:
                    work()
            except BaseException as error:  # of any kind: the calling thread raises it
                self._error = error
            finally:
                self._calls.task_done()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
