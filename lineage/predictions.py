"""What infer.py leaves on a disk, read again: predictions.json, the record of a video, a mask by the text in its PNG."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from config import ROOT
from core import checksummed_json
from core.errors import AppError, UsageError
from core.files import safe_join
from core.hashing import file_sha256
from core.i18n import tr
from lineage.links import FIGURES, ORIGIN, Link, differs, figure

LISTING, OF_A_VIDEO = "predictions.json", "_overlay.json"
OWN_FILES = ("mask", "overlay", "probabilities")  # keys of a record that name files


def record_of(folder: Path) -> Path | None:
    """What lists the predictions in a folder; None where nothing does. Raises UsageError for several videos."""
    if (folder / LISTING).is_file():
        return folder / LISTING
    videos = sorted(folder.glob(f"*{OF_A_VIDEO}"))
    if len(videos) > 1:
        names = ", ".join(path.name for path in videos[:10])
        raise UsageError(tr("{folder}: name one of its videos: {names}", folder=folder, names=names))
    return videos[0] if videos else None


def prediction(path: Path) -> Link | None:
    """A record, or a file that one lists, else a mask by its own text; None for anything else."""
    path = path.absolute()
    if path.name == LISTING or path.name.endswith(OF_A_VIDEO):
        return _recorded(path, path)
    of_a_video = path.with_name(path.stem.removesuffix(Path(OF_A_VIDEO).stem) + OF_A_VIDEO)
    listings = (folder / LISTING for folder in path.parents)
    for record in (of_a_video, next(filter(Path.is_file, listings), path)):
        link = _recorded(path, record) if record != path and record.is_file() else None
        if link is not None:
            return link
    return _by_text(path) if path.suffix.lower() == ".png" else None


def _recorded(path: Path, record: Path) -> Link | None:
    """What a record says of its origin, and whether it and its files are as they were written.

    Of a listing only the part about `path`, where that is one of its files; None where it is none of them.
    """
    link = Link(tr("prediction"), str(path))
    try:
        content: dict[str, Any] = dict(json.loads(record.read_text(encoding="utf-8")))
        link.facts = _facts(content)
        pictures = [dict(picture) for picture in content["images"]] if "images" in content else [content]
        files = dict(content.get("files", {}))
    except (ValueError, KeyError, TypeError) as error:
        raise AppError(tr("{record}: not a readable record ({error})", record=record, error=error)) from error
    if path != record:
        name = path.relative_to(record.parent).as_posix()
        files = {key: sha256 for key, sha256 in files.items() if key == name}
        pictures = [picture for picture in pictures if name in map(picture.get, OWN_FILES)]
        if not pictures and not files:
            return None
    link.export = "onnx" if content.get("engine") == "onnxruntime" else None
    link.faults += _changed(record, checksummed_json.verify_checksum(content))
    for picture in pictures:
        files |= {str(picture[key]): picture.get(f"{key}_sha256") for key in OWN_FILES if key in picture}
    link.faults += _broken(record.parent, files)
    link.note = tr("{count} files", count=len(files))
    if content.get("split") is None:  # else the pictures are those of the data
        broken, gone = _inputs(pictures)
        link.faults += broken
        if gone:
            link.note += tr(", {gone} inputs moved away, not checked", gone=gone)
    return link


def _facts(content: dict[str, Any]) -> dict[str, str]:
    """What a record says of the rest of the chain. Raises KeyError and TypeError for what is no record."""
    facts = {key: str(content[key]) for key in ORIGIN}
    if "git_dirty" in content:
        facts["git_dirty"] = str(content["git_dirty"])
    if content.get("model_version"):
        facts["version"] = str(content["model_version"])
    figures = dict(content.get("model_metrics", {}))
    return facts | {key: figure(figures[key]) for key in FIGURES if key in figures}


def _changed(record: Path, whole: bool | None) -> Iterator[str]:
    """What a record's own hash says of it."""
    if whole is None:  # older code wrote none; a changed name of the entry looks the same
        yield tr("{record}: has no {key}, so a change would not show", record=record, key=checksummed_json.KEY)
    elif not whole:
        yield tr("{record}: changed since it was written", record=record)


def _broken(folder: Path, files: dict[str, str | None]) -> Iterator[str]:
    """What is wrong with files below a folder."""
    for name, expected in files.items():
        path = safe_join(folder, name)
        found = file_sha256(path) if path.is_file() else tr("missing")
        if found != expected:
            yield differs(str(path), str(expected), found)


def _inputs(pictures: list[dict[str, Any]]) -> tuple[list[str], int]:
    """What is wrong with the pictures that were predicted, and how many of them are not where they were."""
    faults, gone = [], 0
    for picture in pictures:
        path, expected = Path(str(picture.get("input"))), str(picture.get("input_sha256"))
        there = next((place for place in (path, ROOT / path) if place.is_file()), None)
        found = file_sha256(there) if there else expected
        gone += there is None
        if found != expected:
            faults.append(differs(str(there), expected, found))
    return faults, gone


def _by_text(path: Path) -> Link | None:
    """A mask away from its listing, or of `POST /predict`; None for a PNG without origin. Raises AppError for no PNG."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            text = {str(key): str(value) for key, value in picture.info.items()}
            picture.verify()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise AppError(tr("{path}: not a readable PNG ({error})", path=path, error=error)) from error
    if not all(key in text for key in ORIGIN):
        return None
    note = tr("by the text in it: its pixels are checked by their CRC alone")
    link = Link(tr("prediction"), str(path), note, {key: text[key] for key in ORIGIN})
    if text.get("model_version", "None") != "None":
        link.facts["version"] = text["model_version"]
    return link
