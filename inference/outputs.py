"""The folder of predictions: the files of each picture, a journal of what is finished, and predictions.json at the end."""

from __future__ import annotations

import contextlib
import csv
import functools
import hashlib
import io
import json
import os
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, PngImagePlugin

from core.checksummed_json import with_checksum
from core.errors import AppError, UsageError
from core.files import atomic_replace, remove_partial_files, safe_join, write_atomically
from core.hashing import file_sha256
from core.i18n import tr
from core.locks import lock_or_fail
from dataset.classes import ClassMap, UInt8
from dataset.overlay import overlay
from inference.coco import coco_json
from inference.gallery import write_gallery
from segmentation.predictor import Prediction

LISTING = "predictions.json"
JOURNAL = ".predictions.jsonl"  # while a job runs: its settings, then one line for each finished picture
LOCK, OWNER = ".predictions.lock", ".predictions.owner"  # while a process writes there: held by it, and its name
OWN_FILES = ("mask", "overlay", "probabilities")  # keys of a record that name files
AREAS, COCO, PAGE = "areas.csv", "predictions_coco.json", "index.html"  # of the whole folder
EXTRAS = ("probabilities", "areas", "coco")  # what is written on request
ORIGIN = ("model_version", "run_id", "lakefs_model_path", "model_sha256", "lakefs_data_path", "git_commit")


@contextlib.contextmanager
def lock_output_dir(folder: Path) -> Iterator[None]:
    """Create the directory and lock it for this process. Raises UsageError if another one has it."""
    owner = folder / OWNER
    who = owner.read_text(encoding="utf-8") if owner.exists() else "?"
    lock = lock_or_fail(
        folder / LOCK,
        tr("{folder}: process {who} is writing here: wait for it, or choose another --output", folder=folder, who=who),
    )
    try:
        with atomic_replace(owner, durable=False) as part:
            part.write_text(f"{os.getpid()} ({socket.gethostname()})", encoding="utf-8")
        yield
    finally:
        owner.unlink(missing_ok=True)
        Path(lock.lock_file).unlink(missing_ok=True)  # while it is held: nobody else can have taken it
        lock.release()


