"""The image in the body of a request: the body itself, or the file of a form (multipart/form-data)."""

from __future__ import annotations

from io import BytesIO
from typing import IO

from core.i18n import tr

FORM = "multipart/form-data"
OVERHEAD_BYTES = 64 * 1024  # of a form beside its file: boundaries, part headers, short fields
MAX_PARTS = 20
MAX_FIELD_BYTES = 500_000  # of the fields that are not files; the parser's own buffers of 64 KiB count too


class FormError(Exception):
    """A form that has not exactly one file, or cannot be read."""


def is_form(content_type: str) -> bool:
    """Return whether a Content-Type is that of a form with files, such as `curl -F` sends."""
    return content_type.partition(";")[0].strip().lower() == FORM


def extract_file(data: bytes, content_type: str) -> bytes:
    """Return the content of the one file of a form, whatever its field is called. Raises FormError.

    Its memory is bounded by that of the form: files stay in memory, parts and other fields are limited.
    """
    # The parser of Flask, which MLflow needs. python-multipart, which starlette would use, is not installed.
    from werkzeug.exceptions import HTTPException
    from werkzeug.formparser import FormDataParser
    from werkzeug.http import parse_options_header

    parser = FormDataParser(
        stream_factory=_in_memory, max_form_memory_size=MAX_FIELD_BYTES, max_form_parts=MAX_PARTS, silent=False
    )
    mimetype, options = parse_options_header(content_type)
    try:
        _, fields, files = parser.parse(BytesIO(data), mimetype, len(data), options)
    except (ValueError, HTTPException):
        raise FormError(tr("expected a form with one image file, found one that cannot be read")) from None
    found = [file for _, file in files.items(multi=True)]
    if len(found) != 1:
        text = tr("expected a form with one image file, such as curl -F file=@photo.png")
        text += "; " + tr("found files: {files}, other fields: {fields}", files=len(found), fields=len(list(fields)))
        raise FormError(text)
    return found[0].stream.read()


def _in_memory(
    total_content_length: int | None,  # noqa: ARG001  # the parser passes what it knows of the part
    content_type: str | None,  # noqa: ARG001
    filename: str | None,  # noqa: ARG001
    content_length: int | None = None,  # noqa: ARG001
) -> IO[bytes]:
    return BytesIO()
