"""Tell the files that infer.py wrote from all others, so that it never replaces or removes somebody's work.

Every output carries the model's lakeFS path and SHA-256: a mask as PNG text, an overlay as JPEG comment, probabilities
as an array, a video as a metadata comment, the gallery as a meta element. A finished directory also has a listing with
the SHA-256 of each file, which shows whether a file was edited afterwards.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from core.errors import UsageError
from core.hashing import file_sha256
from core.i18n import tr, trn
from core.safety.checksummed_json import parse_json, verify_checksum
from dataset.classes import abbreviate
from dataset.directory import OUTPUT_FOLDER, is_image
from inference.formats import LISTING, OWN_FILES

ORIGIN_KEYS = ("lakefs_model_path", "model_sha256")  # both are in every output
GALLERY_MARK = b'<meta name="generator" content="infer.py">'
HEAD_BYTES = 4096  # PNG text and JPEG comments are written before the pixels


def is_prediction(path: Path) -> bool:
    """Return whether this file carries the mark of infer.py. Reads its head only; False for a link."""
    if path.is_symlink() or not path.is_file():
        return False
    suffix = path.suffix.lower()
    try:
        if suffix == ".mp4":
            return _has_origin(_video_comment(path).encode())
        if suffix == ".npz":
            with zipfile.ZipFile(path) as arrays:
                return "origin.npy" in arrays.namelist()
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except (OSError, zipfile.BadZipFile):
        return False
    return GALLERY_MARK in head if suffix == ".html" else _has_origin(head)


def _has_origin(head: bytes) -> bool:
    return all(key.encode() in head for key in ORIGIN_KEYS)


def _video_comment(path: Path) -> str:
    import av

    try:
        with av.open(str(path), options={"protocol_whitelist": "file"}) as video:
            return str(video.metadata.get("comment", ""))
    except av.error.FFmpegError:
        return ""


def listed_files(folder: Path) -> dict[str, str]:
    """Return relative path -> SHA-256 of the files in a directory's listing; empty without an unchanged listing."""
    try:
        content = parse_json((folder / LISTING).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict) or verify_checksum(content) is False:
        return {}
    images, files = content.get("images"), content.get("files", {})
    if not isinstance(images, list) or not isinstance(files, dict):
        return {}
    found = {str(name): str(sha256) for name, sha256 in files.items()}
    for record in images:
        found |= record_files(record) if isinstance(record, dict) else {}
    return found


def record_files(record: Mapping[str, object]) -> dict[str, str]:
    """Return relative path -> SHA-256 of the files of an image's record; files without a SHA-256 are left out."""
    keys = [key for key in OWN_FILES if key in record and f"{key}_sha256" in record]
    return {str(record[key]): str(record[f"{key}_sha256"]) for key in keys}


def video_files(record: Path) -> dict[str, str]:
    """Return name -> SHA-256 of a video and its record, from the record; empty without an unchanged record."""
    try:
        content = parse_json(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if (
        not isinstance(content, dict)
        or not verify_checksum(content)
        or not {"overlay", "overlay_sha256"} <= content.keys()
    ):
        return {}
    return {str(content["overlay"]): str(content["overlay_sha256"]), record.name: file_sha256(record)}


def may_replace(path: Path, listed_sha256: str | None) -> bool:
    """Return whether infer.py may replace or remove this file: absent, or written by it and not changed since.

    An empty file that is listed is what a power failure leaves of one.
    """
    if not os.path.lexists(path):
        return True
    if path.is_symlink() or not path.is_file():
        return False
    if listed_sha256 is None:
        return is_prediction(path)
    return path.stat().st_size == 0 or file_sha256(path) == listed_sha256


def reject_replacing(folder: Path, targets: Iterable[str], listed: Mapping[str, str]) -> None:
    """Raise UsageError if a target is a file that infer.py did not write; paths are relative to `folder`."""
    foreign = [name for name in targets if not may_replace(folder / name, listed.get(name))]
    if not foreign:
        return
    raise UsageError(
        trn(
            "{folder}: {count} file would be replaced that infer.py did not write, or that was changed "
            "since ({names}): move it, or choose another --output",
            "{folder}: {count} files would be replaced that infer.py did not write, or that were changed "
            "since ({names}): move them, or choose another --output",
            len(foreign),
            folder=folder,
            names=abbreviate(foreign, 3),
        )
    )


def reject_other_images(folder: Path, targets: Iterable[str], listed: Mapping[str, str]) -> None:
    """Raise UsageError if a target is beside images that infer.py did not write; paths are relative to `folder`.

    They show a directory of inputs or of labels, where predictions would be taken for labels later.
    """
    for parent in sorted({(folder / name).parent for name in targets}):
        others = [path.name for path in _images_in(parent) if not _is_own(path, folder, listed)]
        if others:
            raise UsageError(
                trn(
                    "{parent}: contains {count} image that infer.py did not write ({names}): choose another --output",
                    "{parent}: contains {count} images that infer.py did not write ({names}): choose another --output",
                    len(others),
                    parent=parent,
                    names=abbreviate(others, 3),
                )
            )


def _images_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if is_image(path.name) and not path.name.startswith("."))


def _is_own(path: Path, folder: Path, listed: Mapping[str, str]) -> bool:
    return path.relative_to(folder).as_posix() in listed or is_prediction(path)


def reject_data_directory(output: Path, data_dir: Path) -> None:
    """Raise UsageError for an output directory whose files would be committed as data."""
    place, root = output.resolve(), data_dir.resolve()
    if place.is_relative_to(root) and place.relative_to(root).parts[:1] != (OUTPUT_FOLDER,):
        raise UsageError(
            tr(
                "--output {output}: inside the data directory, where it would become part of the data: use {allowed}",
                output=output,
                allowed=data_dir / OUTPUT_FOLDER,
            )
        )
