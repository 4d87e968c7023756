"""`infer.py --serve`: a page on which a picture is dropped and its mask shown, and `POST /predict` for programs.

The body of `POST /predict` is the picture's file. The answer is the mask as palette PNG, or JSON where `Accept` asks for it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import ipaddress
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from config import Settings
from core.errors import AppError, UsageError
from core.html import render
from core.i18n import current_language, tr
from core.reporting import notify, warn
from dataset.classes import InvalidFileError
from dataset.images import ImageTooLargeError, decode_image
from inference.batch_job import origin
from inference.outputs import class_shares, mask_png
from segmentation.predictor import Predictor
from utils.lineage import Lineage

TEMPLATE = Path(__file__).with_name("serve.html")
WAITING = 8  # pictures that may wait for the one being predicted; more are refused
CONNECTIONS = 64  # open at once; more are refused
GOODBYE_S = 3  # seconds that open answers have at Ctrl-C
LOOPBACK = ["127.0.0.1", "localhost", "::1", "[::1]"]


class Service:
    """One model behind HTTP; `origin` says where it comes from (outputs.ORIGIN at least).

    Pictures are predicted one after the other: each takes all cores, and the memory that is needed stays that of one.
    """

    def __init__(self, predictor: Predictor, origin: dict[str, Any], settings: Settings) -> None:
        self.predictor, self.origin, self.classes = predictor, origin, predictor.model.classes
        self.most_bytes = int(settings.serve_max_mb * 1e6)
        self.most_pixels = int(settings.serve_max_megapixels * 1e6)
        self.timeout_s = settings.serve_timeout_s
        self.page, self.policy = page(self)
        self._thread = ThreadPoolExecutor(1)
        self._waiting = 0

    def app(self, hosts: list[str]) -> Starlette:
        """The routes; `hosts` are the names under which the server may be called, ["*"] any."""
        return Starlette(
            routes=[Route("/", self.show), Route("/predict", self.predict, methods=["POST"])],
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
            exception_handlers={HTTPException: _refusal},
        )

    async def show(self, _: Request) -> Response:
        return HTMLResponse(self.page, headers={"Content-Security-Policy": self.policy, **NO_GUESSING})

    async def predict(self, request: Request) -> Response:
        """200; 400 no readable picture; 408 sent too slowly; 413 too large; 503 too many at once, or too slow."""
        if self._waiting > WAITING:
            raise HTTPException(503, tr("too many at once: try again in a while"))
        self._waiting += 1
        try:
            data = await self._body(request)
            loop = asyncio.get_running_loop()
            work = loop.run_in_executor(self._thread, self._predict, data)
            mask, found = await asyncio.wait_for(work, self.timeout_s)
        except TimeoutError:
            late = tr("not done within {timeout_s:g} s", timeout_s=self.timeout_s)
            raise HTTPException(503, late) from None
        except ImageTooLargeError as error:
            raise HTTPException(413, str(error)) from None
        except InvalidFileError as error:
            raise HTTPException(400, str(error)) from None
        except AppError as error:  # out of memory
            raise HTTPException(503, str(error)) from None
        except asyncio.CancelledError:  # of Ctrl-C, which else shows this request's traceback
            raise HTTPException(503, tr("the server is ending")) from None
        finally:
            self._waiting -= 1
        if "application/json" in request.headers.get("accept", ""):
            return JSONResponse({**found, "mask_png_base64": base64.b64encode(mask).decode()}, headers=NO_GUESSING)
        return Response(mask, media_type="image/png", headers=NO_GUESSING)

    async def _body(self, request: Request) -> bytes:
        """What is sent, read no further than allowed, whatever the header says of its length."""
        too_large = HTTPException(413, tr("at most {most_bytes:,} bytes are taken", most_bytes=self.most_bytes))
        declared = request.headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > self.most_bytes:
            raise too_large
        data = bytearray()
        try:
            async with asyncio.timeout(self.timeout_s):
                async for piece in request.stream():
                    data += piece
                    if len(data) > self.most_bytes:
                        raise too_large
        except TimeoutError:
            raise HTTPException(408, tr("sent too slowly")) from None
        except ClientDisconnect:
            raise HTTPException(400, tr("the connection broke")) from None
        return bytes(data)

    def _predict(self, data: bytes) -> tuple[bytes, dict[str, Any]]:
        """The mask's PNG, and what JSON says of it."""
        image = decode_image(data, self.most_pixels)
        sha256 = hashlib.sha256(data).hexdigest()
        (prediction,) = self.predictor.predict([self.predictor.prepare(image, sha256)])
        mask = mask_png(prediction.indices, self.classes, self.origin)
        height, width = prediction.indices.shape
        shares = class_shares(prediction.indices, self.classes)
        return mask, {
            "height": height, "width": width, "class_shares": shares, "input_sha256": sha256,
            "mask_sha256": hashlib.sha256(mask).hexdigest(), **self.origin,
        }  # fmt: skip


