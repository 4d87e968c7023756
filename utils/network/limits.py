"""Limits of what a server may answer: size, compression, redirects, pages of a listing. Each is a one-line error."""

from __future__ import annotations

import io
import ipaddress
import reprlib
import zlib
from collections.abc import Hashable
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

import urllib3

from core.errors import AppError
from core.i18n import tr
from utils.identifiers import ObjectPath

MAX_BODY_BYTES = 16 << 20  # of an answer that is read into memory; a page of 1,000 objects has 4 MiB at most
MAX_PAGES = 20_000  # of one listing
MAX_REDIRECTS = 3
MAX_ARTIFACTS, MAX_DEPTH = 10_000, 16  # of a directory of artifacts that is downloaded: its entries, its levels
_BLOCK = 1 << 16  # bytes read at a time
_GZIP_OR_ZLIB = 47  # window bits of zlib: detects either header
_PORTS = {"http": 80, "https": 443}


class LimitExceeded(AppError):
    """Answer of a server that exceeds a limit, or leads elsewhere."""


def read_body(response: urllib3.BaseHTTPResponse) -> bytes:
    """Return the decompressed body of a response that was requested with `preload_content=False`, `decode_content=False`.

    It holds at most `MAX_BODY_BYTES` in memory. Raises LimitExceeded, or HTTPError if the connection breaks.
    """
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "x-gzip", "deflate"):
        raise LimitExceeded(tr("the response has the unknown encoding {encoding}", encoding=reprlib.repr(encoding)))
    decoder = None if encoding in ("identity", "") else zlib.decompressobj(_GZIP_OR_ZLIB)
    body = bytearray()
    while chunk := response.read(_BLOCK, decode_content=False):
        try:
            body += chunk if decoder is None else decoder.decompress(chunk, MAX_BODY_BYTES + 1 - len(body))
        except zlib.error as error:
            raise LimitExceeded(tr("the response is not valid {encoding}", encoding=encoding)) from error
        if len(body) > MAX_BODY_BYTES:
            raise LimitExceeded(tr("the response has more than {limit} MiB", limit=MAX_BODY_BYTES >> 20))
    return bytes(body)


def with_body(response: urllib3.BaseHTTPResponse, body: bytes) -> urllib3.HTTPResponse:
    """Return a response with a body that was read; its charset is removed, as JSON is UTF-8 and some decoders are slow."""
    dropped = ("content-encoding", "content-length", "transfer-encoding", "content-type")
    headers = {name: value for name, value in response.headers.items() if name.lower() not in dropped}
    headers["Content-Type"] = response.headers.get("Content-Type", "").split(";")[0]
    made = io.BytesIO(body)  # of an empty `bytes`, urllib3 would make None
    return urllib3.HTTPResponse(made, headers, response.status, reason=response.reason, retries=response.retries)


class PageLimit:
    """Limits of one listing: its number of pages, the entries of a page, and that it never returns to a page."""

    def __init__(self, entries: int) -> None:
        """`entries`: the number that was asked for per page."""
        self.entries, self.seen = entries, set[Hashable]()

    def check(self, count: int, following: Hashable) -> None:
        """Check a page of `count` entries and the token of the next one (None: there is none). Raises LimitExceeded."""
        if count > self.entries:
            raise LimitExceeded(
                tr("a page has {count} entries, expected at most {limit}", count=count, limit=self.entries)
            )
        if following is None:
            return
        if following in self.seen:
            raise LimitExceeded(
                tr("the listing returns to a page that it had before ({token})", token=reprlib.repr(following))
            )
        self.seen.add(following)
        if len(self.seen) >= MAX_PAGES:
            raise LimitExceeded(tr("the listing has more than {limit} pages", limit=MAX_PAGES))


