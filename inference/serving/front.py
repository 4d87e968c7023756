"""The outermost part of the application: accepted hosts, the language of the answer, and what is counted."""

from __future__ import annotations

import time
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.i18n import language_scope, tr
from inference.serving.answers import choose_language, error
from inference.serving.metrics import Metrics

ANY_HOST = "*"


class Front:
    """Middleware. `hosts`: accepted names and addresses in the Host header; ANY_HOST accepts all.

    A page of another site whose name is made to point to this machine sends its own name (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], metrics: Metrics) -> None:
        self.app, self.hosts, self.metrics = app, hosts, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers, status, started = Headers(scope=scope), 0, time.perf_counter()

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with language_scope(choose_language(headers)):
            try:
                if self._accepts(headers.get("host", "")):
                    await self.app(scope, receive, note_status)
                else:
                    host = headers.get("host", "")
                    expected = ", ".join(sorted(self.hosts))
                    refusal = error(400, tr("Host '{host}': expected {expected}", host=host[:100], expected=expected))
                    await refusal(scope, receive, note_status)
            except Exception:
                if not status:
                    answer = error(500, tr("an error of the server, described on its console"))
                    await answer(scope, receive, note_status)
                raise
            finally:
                self.metrics.count(scope["method"], scope["path"], status, time.perf_counter() - started)

    def _accepts(self, host: str) -> bool:
        if ANY_HOST in self.hosts:
            return True
        try:
            return urlsplit(f"//{host}").hostname in self.hosts
        except ValueError:
            return False