NO_GUESSING = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}


async def _refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # the handler is registered for nothing else
    # What is still being sent is not read: the connection cannot serve another request.
    return JSONResponse(
        {"error": error.detail},
        error.status_code,
        headers={**(error.headers or {}), **NO_GUESSING, "Connection": "close"},
    )


def page(service: Service) -> tuple[str, str]:
    """The page, and its content security policy: its own style and script by hash, nothing from anywhere else."""
    classes = service.classes
    content = {
        "language": current_language(),
        "title": str(service.origin["model_version"] or tr("run") + f" {service.origin['run_id']}"),
        "text": _words(service),
        "most_bytes": service.most_bytes,
        "origin": service.origin,
        "colors": {name: f"rgb{color}" for name, color in zip(classes.names, classes.colors, strict=True)},
    }
    text = render(TEMPLATE, data=content)
    style, script = (_csp_hash(text, f"<{tag}>", f"</{tag}>") for tag in ("style", "script"))
    policy = (
        f"default-src 'none'; style-src {style}; script-src {script}; img-src blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text, policy


def _csp_hash(text: str, start: str, end: str) -> str:
    part = re.split(re.escape(end), text.split(start)[1])[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'"


def _words(service: Service) -> dict[str, str]:
    megabytes, megapixels = service.most_bytes / 1e6, service.most_pixels / 1e6
    return {
        "drop": tr("Drop a picture here, or click to choose one"),
        "limits": tr("up to {megabytes:g} MB and {megapixels:g} megapixels", megabytes=megabytes, megapixels=megapixels),
        "opacity": tr("opacity of the mask"),
        "save": tr("save the mask (PNG)"),
        "wait": tr("predicting…"),
        "large": tr("the file is too large"),
        "lost": tr("the server does not answer"),
        "origin": tr("where the model comes from"),
    }  # fmt: skip


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server at this address."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def serve(predictor: Predictor, lineage: Lineage, settings: Settings, host: str, port: int) -> NoReturn:
    """Answer until Ctrl-C, which leaves as KeyboardInterrupt. Raises UsageError for an address that cannot be had."""
    listener = listen(host, port)
    local = is_loopback(host)
    if not local:
        warn(tr("at {host} anybody who reaches this machine may use it, without a password", host=host))
    service = Service(predictor, origin(predictor, lineage), settings)
    config = uvicorn.Config(
        service.app([*LOOPBACK, host, f"[{host}]"] if local else ["*"]),
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=GOODBYE_S,
    )
    with listener:
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{listener.getsockname()[1]}/"
        notify(tr("serving at {url} (Ctrl-C ends)", url=url))
        uvicorn.Server(config).run(sockets=[listener])
    raise KeyboardInterrupt  # uvicorn only returns after a signal


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections. Raises UsageError for an address that cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UsageError(
            tr(
                "cannot listen at {host}:{port} ({error}): give another --port or --host",
                host=host,
                port=port,
                error=error,
            )
        ) from error
