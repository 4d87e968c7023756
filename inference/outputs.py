"""An output directory: the files of each image, a journal of finished images, and predictions.json at the end."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import socket
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, PngImagePlugin

from core.errors import AppError, UsageError
from core.files import atomic_replace, remove_partial_files, safe_join, write_atomically
from core.hashing import file_sha256
from core.i18n import tr
from core.locks import lock_or_fail
from core.pages.cards import Panel
from core.reporting import warn
from core.safety.checksummed_json import with_checksum
from core.safety.json_object import JsonObject
from core.safety.spreadsheet import csv_bytes
from dataset.classes import ClassMap, UInt8
from dataset.overlay import JPEG_SIDE, overlay, within_jpeg
from inference.annotations import polygons
from inference.annotations.coco import coco_json
from inference.earlier import ownership
from inference.earlier.listing import check_record, read_listing
from inference.formats import JOURNAL, LABELME_SUFFIX, LISTING, UNCERTAINTY_SUFFIX
from inference.gallery import write_gallery
from inference.geo.georeference import MASK_SUFFIX, encode_geotiff, read_georeference
from segmentation.prediction import Prediction
from segmentation.predictor import Predictor
from segmentation.reliability.uncertainty import UInt16

LOCK, OWNER = ".predictions.lock", ".predictions.owner"  # while a process writes: its lock, and its process id
AREAS, COCO, POLYGONS = "areas.csv", "predictions_coco.json", "predictions_polygons.json"  # of the whole directory
GALLERY = "index.html"  # likewise
EXTRAS = ("probabilities", "uncertainty", "areas", "coco", "polygons")  # values of --extra
# Keys of the text in the PNG file of each mask; also needed of the origin that a server reports.
PNG_TEXT_KEYS = ("model_version", "run_id", "lakefs_model_path", "model_sha256", "lakefs_data_path", "git_commit")


@contextlib.contextmanager
def lock_output_dir(folder: Path) -> Iterator[None]:
    """Create the directory and lock it for this process. Raises UsageError if another process has locked it."""
    owner = folder / OWNER
    process = owner.read_text(encoding="utf-8") if owner.exists() else "?"
    lock = lock_or_fail(
        folder / LOCK,
        tr(
            "{folder}: process {process} is writing here: wait for it, or choose another --output",
            folder=folder,
            process=process,
        ),
    )
    try:
        with atomic_replace(owner, durable=False) as part:
            part.write_text(f"{os.getpid()} ({socket.gethostname()})", encoding="utf-8")
        yield
    finally:
        owner.unlink(missing_ok=True)
        Path(lock.lock_file).unlink(missing_ok=True)  # before the release: no other process can have locked it
        lock.release()


class OutputDirectory:
    """Writes below one directory only; `origin` becomes the PNG text of every mask, `extras` are from EXTRAS.

    `georeferenced` has the names of images whose masks become GeoTIFF files.
    """

    def __init__(
        self,
        folder: Path,
        classes: ClassMap,
        origin: dict[str, Any],
        extras: Collection[str] = (),
        georeferenced: Collection[str] = (),
    ) -> None:
        self.folder, self.classes, self.origin, self.extras = folder, classes, origin, extras
        self.georeferenced = frozenset(georeferenced)
        self.verified: frozenset[str] = frozenset()  # files of earlier jobs that were hashed and are unchanged
        self._check_parent_once = functools.cache(self._check_parent)  # resolves links: costs system calls

    def path_of(self, relative: str) -> Path:
        """Return the path of a file below the directory. Raises AppError for one outside, also through a link."""
        path = safe_join(self.folder, relative)
        self._check_parent_once(path.parent)
        return path

    def _check_parent(self, parent: Path) -> None:
        if not parent.resolve().is_relative_to(self.folder.resolve()):
            raise AppError(
                tr(
                    "{parent}: links to a place outside {folder}: remove it or choose another --output",
                    parent=parent,
                    folder=self.folder,
                )
            )

    def file_names(self, name: str) -> dict[str, str]:
        """Return the files of an image, relative to the directory, by their keys in a record."""
        suffix = MASK_SUFFIX if name in self.georeferenced else ".png"
        names = {"mask": f"{name}{suffix}", "overlay": f"{name}_overlay.jpg"}
        optional = {
            "probabilities": ("probabilities", f"{name}.npz"),
            "polygons": ("polygons", f"{name}{LABELME_SUFFIX}"),
            "uncertainty": ("uncertainty_map", f"{name}{UNCERTAINTY_SUFFIX}{suffix}"),
        }
        return names | dict(file for extra, file in optional.items() if extra in self.extras)

    def write(
        self, name: str, source: Path, image: UInt8, prediction: Prediction, page: int | None = None
    ) -> dict[str, Any]:
        """Write the files of an image and return their record: names and SHA-256; it is (a page of) the file `source`.

        These are the mask (PNG of mode P, with values, colours and origin; GeoTIFF with the coordinates of a
        georeferenced image), the overlay (JPEG) and, if requested, the probabilities (num_classes,H,W) float16 in an
        .npz file, the entropy of each pixel as grey values of 16 bits, and the outlines as a labelme file.
        """
        names, indices = self.file_names(name), prediction.indices
        content = {
            "mask": self._encode_mask(name, source, page, indices),
            "overlay": self._encode_overlay(names["overlay"], overlay(image, indices, self.classes)),
        }
        if prediction.probabilities is not None and "probabilities" in names:
            buffer = io.BytesIO()
            names_array, origin = np.array(self.classes.names), np.array(origin_comment(self.origin))
            np.savez_compressed(buffer, probabilities=prediction.probabilities, classes=names_array, origin=origin)
            content["probabilities"] = buffer.getvalue()
        if prediction.levels is not None and "uncertainty_map" in names:
            content["uncertainty_map"] = self._encode_levels(name, source, page, prediction.levels)
        if "polygons" in names:
            image_path = polygons.path_from(self.path_of(names["polygons"]).parent, source)
            content["polygons"] = polygons.labelme_json(indices, self.classes, image_path, origin_of(self.origin))
        for key, data in content.items():
            self._write_file(names[key], data)
        return names | {f"{key}_sha256": hashlib.sha256(data).hexdigest() for key, data in content.items()}

    def _encode_mask(self, name: str, source: Path, page: int | None, indices: UInt8) -> bytes:
        if name not in self.georeferenced:
            return encode_mask(indices, self.classes, self.origin)
        return encode_geotiff(indices, self.classes, origin_of(self.origin), read_georeference(source, page))

    def _encode_overlay(self, file: str, drawn: UInt8) -> bytes:
        """Return an overlay as JPEG; warn if it is reduced because its image is longer than any JPEG."""
        shown = within_jpeg(drawn)
        if shown is not drawn:
            height, width = shown.shape[:2]
            warn(
                tr(
                    "{path}: reduced to {width}x{height}: no side of a JPEG is longer than {side:,}; the mask has all pixels",
                    path=self.folder / file,
                    width=width,
                    height=height,
                    side=JPEG_SIDE,
                )
            )
        return _encode(Image.fromarray(shown), "JPEG", quality=90, comment=origin_comment(self.origin))

    def _encode_levels(self, name: str, source: Path, page: int | None, levels: UInt16) -> bytes:
        if name not in self.georeferenced:
            return _encode(Image.fromarray(levels), "PNG", pnginfo=_png_text(self.origin), compress_level=3)
        return encode_geotiff(levels, None, origin_of(self.origin), read_georeference(source, page))

    def write_large(self, name: str, source: Path, predictor: Predictor) -> dict[str, Any]:
        """Predict a georeferenced image that does not fit into memory; return its record: names, SHA-256, sizes, shares."""
        from inference.geo.windows import predict_raster

        names = self.file_names(name)
        target = self.path_of(names["mask"])
        record, drawn = predict_raster(predictor, source, target, origin_of(self.origin))
        comment = origin_comment(self.origin)
        self._write_file(names["overlay"], _encode(Image.fromarray(drawn), "JPEG", quality=90, comment=comment))
        return names | {f"{key}_sha256": file_sha256(self.path_of(file)) for key, file in names.items()} | record

    def _write_file(self, relative: str, content: bytes) -> None:
        with atomic_replace(self.path_of(relative), durable=False) as part:
            part.write_bytes(content)

    def reject_foreign_files(self, names: Iterable[str]) -> None:
        """Raise UsageError if outputs of these images would replace, or lie beside, images that infer.py did not write."""
        targets = [file for name in names for file in self.file_names(name).values()]
        _reject_twice(self.folder, targets)
        for name in targets:
            self.path_of(name)  # raises for a path outside
        # With a journal, the call that made it has checked the summaries; it may have been killed while writing them.
        summaries = [] if (self.folder / JOURNAL).exists() else self._summaries()
        ownership.reject_replacing(self.folder, [*targets, *summaries], self.listed)
        ownership.reject_other_images(self.folder, targets, self.listed)
        self.verified = frozenset([*targets, *summaries])

    def _summaries(self) -> list[str]:
        """Return the files of the whole directory that this job writes besides the listing."""
        by_extra = {"areas": AREAS, "coco": COCO, "polygons": POLYGONS}
        return [GALLERY, *(name for extra, name in by_extra.items() if extra in self.extras)]

    @functools.cached_property
    def listed(self) -> dict[str, str]:
        """The files of an earlier job and their SHA-256, by relative path, as they were when the lock was taken.

        The gallery of a listed job is taken for ours: galleries of earlier versions have no mark.
        """
        content, records = self.read_finished()
        listed = dict(content.get("files", {}))
        for record in records:
            listed |= ownership.record_files(record)
        if records and (self.folder / GALLERY).is_file():
            listed[GALLERY] = file_sha256(self.folder / GALLERY)
        return listed

    def _areas(self, records: Iterable[dict[str, Any]]) -> bytes:
        """Return CSV with a row for each image and class: pixels and share."""
        rows: list[list[object]] = [["picture", "class", "pixels", "share"]]
        for record in records:
            pixels = record["height"] * record["width"]
            for name, share in record["class_shares"].items():
                rows.append([record["input"], name, round(share * pixels), share])
        return csv_bytes(rows)

    # --- journal and listing ---

    def read_finished(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return settings and records of an interrupted job, else of the listing; empty if there is neither.

        Raises UsageError for a journal or listing that cannot be read.
        """
        journal, fix = self.folder / JOURNAL, tr("infer.py did not write this: move or remove the file")
        lines = journal.read_bytes().split(b"\n")[:-1] if journal.is_file() else []  # a kill truncates the last line
        if lines:
            found = [
                JsonObject.parse(line, tr("{path}, line {number}", path=journal, number=number), fix, UsageError)
                for number, line in enumerate(lines, 1)
            ]
            return found[0].content, [check_record(record) for record in found[1:]]
        return read_listing(self.folder) if (self.folder / LISTING).is_file() else ({}, [])

    def open_journal(self, job: dict[str, Any], records: Sequence[dict[str, Any]]) -> IO[str]:
        """Create a journal of the settings and these records, remove the listing, and return the open journal."""
        remove_partial_files(self.folder)
        lines = [_json_line(job), *map(_json_line, records)]
        write_atomically(self.folder / JOURNAL, "".join(lines).encode())
        (self.folder / LISTING).unlink(missing_ok=True)
        return (self.folder / JOURNAL).open("a", encoding="utf-8")

    def finish(self, content: dict[str, Any], previews: Mapping[str, Sequence[Panel]]) -> None:
        """Write the gallery, the requested summaries and, last, predictions.json; then remove the journal.

        `previews` are panels that the gallery embeds, by the name of an image's mask.
        """
        write_gallery(self.folder / GALLERY, content, self.classes, previews)
        if "areas" in self.extras:
            write_atomically(self.folder / AREAS, self._areas(content["images"]))
        if "coco" in self.extras:
            write_atomically(self.folder / COCO, coco_json(self.folder, content["images"], self.classes))
        if "polygons" in self.extras:
            outlines = polygons.coco_polygons_json(self.folder, content["images"], self.classes, origin_of(self.origin))
            write_atomically(self.folder / POLYGONS, outlines)
        made = [name for name in self._summaries() if name != GALLERY]
        content = {**content, "files": {name: file_sha256(self.folder / name) for name in made}}
        write_atomically(
            self.folder / LISTING, json.dumps(with_checksum(content), ensure_ascii=False, indent=1).encode()
        )
        os.remove(self.folder / JOURNAL)


