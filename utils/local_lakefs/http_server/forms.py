"""Multipart forms: the content of their first part, and content types that are safe to store."""

import re
from collections.abc import Iterator
from email.message import Message

from .requests import MAX_HEAD_BYTES, BadRequest, RequestBody

CONTENT_TYPE = re.compile(r"[\t\x20-\x7e]*")
BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")  # RFC 2046 5.1.1
PART_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")


def check_content_type(text: str) -> str:
    """Return a content type. Raise BadRequest for one that is not printable ASCII: it comes back in response headers."""
    if not CONTENT_TYPE.fullmatch(text):
        raise BadRequest(f"Content-Type is not printable ASCII: {text!r}")
    return text


def _get_parameter(header: str, name: str) -> str:
    """Return a parameter of a header's value, "" if there is none."""
    message = Message()
    message["Content-Disposition"] = header
    found = message.get_param(name, "", "Content-Disposition")
    return found if isinstance(found, str) else ""  # a tuple stands for another character set (RFC 2231)


def read_form_content(body: RequestBody, form_type: str) -> tuple[str, Iterator[bytes]]:
    """Return the content type and the bytes of a multipart form's first part, which must be named `content`.

    `form_type` is the request's Content-Type. Raise BadRequest, also while the bytes are read.
    """
    boundary = _get_parameter(check_content_type(form_type), "boundary")
    if not BOUNDARY.fullmatch(boundary):
        raise BadRequest(f"the multipart form has no valid boundary: {form_type!r}")
    delimiter = f"\r\n--{boundary}".encode()
    pieces, buffer = iter(body), b"\r\n"
    while (end := buffer.find(b"\r\n\r\n")) < 0:
        if len(buffer) > MAX_HEAD_BYTES:
            raise BadRequest(f"the multipart form's first part has no headers within {MAX_HEAD_BYTES} bytes")
        buffer += _read_piece(pieces)
    first, *lines = buffer[:end].removeprefix(delimiter).decode("latin-1").split("\r\n")
    if not buffer.startswith(delimiter) or first.strip(" \t"):
        raise BadRequest("the multipart form does not begin with its boundary")
    headers = _parse_part_headers(lines)
    if _get_parameter(headers.get("content-disposition", ""), "name") != "content":
        raise BadRequest("the first part of the multipart form is not named 'content'")
    content_type = check_content_type(headers.get("content-type", ""))
    return content_type, _read_until(delimiter, buffer[end + 4 :], pieces)


def _parse_part_headers(lines: list[str]) -> dict[str, str]:
    """Return the headers of a part, names in lower case. Raise BadRequest."""
    headers: dict[str, str] = {}
    for line in lines:
        match = PART_HEADER.fullmatch(line)
        if not match or match[1].lower() in headers:
            raise BadRequest(f"invalid or repeated header in the multipart form: {line[:100]!r}")
        headers[match[1].lower()] = match[2].rstrip(" \t")
    return headers


def _read_until(delimiter: bytes, buffer: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield `buffer` and the pieces after it up to the delimiter."""
    while (end := buffer.find(delimiter)) < 0:
        cut = max(len(buffer) - len(delimiter), 0)  # the delimiter may begin after it
        yield buffer[:cut]
        buffer = buffer[cut:] + _read_piece(pieces)
    yield buffer[:end]


def _read_piece(pieces: Iterator[bytes]) -> bytes:
    if not (piece := next(pieces, b"")):
        raise BadRequest("the multipart form ends before its closing delimiter")
    return piece
