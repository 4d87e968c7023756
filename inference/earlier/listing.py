"""Read predictions.json and the records of its images, which people and other programs may have changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import AppError, UsageError
from core.i18n import tr
from core.safety.json_object import JsonObject
from inference.formats import LISTING, OWN_FILES


def read_listing(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the content of predictions.json and the records of its images. Raises UsageError if it is not valid."""
    path = folder / LISTING
    found = JsonObject.parse(
        path.read_bytes(), path, tr("infer.py did not write this: move or remove the file"), UsageError
    )
    if "images" not in found:
        raise found.invalid("images", tr("a list"))
    files = found.child("files")
    for name in files.content:
        files.text(name)
    return found.content, [check_record(record) for record in found.objects("images")]


def check_record(record: JsonObject) -> dict[str, Any]:
    """Return the record of an image, in which the names and hashes of its files are texts. Raises the object's error.

    Of the rest, earlier versions wrote less: see `is_complete`.
    """
    for key in ("mask", *(key for key in OWN_FILES if key in record)):
        record.text(key)
        if f"{key}_sha256" in record:
            record.text(f"{key}_sha256")
    return record.content


def _check_drift(drift: JsonObject) -> None:
    """Raise the object's error unless it says how far an image is from those of the training."""
    drift.number("score")
    drift.texts("reasons")
    if type(drift.content.get("flagged")) is not bool:
        raise drift.invalid("flagged", tr("true or false"))


def is_complete(record: Mapping[str, Any]) -> bool:
    """Return whether a record has everything that the listing and the gallery of a resumed job need of it."""
    found = JsonObject(dict(record), LISTING, "")
    try:
        for key in ("input", "input_sha256"):
            found.text(key)
        sizes = found.count("height"), found.count("width")
        shares = found.named_numbers("class_shares").values()
        for key in ("uncertainty", "confidence", "accuracy", "miou"):
            if key in found:
                found.number(key)
        if "drift" in found:
            _check_drift(found.child("drift"))
        found.named_numbers("iou")
        if "classes" in found:
            found.text("classes")
    except AppError:
        return False
    return "class_shares" in found and all(sizes) and all(share is not None and 0 <= share <= 1 for share in shares)