def encode_mask(indices: UInt8, classes: ClassMap, origin: Mapping[str, Any]) -> bytes:
    """Encode class indices (H,W) uint8 as PNG (mode P): mask values, class colours and the origin as text."""
    image = Image.fromarray(classes.decode(indices))
    image.putpalette(classes.palette())
    # Level 3 takes a third of the default level's time; the files are 20 % larger.
    return _encode(image, "PNG", pnginfo=_png_text(origin), compress_level=3)


def _png_text(origin: Mapping[str, Any]) -> PngImagePlugin.PngInfo:
    """Return the origin as text of a PNG file."""
    text = PngImagePlugin.PngInfo()
    for key in PNG_TEXT_KEYS:
        text.add_text(key, str(origin[key]))
    return text


def _reject_twice(folder: Path, targets: Sequence[str]) -> None:
    """Raise UsageError if two images would be written to one file: `a_uncertainty.jpg` beside `a.jpg`."""
    counts = Counter(targets)
    twice = next((name for name, count in counts.items() if count > 1), None)
    if twice is not None:
        raise UsageError(
            tr("{file}: two outputs would have this name: rename an image, or use separate calls", file=folder / twice)
        )


def origin_comment(origin: Mapping[str, Any]) -> str:
    """Return the origin of an output as ASCII JSON, for formats that store one comment; see inference/earlier/ownership.py."""
    return json.dumps(origin_of(origin))


def origin_of(origin: Mapping[str, Any]) -> dict[str, str]:
    """Return the part of the origin that every output carries."""
    return {key: str(origin[key]) for key in PNG_TEXT_KEYS}


def compute_class_shares(indices: UInt8, classes: ClassMap) -> dict[str, float]:
    """Return class name -> share of the pixels, 0 to 1, for class indices (H,W) uint8."""
    shares = np.bincount(indices.ravel(), minlength=classes.num_classes) / indices.size
    return {name: round(float(share), 9) for name, share in zip(classes.names, shares, strict=True)}


def append_record(journal: IO[str], record: dict[str, Any]) -> None:
    """Append the record of a finished image; it is handed to the operating system when this returns."""
    journal.write(_json_line(record))
    journal.flush()


def _json_line(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False) + "\n"


def _encode(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()