class Outputs:
    """Writes below one folder and nowhere else; `origin` goes into every mask's PNG text, `extras` are from EXTRAS."""

    def __init__(self, folder: Path, classes: ClassMap, origin: dict[str, Any], extras: Collection[str] = ()) -> None:
        self.folder, self.classes, self.origin, self.extras = folder, classes, origin, extras
        self._real_parent = functools.cache(self._checked_parent)

    def place(self, relative: str) -> Path:
        """The path of a file below the folder. Raises AppError for one that would leave it, through a link too."""
        path = safe_join(self.folder, relative)
        self._real_parent(path.parent)
        return path

    def _checked_parent(self, parent: Path) -> None:
        if not parent.resolve().is_relative_to(self.folder.resolve()):
            raise AppError(
                tr(
                    "{parent}: a link out of {folder}: remove it or give another --output",
                    parent=parent,
                    folder=self.folder,
                )
            )

    def names(self, name: str) -> dict[str, str]:
        """The files of a picture, below the folder, by their keys in a record."""
        names = {"mask": f"{name}.png", "overlay": f"{name}_overlay.jpg"}
        return names | ({"probabilities": f"{name}.npz"} if "probabilities" in self.extras else {})

    def write(self, name: str, image: UInt8, prediction: Prediction) -> dict[str, Any]:
        """The mask with its values and colours (mode P), its origin in its text; the overlay; on request probabilities,
        (num_classes,H,W) float16 in an .npz file. Returns their record.
        """
        names, indices = self.names(name), prediction.indices
        shown = Image.fromarray(overlay(image, indices, self.classes))
        content = {"mask": mask_png(indices, self.classes, self.origin), "overlay": _encoded(shown, "JPEG", quality=90)}
        if prediction.probabilities is not None and "probabilities" in names:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, probabilities=prediction.probabilities, classes=np.array(self.classes.names))
            content["probabilities"] = buffer.getvalue()
        for key, data in content.items():
            self._put(names[key], data)
        return names | {f"{key}_sha256": hashlib.sha256(data).hexdigest() for key, data in content.items()}

    def _put(self, relative: str, content: bytes) -> None:
        with atomic_replace(self.place(relative), durable=False) as part:
            part.write_bytes(content)

    def refuse_inputs(self, inputs: Iterable[tuple[Path, str]]) -> None:
        """Raises UsageError where the output of one of these (picture, name) would overwrite one of the pictures."""
        pairs = [(path.resolve(), name) for path, name in inputs]
        taken = {path for path, _ in pairs}
        for path, name in pairs:
            if any(safe_join(self.folder, other).resolve() in taken for other in self.names(name).values()):
                raise UsageError(tr("{path}: would be overwritten: give another --output", path=path))

    def _areas(self, records: Iterable[dict[str, Any]]) -> str:
        """A row for each picture and class: pixels and share."""
        text = io.StringIO()
        rows = csv.writer(text)
        rows.writerow(["picture", "class", "pixels", "share"])
        for record in records:
            whole = record["height"] * record["width"]
            for name, share in record["class_shares"].items():
                rows.writerow([record["input"], name, round(share * whole), share])
        return text.getvalue()

    # --- what is finished -----------------------------------------------------------------------------------------

    def earlier(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The settings and records of an interrupted job, else of the listing, else nothing. Raises UsageError."""
        try:
            lines = (self.folder / JOURNAL).read_text(encoding="utf-8").split("\n")[:-1]  # a kill cuts the last line
            if lines:
                return json.loads(lines[0]), [json.loads(line) for line in lines[1:]]
        except FileNotFoundError:
            pass
        except ValueError as error:
            raise self._foreign(self.folder / JOURNAL, error) from error
        try:
            old = json.loads((self.folder / LISTING).read_text(encoding="utf-8"))
            return old, [dict(record) for record in old["images"]]
        except FileNotFoundError:
            return {}, []
        except (ValueError, KeyError, TypeError) as error:
            raise self._foreign(self.folder / LISTING, error) from error

    def _foreign(self, where: Path, error: Exception) -> UsageError:
        return UsageError(
            tr("{where}: not a listing of this project ({error}): move or remove it", where=where, error=error)
        )

    def clear(self) -> None:
        """Remove what earlier jobs listed; other files in the folder are not ours."""
        _, records = self.earlier()
        for record in records:
            for key in OWN_FILES:
                if key in record:
                    self.place(str(record[key])).unlink(missing_ok=True)
        for name in (LISTING, JOURNAL, *((AREAS, COCO, PAGE) if records else ())):
            (self.folder / name).unlink(missing_ok=True)

    def begin(self, job: dict[str, Any], records: Sequence[dict[str, Any]]) -> IO[str]:
        """An open journal that holds the settings and these records."""
        remove_partial_files(self.folder)
        lines = [_line(job), *map(_line, records)]
        write_atomically(self.folder / JOURNAL, "".join(lines).encode())
        (self.folder / LISTING).unlink(missing_ok=True)
        return (self.folder / JOURNAL).open("a", encoding="utf-8")

    def finish(self, content: dict[str, Any]) -> None:
        """Write predictions.json and what shows or sums it up; the journal has served."""
        write_gallery(self.folder / PAGE, content, self.classes)
        if "areas" in self.extras:
            write_atomically(self.folder / AREAS, self._areas(content["images"]).encode("utf-8-sig"))  # for Excel
        if "coco" in self.extras:
            write_atomically(self.folder / COCO, coco_json(self.folder, content["images"], self.classes))
        made = [name for extra, name in (("areas", AREAS), ("coco", COCO)) if extra in self.extras]
        content = {**content, "files": {name: file_sha256(self.folder / name) for name in made}}
        write_atomically(
            self.folder / LISTING, json.dumps(with_checksum(content), ensure_ascii=False, indent=1).encode()
        )
        os.remove(self.folder / JOURNAL)


def mask_png(indices: UInt8, classes: ClassMap, origin: Mapping[str, Any]) -> bytes:
    """Class indices (H,W) uint8 as a PNG of mask values with their colours (mode P), and its origin as text."""
    text = PngImagePlugin.PngInfo()
    for key in ORIGIN:
        text.add_text(key, str(origin[key]))
    picture = Image.fromarray(classes.decode(indices))
    picture.putpalette(classes.palette())
    return _encoded(picture, "PNG", pnginfo=text, compress_level=3)  # a third of the default's time for 20 % more


def class_shares(indices: UInt8, classes: ClassMap) -> dict[str, float]:
    """The share of the pixels (H,W) uint8 that each class has."""
    shares = np.bincount(indices.ravel(), minlength=classes.num_classes) / indices.size
    return {name: round(float(share), 9) for name, share in zip(classes.names, shares, strict=True)}


def add(journal: IO[str], record: dict[str, Any]) -> None:
    """Add a finished picture; it is on its way to the disk when this returns."""
    journal.write(_line(record))
    journal.flush()


def _line(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False) + "\n"


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()
