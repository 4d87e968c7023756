"""What every answer of `infer.py --serve` has in common: its headers, its language, and the form of an error."""

from __future__ import annotations

from http import HTTPStatus
from typing import NoReturn

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from core.i18n import LANGUAGES, current_language, tr

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Vary": "Accept, Accept-Language",
}
MAX_LANGUAGES = 20  # entries of Accept-Language that are read


def error(status: int, text: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return an error of one line.

    The rest of the request's body is not read, so the connection cannot serve another request.
    """
    return JSONResponse(
        {"error": text},
        status,
        headers={**HEADERS, "Content-Language": current_language(), "Connection": "close", **(headers or {})},
    )


def choose_language(headers: Headers) -> str:
    """Return the language that a client asks for, one of `LANGUAGES`; that of the console if it asks for no such one."""
    wanted: list[tuple[float, int, str]] = []
    for position, entry in enumerate(headers.get("accept-language", "").split(",")[:MAX_LANGUAGES]):
        name, _, weight = entry.partition(";")
        language = name.strip().lower().partition("-")[0]
        quality = _quality(weight)
        if language in LANGUAGES and quality > 0:
            wanted.append((-quality, position, language))
    return min(wanted)[2] if wanted else current_language()


def _quality(weight: str) -> float:
    """Return the number of ";q=0.8", 1 without one, 0 for anything else."""
    key, _, value = weight.strip().partition("=")
    if not key:
        return 1.0
    try:
        quality = float(value) if key.strip() == "q" else 0.0
    except ValueError:
        return 0.0
    return quality if 0 <= quality <= 1 else 0.0


async def http_error(_: Request, raised: Exception) -> Response:
    """Return the answer of an HTTPException, whose detail is a message of this program."""
    assert isinstance(raised, HTTPException)  # the handler is registered for nothing else
    return error(raised.status_code, raised.detail, dict(raised.headers or {}))


async def not_found(request: Request, raised: Exception) -> Response:
    """Return the answer for a path that does not exist, or for what a path does not have."""
    if isinstance(raised, HTTPException) and raised.detail != HTTPStatus.NOT_FOUND.phrase:  # the router's
        return await http_error(request, raised)
    return error(
        404, tr("{path}: not found; the paths are listed at {docs}", path=request.url.path, docs=_docs(request))
    )


async def wrong_method(request: Request, raised: Exception) -> Response:
    """Return the answer for a path that has other methods; that of /predict says how an image is sent."""
    assert isinstance(raised, HTTPException)
    headers = dict(raised.headers or {})
    allowed = headers.get("Allow", "GET")
    if request.url.path == "/predict":
        allowed = "POST"
    text = tr(
        "{path}: expected {allowed}, found {method}", path=request.url.path, allowed=allowed, method=request.method
    )
    if request.url.path == "/predict":
        text += "; " + tr("send an image: {command}; see {docs}", command=_command(request), docs=_docs(request))
    return error(405, text, {**headers, "Allow": allowed})


def refuse(status: int, text: str) -> NoReturn:
    """Raise the HTTPException of an error."""
    raise HTTPException(status, text)


def _command(request: Request) -> str:
    return f"curl -F file=@photo.png {request.base_url}predict"


def _docs(request: Request) -> str:
    return f"{request.base_url}docs"
