"""`infer.py --serve`: a page that shows the mask of a dropped image, and `POST /predict` for programs.

The body of `POST /predict` is an image file, or a form with one. The response is the mask as palette PNG, or JSON if
`Accept` requests it. `/docs` describes all paths.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import contextvars
import hashlib
import ipaddress
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from config import Settings
from core.errors import AppError, UsageError
from core.i18n import LANGUAGES, current_language, language_scope, tr
from core.reporting import notify, warn
from dataset.classes import InvalidFileError, UInt8
from dataset.decoding.files import ImageTooLargeError
from dataset.decoding.image import to_channels
from dataset.decoding.samples import decode_raw
from inference.origin import describe_origin
from inference.outputs import compute_class_shares, encode_mask
from inference.serving import answers, forms, pages
from inference.serving.answers import HEADERS, refuse
from inference.serving.connections import LimitedProtocol
from inference.serving.example import encode_preview, find_example
from inference.serving.front import ANY_HOST, Front
from inference.serving.metrics import PACKAGE, Metrics
from inference.serving.openapi import API_VERSION, describe_api
from inference.serving.uploads import TooLargeError, Uploads
from inference.tally import reliability_record
from segmentation.predictor import Predictor
from utils.lineage import Origin

T = TypeVar("T")
MAX_WAITING = 8  # images that may wait for the one being predicted; more are rejected
SHUTDOWN_S = 3  # seconds that open requests have to finish after Ctrl-C
LOOPBACK = ["127.0.0.1", "localhost", "::1"]
PATHS = ("/", "/predict", "/example", "/healthz", "/metrics", "/openapi.json", "/docs")
MODEL_LABELS = ("model_version", "run_id", "model_sha256", "git_commit")  # of the metrics


class Service:
    """One model behind HTTP; `origin` has at least the keys outputs.PNG_TEXT_KEYS.

    Images are predicted one at a time: each uses all cores, and memory for one image is enough. `example_data` is the
    data directory that an example may be shown of; None: no example.
    """

    def __init__(
        self, predictor: Predictor, origin: dict[str, Any], settings: Settings, example_data: Path | None = None
    ) -> None:
        self.predictor, self.origin, self.classes = predictor, origin, predictor.model.classes
        self.max_bytes = int(settings.serve_max_mb * 1e6)
        self.max_pixels = int(settings.serve_max_megapixels * 1e6)
        self.timeout_s = settings.serve_timeout_s
        self.schemas = {language: self._describe(language) for language in LANGUAGES}
        self.page = pages.render_serve(
            self.classes, origin, self.max_bytes, self.max_pixels, example=example_data is not None
        )
        self.api_page = pages.render_api(self.schemas)
        self.metrics = Metrics({key: str(origin.get(key) or "none") for key in MODEL_LABELS}, PATHS)
        self._example_data = example_data
        self._example: dict[str, Any] | None = None
        self._thread = ThreadPoolExecutor(1)
        self._waiting = 0
        self._running_since: float | None = None  # of time.monotonic, while an image is predicted
        self._uploads = Uploads(self.timeout_s, self.max_bytes * (MAX_WAITING + 1))

    def app(self, hosts: list[str]) -> Starlette:
        """Return the application; `hosts` are the accepted values of the Host header, [ANY_HOST] for any."""
        return Starlette(
            routes=[
                Route("/", self.show_page),
                Route("/predict", self.predict, methods=["POST"]),
                Route("/example", self.show_example),
                Route("/healthz", self.show_health),
                Route("/metrics", self.show_metrics),
                Route("/openapi.json", self.show_schema),
                Route("/docs", self.show_api),
            ],
            middleware=[Middleware(Front, hosts=hosts, metrics=self.metrics)],
            exception_handlers={
                404: answers.not_found,
                405: answers.wrong_method,
                HTTPException: answers.http_error,
            },
        )

    async def show_page(self, _: Request) -> Response:
        """Return the page."""
        return _html(self.page)

    async def show_api(self, _: Request) -> Response:
        """Return the description of the API as a page."""
        return _html(self.api_page)

    async def show_schema(self, _: Request) -> Response:
        """Return the description of the API as OpenAPI."""
        return JSONResponse(self.schemas[current_language()], headers=HEADERS)

    async def show_health(self, _: Request) -> Response:
        """Return which model is loaded; 503 if a prediction takes longer than its time limit, as one that hangs does."""
        since = self._running_since
        if since is not None and time.monotonic() - since > self.timeout_s:
            refuse(503, tr("a prediction is not finished within {seconds:g} s", seconds=self.timeout_s))
        return JSONResponse(
            {
                "status": "ok",
                "model_version": self.origin["model_version"],
                "run_id": self.origin["run_id"],
                "model_sha256": self.origin["model_sha256"],
                "api_version": API_VERSION,
                "waiting_images": self._waiting,
            },
            headers=HEADERS,
        )

    async def show_metrics(self, _: Request) -> Response:
        """Return the counters for Prometheus; 501 without its package."""
        found = self.metrics.render(self._waiting)
        if found is None:
            refuse(501, tr("/metrics needs one more package: pip install {package}", package=PACKAGE))
        return Response(found[0], headers={**HEADERS, "Content-Type": found[1]})

    async def show_example(self, _: Request) -> Response:
        """Return an image of the data directory with its prediction, as JSON; 404 if there is none to show."""
        if self._example_data is None:
            refuse(404, tr("no example: this server can be reached from other machines"))
        if self._example is None:
            self._example = await self._answer(self._predict_example) or {}
        if not self._example:
            refuse(404, tr("no example: {folder} has no image that can be shown", folder=self._example_data))
        return JSONResponse(self._example, headers=HEADERS)

    async def predict(self, request: Request) -> Response:
        """Return the mask. Statuses: 400 unreadable image, 408 upload too slow, 413 too large, 503 overloaded or timeout."""
        self._refuse_overload()
        content_type = request.headers.get("content-type", "")
        data = await self._body(request, forms.is_form(content_type))
        mask, record = await self._answer(lambda: self._predict(data, content_type))
        if "application/json" in request.headers.get("accept", ""):
            return JSONResponse({**record, "mask_png_base64": base64.b64encode(mask).decode()}, headers=HEADERS)
        return Response(mask, media_type="image/png", headers=HEADERS)

    async def _answer(self, task: Callable[[], T]) -> T:
        """Do a task of the model when the others are done. Raises HTTPException for whatever hinders it."""
        self._refuse_overload()  # again: requests wait from here, so that slow uploads keep nobody waiting
        self._waiting += 1
        context = contextvars.copy_context()  # has the language
        try:
            work = asyncio.get_running_loop().run_in_executor(self._thread, context.run, self._run, task)
            return await asyncio.wait_for(work, self.timeout_s)
        except TimeoutError:
            refuse(503, tr("not finished within {seconds:g} s", seconds=self.timeout_s))
        except (ImageTooLargeError, TooLargeError) as error:
            refuse(413, str(error))
        except (InvalidFileError, forms.FormError) as error:
            refuse(400, str(error))
        except AppError as error:  # out of memory
            refuse(503, str(error))
        except asyncio.CancelledError:  # by Ctrl-C, which would print a traceback of this request
            refuse(503, tr("the server is shutting down"))
        finally:
            self._waiting -= 1

    def _run(self, task: Callable[[], T]) -> T:
        """Do a task in the thread of the model."""
        self._running_since = time.monotonic()
        try:
            return task()
        finally:
            self._running_since = None

    def _refuse_overload(self) -> None:
        if self._waiting > MAX_WAITING:
            refuse(503, tr("too many requests: try again later"))

    async def _body(self, request: Request, form: bool) -> bytes:
        """Read the request body, at most `max_bytes` of it and of a form's frame, whatever its Content-Length says."""
        limit = self.max_bytes + (forms.OVERHEAD_BYTES if form else 0)
        declared = request.headers.get("content-length", "0")
        try:
            if declared.isdigit() and int(declared) > limit:
                raise TooLargeError
            return await self._uploads.receive(request.stream(), limit)
        except TooLargeError:
            refuse(413, self._too_large())
        except TimeoutError:
            refuse(408, tr("the upload took too long"))
        except ClientDisconnect:
            refuse(400, tr("the connection was closed during the upload"))

    def _too_large(self) -> str:
        return tr("expected at most {max_bytes:,} bytes", max_bytes=self.max_bytes)

    def _predict(self, data: bytes, content_type: str = "") -> tuple[bytes, dict[str, Any]]:
        """Return the mask as PNG, and its record for the JSON response."""
        if forms.is_form(content_type):
            data = forms.extract_file(data, content_type)
            if len(data) > self.max_bytes:
                raise TooLargeError(self._too_large())
        mask, record, _ = self._predict_image(data)
        self.metrics.count_image(record.get("drift"))
        return mask, record

    def _predict_image(self, data: bytes, page: int | None = None) -> tuple[bytes, dict[str, Any], UInt8]:
        """Return mask, record, and the pixels (H,W,C) uint8 of the image."""
        reading = self.predictor.model.reading
        raw = decode_raw(data, reading, self.max_pixels, page)
        image = to_channels(raw, reading)
        sha256 = hashlib.sha256(data).hexdigest()
        (prediction,) = self.predictor.predict([self.predictor.prepare(image, sha256)])
        mask = encode_mask(prediction.indices, self.classes, self.origin)
        height, width = prediction.indices.shape
        shares = compute_class_shares(prediction.indices, self.classes)
        return mask, {
            "height": height, "width": width, "class_shares": shares, "input_sha256": sha256,
            **reliability_record(prediction),
            "mask_sha256": hashlib.sha256(mask).hexdigest(), **({"truncated": True} if raw.truncated else {}),
            **self.origin,
        }, image  # fmt: skip

    def _predict_example(self) -> dict[str, Any] | None:
        """Return the example for the JSON response; None if there is no image that can be read."""
        example = find_example(self._example_data) if self._example_data is not None else None
        if example is None:
            return None
        try:
            if example.path.stat().st_size > self.max_bytes:
                return None
            mask, record, pixels = self._predict_image(example.path.read_bytes(), example.page)
        except (InvalidFileError, OSError):  # the data check reports it; a model may need other channels
            return None
        return {
            "name": example.name,
            "split": example.split,
            "image_png_base64": base64.b64encode(encode_preview(pixels)).decode(),
            "mask_png_base64": base64.b64encode(mask).decode(),
            **record,
        }

    def _describe(self, language: str) -> dict[str, Any]:
        with language_scope(language):
            return describe_api(pages.title_of(self.origin), self.max_bytes, self.max_pixels, self.timeout_s)


def _html(page: pages.Page) -> Response:
    """Return a page in the language of the request."""
    headers = {**HEADERS, "Content-Security-Policy": page.policy, "Content-Language": current_language()}
    return HTMLResponse(pages.text_of(page), headers=headers)


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
    # An image of the data directory is shown only to this machine: data may be private.
    service = Service(predictor, describe_origin(predictor, lineage), settings, settings.data_dir if local else None)
    config = configure(service.app([*LOOPBACK, host.lower()] if local else [ANY_HOST]))
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
