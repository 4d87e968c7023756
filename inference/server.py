"""`infer.py --serve`: a page that shows the mask of a dropped image, and `POST /predict` for programs.

The body of `POST /predict` is an image file. The response is the mask as palette PNG, or JSON if `Accept` requests it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import ipaddress
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
from core.i18n import current_language, tr
from core.reporting import notify, warn
from core.safety.html import content_policy, render
from dataset.classes import InvalidFileError
from dataset.decoding.files import ImageTooLargeError
from dataset.decoding.image import to_channels
from dataset.decoding.samples import decode_raw
from inference.batch_job import describe_origin
from inference.outputs import compute_class_shares, encode_mask
from inference.serving.connections import LimitedProtocol
from inference.serving.uploads import TooLargeError, Uploads
from segmentation.predictor import Predictor
from utils.lineage import Origin

TEMPLATE = Path(__file__).with_name("serve.html")
MAX_WAITING = 8  # images that may wait for the one being predicted; more are rejected
SHUTDOWN_S = 3  # seconds that open requests have to finish after Ctrl-C
LOOPBACK = ["127.0.0.1", "localhost", "::1", "[::1]"]


class Service:
    """One model behind HTTP; `origin` has at least the keys outputs.PNG_TEXT_KEYS.

    Images are predicted one at a time: each uses all cores, and memory for one image is enough.
    """

    def __init__(self, predictor: Predictor, origin: dict[str, Any], settings: Settings) -> None:
        self.predictor, self.origin, self.classes = predictor, origin, predictor.model.classes
        self.max_bytes = int(settings.serve_max_mb * 1e6)
        self.max_pixels = int(settings.serve_max_megapixels * 1e6)
        self.timeout_s = settings.serve_timeout_s
        self.page, self.policy = render_page(self)
        self._thread = ThreadPoolExecutor(1)
        self._waiting = 0
        self._uploads = Uploads(self.max_bytes, self.timeout_s, self.max_bytes * (MAX_WAITING + 1))

    def app(self, hosts: list[str]) -> Starlette:
        """Return the application; `hosts` are the accepted values of the Host header, ["*"] for any."""
        return Starlette(
            routes=[Route("/", self.show_page), Route("/predict", self.predict, methods=["POST"])],
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
            exception_handlers={HTTPException: _error_response},
        )

    async def show_page(self, _: Request) -> Response:
        """Return the page."""
        return HTMLResponse(self.page, headers={"Content-Security-Policy": self.policy, **RESPONSE_HEADERS})

    async def predict(self, request: Request) -> Response:
        """Return the mask. Statuses: 400 unreadable image, 408 upload too slow, 413 too large, 503 overloaded or timeout."""
        self._refuse_overload()
        try:
            mask, record = await self._answer(await self._body(request))
        except TimeoutError:
            raise HTTPException(503, tr("not finished within {seconds:g} s", seconds=self.timeout_s)) from None
        except ImageTooLargeError as error:
            raise HTTPException(413, str(error)) from None
        except InvalidFileError as error:
            raise HTTPException(400, str(error)) from None
        except AppError as error:  # out of memory
            raise HTTPException(503, str(error)) from None
        except asyncio.CancelledError:  # by Ctrl-C, which would print a traceback of this request
            raise HTTPException(503, tr("the server is shutting down")) from None
        if "application/json" in request.headers.get("accept", ""):
            return JSONResponse(
                {**record, "mask_png_base64": base64.b64encode(mask).decode()}, headers=RESPONSE_HEADERS
            )
        return Response(mask, media_type="image/png", headers=RESPONSE_HEADERS)

    async def _answer(self, data: bytes) -> tuple[bytes, dict[str, Any]]:
        """Predict an image when the others are done. Raise TimeoutError."""
        self._refuse_overload()  # again: requests wait from here, so that slow uploads keep nobody waiting
        self._waiting += 1
        try:
            work = asyncio.get_running_loop().run_in_executor(self._thread, self._predict, data)
            return await asyncio.wait_for(work, self.timeout_s)
        finally:
            self._waiting -= 1

    def _refuse_overload(self) -> None:
        if self._waiting > MAX_WAITING:
            raise HTTPException(503, tr("too many requests: try again later"))

    async def _body(self, request: Request) -> bytes:
        """Read the request body, at most `max_bytes` of it, whatever its Content-Length says."""
        too_large = HTTPException(413, tr("expected at most {max_bytes:,} bytes", max_bytes=self.max_bytes))
        declared = request.headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > self.max_bytes:
            raise too_large
        try:
            return await self._uploads.receive(request.stream())
        except TooLargeError:
            raise too_large from None
        except TimeoutError:
            raise HTTPException(408, tr("the upload took too long")) from None
        except ClientDisconnect:
            raise HTTPException(400, tr("the connection was closed during the upload")) from None

    def _predict(self, data: bytes) -> tuple[bytes, dict[str, Any]]:
        """Return the mask as PNG, and its record for the JSON response."""
        raw = decode_raw(data, self.predictor.model.reading, self.max_pixels)
        image = to_channels(raw, self.predictor.model.reading)
        sha256 = hashlib.sha256(data).hexdigest()
        (prediction,) = self.predictor.predict([self.predictor.prepare(image, sha256)])
        mask = encode_mask(prediction.indices, self.classes, self.origin)
        height, width = prediction.indices.shape
        shares = compute_class_shares(prediction.indices, self.classes)
        return mask, {
            "height": height, "width": width, "class_shares": shares, "input_sha256": sha256,
            "mask_sha256": hashlib.sha256(mask).hexdigest(), **({"truncated": True} if raw.truncated else {}),
            **self.origin,
        }  # fmt: skip


RESPONSE_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}


async def _error_response(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # the handler is registered for nothing else
    # The rest of the body is not read, so the connection cannot serve another request.
    return JSONResponse(
        {"error": error.detail},
        error.status_code,
        headers={**(error.headers or {}), **RESPONSE_HEADERS, "Connection": "close"},
    )


def render_page(service: Service) -> tuple[str, str]:
    """Return the page and its Content-Security-Policy, which allows only its own style and script, by hash."""
    classes = service.classes
    content = {
        "language": current_language(),
        "title": str(service.origin["model_version"] or tr("run") + f" {service.origin['run_id']}"),
        "text": _texts(service),
        "max_bytes": service.max_bytes,
        "origin": service.origin,
        "colors": {name: f"rgb{color}" for name, color in zip(classes.names, classes.colors, strict=True)},
    }
    policy = content_policy(TEMPLATE, "blob: data:", "; connect-src 'self'; frame-ancestors 'none'")
    return render(TEMPLATE, data=content), policy


def _texts(service: Service) -> dict[str, str]:
    megabytes, megapixels = service.max_bytes / 1e6, service.max_pixels / 1e6
    return {
        "drop": tr("Drop an image here, or click to choose one"),
        "limits": tr("up to {megabytes:g} MB and {megapixels:g} megapixels", megabytes=megabytes, megapixels=megapixels),
        "opacity": tr("opacity of the mask"),
        "save": tr("save the mask (PNG)"),
        "wait": tr("predicting…"),
        "large": tr("the file is too large"),
        "lost": tr("the server does not respond"),
        "origin": tr("origin of the model"),
    }  # fmt: skip


def is_loopback(host: str) -> bool:
    """Return whether a server at this address can only be reached from this machine."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def configure(app: Starlette) -> uvicorn.Config:
    """Return the configuration of the HTTP server."""
    return uvicorn.Config(
        app,
        http=LimitedProtocol,
        log_config=None,
        log_level="error",  # invalid requests would fill the console
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=SHUTDOWN_S,
    )


def serve(predictor: Predictor, lineage: Origin, settings: Settings, host: str, port: int) -> NoReturn:
    """Serve until Ctrl-C, which raises KeyboardInterrupt. Raises UsageError for an address that cannot be used."""
    listener = open_listener(host, port)
    local = is_loopback(host)
    if not local:
        warn(tr("{host}: anyone who can reach this machine can use the server without a password", host=host))
    service = Service(predictor, describe_origin(predictor, lineage), settings)
    config = configure(service.app([*LOOPBACK, host, f"[{host}]"] if local else ["*"]))
    with listener:
        address = f"[{host}]" if ":" in host else host
        url = f"http://{address}:{listener.getsockname()[1]}/"
        notify(tr("serving at {url} (Ctrl-C to stop)", url=url))
        uvicorn.Server(config).run(sockets=[listener])
    raise KeyboardInterrupt  # uvicorn only returns after a signal


def open_listener(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises UsageError for an address that cannot be used."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UsageError(
            tr(
                "cannot listen at {host}:{port} ({error}): choose another --port or --host",
                host=host,
                port=port,
                error=error,
            )
        ) from error