def check_artifacts(repository: Any, path: str) -> None:
    """Check what MLflow's ArtifactRepository lists below a path, before MLflow downloads it.

    Raises LimitExceeded for too many entries, and for a directory that contains itself; InvalidValue for a path that leads
    elsewhere.
    """
    pending, count = [path], 0
    while pending:
        place = pending.pop()
        for entry in repository.list_artifacts(place):
            name, count = ObjectPath(entry.path), count + 1
            if not name.startswith(f"{place}/" if place else "") or name.count("/") >= MAX_DEPTH:
                raise LimitExceeded(
                    tr("the listing of {place} returns {name}", place=place[:80], name=reprlib.repr(name))
                )
            if count > MAX_ARTIFACTS:
                raise LimitExceeded(
                    tr("{place} has more than {limit} artifacts", place=place[:80], limit=MAX_ARTIFACTS)
                )
            if entry.is_dir:
                pending.append(name)


def follow_redirect(method: str, url: str, location: str, followed: int) -> str:
    """Return the URL that a redirect leads to: of the same server only. Raises LimitExceeded."""
    target = _split(location, url)
    if method not in ("GET", "HEAD") or _origin(target) != _origin(_split(url)) or target.username is not None:
        shown = f"{target.scheme}://{target.hostname}" if target.hostname else target.scheme
        raise LimitExceeded(
            tr(
                "the server redirects to {target}, which is not followed: correct the URL of the server",
                target=shown[:200],
            )
        )
    if followed >= MAX_REDIRECTS:
        raise LimitExceeded(tr("the server redirects more than {limit} times", limit=MAX_REDIRECTS))
    return target.geturl()


def check_link(link: object, api: str) -> str:
    """Return a presigned link that a lakeFS server answered. Raises LimitExceeded for one that must not be followed.

    Its host is another one by design, which no setting names; requests to it carry no keys. It must be http or https, not
    less secure than the server's own URL `api`, and not lead to this machine unless the server is on it.
    """
    if not isinstance(link, str):
        raise LimitExceeded(tr("the presigned link is not a URL: {link}", link=reprlib.repr(link)))
    target, server = _split(link), _split(api)
    host = target.hostname or ""
    allowed = target.scheme == "https" or (target.scheme == "http" and server.scheme == "http")
    if not allowed or not host or target.username is not None or not link.isascii() or any(map(str.isspace, link)):
        shown = f"{target.scheme}://{host}"
        raise LimitExceeded(
            tr("the presigned link leads to {target}, which is not followed", target=reprlib.repr(shown))
        )
    check_address(host, is_loopback(server.hostname or ""))
    return link


def check_address(host: str, loopback_allowed: bool) -> None:
    """Raise LimitExceeded for the host or address of a presigned link that only this machine or its cloud can reach."""
    address = _address(host)
    special = address is not None and (address.is_link_local or address.is_multicast or address.is_unspecified)
    if special or (is_loopback(host) and not loopback_allowed):
        raise LimitExceeded(
            tr(
                "the presigned link leads to {target}, which is not followed: check the server's "
                "LAKEFS_BLOCKSTORE_S3_PRE_SIGNED_ENDPOINT",
                target=host[:200],
            )
        )


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is that of this machine."""
    address = _address(host)
    return host.lower().rstrip(".") == "localhost" or (address is not None and address.is_loopback)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that a host is; None for a name."""
    try:
        address = ipaddress.ip_address(host.split("%", maxsplit=1)[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _split(url: str, base: str = "") -> SplitResult:
    """Split a URL, which may be relative to a base. Raises LimitExceeded for an invalid one."""
    try:
        parts = urlsplit(urljoin(base, url))
        _ = parts.port
    except ValueError as error:
        raise LimitExceeded(tr("the server names an invalid URL: {url}", url=reprlib.repr(url))) from error
    return parts


def _origin(parts: SplitResult) -> tuple[str, str, int | None]:
    return parts.scheme, (parts.hostname or "").lower(), parts.port or _PORTS.get(parts.scheme)
