"""Links of what infer.py wrote to a disk: predictions.json, the record of a video, a mask with its origin as PNG text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from config import ROOT
from core.errors import AppError, UsageError
from core.files import safe_join
from core.hashing import file_sha256
from core.i18n import tr, trn
from core.reporting import progress
from core.safety import checksummed_json
from inference.formats import ENSEMBLE, LISTING, OWN_FILES, VIDEO_RECORD_SUFFIX
from lineage.links import LINEAGE_KEYS, MODEL_METRICS, Facts, Link, format_metric, hash_mismatch, member_fact
from utils.identifiers import NONE


def find_record(folder: Path) -> Path | None:
    """Return the file that lists the predictions in a directory, or None. Raises UsageError for several videos."""
    if (folder / LISTING).is_file():
        return folder / LISTING
    videos = sorted(folder.glob(f"*{VIDEO_RECORD_SUFFIX}"))
    if len(videos) > 1:
        names = ", ".join(path.name for path in videos[:10])
        raise UsageError(tr("{folder}: contains several videos, name one: {names}", folder=folder, names=names))
    return videos[0] if videos else None


def prediction_link(path: Path) -> Link | None:
    """Return the link of a record, of a file that a record lists, or of a mask with PNG text; None for other files.

    Raises AppError for a record or PNG file that cannot be read.
    """
    path = path.absolute()
    if path.name == LISTING or path.name.endswith(VIDEO_RECORD_SUFFIX):
        return _whole_record_link(path)
    video_record = path.with_name(path.stem.removesuffix(Path(VIDEO_RECORD_SUFFIX).stem) + VIDEO_RECORD_SUFFIX)
    listings = (folder / LISTING for folder in path.parents)
    listing = next(filter(Path.is_file, listings), None)
    for record in (video_record, listing):
        link = _listed_file_link(path, record) if record is not None and record.is_file() else None
        if link is not None:
            return link
    return _png_text_link(path) if path.suffix.lower() == ".png" else None


@dataclass
class _Record:
    """A parsed predictions.json, or record of a video."""

    path: Path
    content: dict[str, Any]
    facts: Facts
    images: list[dict[str, Any]]  # the records of images; of a video its only one
    files: dict[str, str | None]  # files of the whole directory, below it -> SHA-256


def _read_record(path: Path) -> _Record:
    try:
        content: dict[str, Any] = dict(checksummed_json.parse_json(path.read_text(encoding="utf-8")))
        images = [dict(image) for image in content["images"]] if "images" in content else [content]
        return _Record(path, content, _record_facts(content), images, dict(content.get("files", {})))
    except (ValueError, KeyError, TypeError) as error:
        raise AppError(tr("{record}: not a readable record ({error})", record=path, error=error)) from error


def _whole_record_link(path: Path) -> Link:
    """Return the link of a record; a fault for each file of it that changed."""
    record = _read_record(path)
    return _record_link(path, record, record.images, record.files)


def _listed_file_link(path: Path, record_path: Path) -> Link | None:
    """Return the link of one file of a record; None if the record does not list it."""
    record = _read_record(record_path)
    name = path.relative_to(record_path.parent).as_posix()
    files = {key: sha256 for key, sha256 in record.files.items() if key == name}
    images = [image for image in record.images if name in map(image.get, OWN_FILES)]
    if not images and not files:
        return None
    return _record_link(path, record, images, files)


def _record_link(path: Path, record: _Record, images: Sequence[dict[str, Any]], files: dict[str, str | None]) -> Link:
    link = Link(tr("prediction"), str(path), facts=record.facts)
    link.export = "onnx" if record.content.get("engine") == "onnxruntime" else None
    link.faults += _checksum_faults(record)
    for image in images:
        files |= {str(image[key]): image.get(f"{key}_sha256") for key in OWN_FILES if key in image}
    link.faults += _file_faults(record.path.parent, files)
    link.note = trn("{count} file", "{count} files", len(files))
    if record.content.get("split") is None:  # else the images are those of the data commit
        faults, missing = _check_inputs(images)
        link.faults += faults
        if missing:
            link.note += trn(
                ", {count} input file not found, not checked", ", {count} input files not found, not checked", missing
            )
    return link


def _record_facts(content: dict[str, Any]) -> Facts:
    """Return what a record states about the chain. Raises KeyError and TypeError for JSON that is not a record."""
    facts = _known({key: str(content[key]) for key in LINEAGE_KEYS})
    if "git_dirty" in content:
        facts["git_dirty"] = str(content["git_dirty"])
    if content.get("model_version"):
        facts["version"] = str(content["model_version"])
    facts |= {member_fact(str(member["file"])): str(member["sha256"]) for member in content.get(ENSEMBLE, ())}
    metrics = dict(content.get("model_metrics", {}))
    return facts | {key: format_metric(metrics[key]) for key in MODEL_METRICS if key in metrics}


def _known(facts: Facts) -> Facts:
    """Return facts without run and paths of lakeFS that were not known: a model file may come without its records."""
    return {key: value for key, value in facts.items() if value != NONE or key == "git_commit"}


def _checksum_faults(record: _Record) -> Iterator[str]:
    """Yield what the record's own checksum shows."""
    intact = checksummed_json.verify_checksum(record.content)
    if intact is None:  # written by older code, or the name of the entry was changed
        yield tr("{record}: has no {key}, so changes cannot be detected", record=record.path, key=checksummed_json.KEY)
    elif not intact:
        yield tr("{record}: changed since it was written", record=record.path)


def _file_faults(folder: Path, files: dict[str, str | None]) -> Iterator[str]:
    """Yield the files below a directory that are missing or have another SHA-256."""
    for name, expected in progress(files.items(), len(files), tr("verifying the predictions"), tr("files")):
        path = safe_join(folder, name)
        found = file_sha256(path) if path.is_file() else tr("missing")
        if found != expected:
            yield hash_mismatch(str(path), str(expected), found)


def _check_inputs(images: Sequence[dict[str, Any]]) -> tuple[list[str], int]:
    """Return the input files that changed since they were predicted, and the number of those that are not found."""
    faults, missing = [], 0
    for image in progress(images, len(images), tr("verifying the input images"), tr("images")):
        path, expected = Path(str(image.get("input"))), str(image.get("input_sha256"))
        existing = next((place for place in (path, ROOT / path) if place.is_file()), None)
        if existing is None:
            missing += 1
        elif (found := file_sha256(existing)) != expected:
            faults.append(hash_mismatch(str(existing), expected, found))
    return faults, missing


def _png_text_link(path: Path) -> Link | None:
    """Return the link of a mask apart from its listing, or of `POST /predict`; None for a PNG without lineage text.

    Raises AppError for a file that is not a readable PNG.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            text = {str(key): str(value) for key, value in image.info.items()}
            image.verify()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise AppError(tr("{path}: not a readable PNG ({error})", path=path, error=error)) from error
    if not all(key in text for key in LINEAGE_KEYS):
        return None
    note = tr("found by its PNG text; its pixels are only protected by their CRC")
    link = Link(tr("prediction"), str(path), note, _known({key: text[key] for key in LINEAGE_KEYS}))
    if text.get("model_version", "None") != "None":
        link.facts["version"] = text["model_version"]
    return link
