"""Any JSON in the place of a record that others can change: read as what it is, or refused in one line by the project's error."""

from __future__ import annotations

import contextlib
import copy
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import Settings
from core.errors import AppError
from core.provenance.notebook import strip_outputs
from core.safety.checksummed_json import with_checksum
from dataset.class_file import read_class_file
from dataset.classes import InvalidFileError, build_classes
from dataset.faults import DataFaults
from dataset.formats.record import RECORD_FILE, read_record
from dataset.formats.selection import read_selection
from inference.annotations.polygons import coco_polygons_json
from inference.earlier import ownership
from inference.earlier import results as earlier
from inference.earlier.listing import is_complete, read_listing
from inference.formats import JOURNAL, LISTING
from inference.outputs import OutputDirectory
from inference.selection import reject_corrections, write_selection
from lineage.lakefs_links import LakeFSLinks
from lineage.links import Link
from lineage.predictions import prediction_link
from registry.overview import listing as list_versions
from registry.promotion import Promotion
from registry.records import GATE, ROLLED_BACK, rollback_of, version_lineage
from registry.release import _metrics as release_metrics
from registry.verdict_report import report_verdict
from registry.versions import MODEL_VERSIONS, Registry
from train.reproduction.record_files import parse_environment, parse_measurements, parse_settings
from utils.lakefs_client.responses import parse_checksum, parse_objects
from utils.lakefs_utils import LakePath
from utils.local_lakefs.http_server.server import _load_credentials
from utils.mlflow_utils import run_lineage
from utils.mlmodel import parse_mlmodel
from versioning.lockfile import parse_lock
from versioning.provenance.card import describe_promotion, model_card
from versioning.provenance.measurements import Measurements
from versioning.provenance.record import ModelRecord
from versioning.provenance.statement import require_same_origin, statement
from versioning.provenance.verdict import Verdict

RUN, COMMIT, SHA256, GIT = "c" * 32, "a" * 64, "b" * 64, "d" * 40
MODEL, DATA = f"lakefs://repo/{COMMIT}/models/model.pth", f"lakefs://repo/{COMMIT}/data/"
CLASSES = build_classes([(0, "background", None, False), (1, "cell", None, False)])

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**400), 10**400),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["", "x", "../x", "\0", "\ud800", "1e999", "None", "champion", "٣", "²", RUN, COMMIT, GIT, MODEL, "9" * 5000]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)

GATE_TAG = {
    "decision": "challenger", "against": "1", "data": DATA, "split": "val", "figure": "miou", "pictures": 12, "compared": 12,
    "groups": 12, "classes": "2/2", "champion": 0.5, "gain": 0.1, "interval": [0.0, 0.2], "confidence": 0.95,
    "accepted": ["a warning"], "promote_by": ["--confidence 0"], "forced": {"by": "me", "at": "now", "why": "so"},
    "reasons": ["too small"],
}  # fmt: skip
RECORD = {
    "input": "photo.png", "input_sha256": SHA256, "mask": "photo.png", "mask_sha256": SHA256, "overlay": "photo_overlay.jpg",
    "overlay_sha256": SHA256, "height": 4, "width": 6, "class_shares": {"background": 0.5, "cell": 0.5}, "uncertainty": 0.5,
    "polygons": "photo_shapes.json", "polygons_sha256": SHA256,
}  # fmt: skip
ORIGIN = {
    "model_version": "cells v1", "run_id": RUN, "lakefs_model_path": MODEL, "model_sha256": SHA256, "lakefs_data_path": DATA,
    "git_commit": GIT,
}  # fmt: skip
PREDICTIONS = {**ORIGIN, "git_dirty": "false", "engine": "torch", "split": None, "model_metrics": {"best_val_miou": 0.5},
               "files": {"areas.csv": SHA256}, "images": [RECORD]}  # fmt: skip
METRICS = {
    "best_val_miou": 0.5, "best_val_accuracy": 0.9, "val_iou": {"background": 0.5, "cell": None}, "val_classes": "1/2",
    "warnings": [{"kind": "small", "text": "few images"}], "mlflow_run_id": RUN, "model_sha256": SHA256, "best_epoch": 3,
}  # fmt: skip
LOCK = {
    "version": 1, "mlflow_run_id": RUN, "server": "embedded",
    "model": {"repository": "repo", "commit": COMMIT, "path": "models/model.pth", "sha256": SHA256},
    "data": {"repository": "repo", "commit": COMMIT, "path": "data/", "manifest_sha256": SHA256},
}  # fmt: skip
STATEMENT = {
    "subject": [{"name": "model.pth", "digest": {"sha256": SHA256}}],
    "predicate": {
        "buildDefinition": {
            "internalParameters": {"registeredModel": "cells", "version": "1"},
            "resolvedDependencies": [{"name": "data", "uri": DATA}, {"name": "code", "digest": {"gitCommit": GIT}}],
        },
        "runDetails": {"metadata": {"invocationId": RUN}},
    },
}
TAGS = {
    "lakefs_model_path": MODEL, "lakefs_data_path": DATA, "model_sha256": SHA256, "git_commit": GIT, "metric.best_val_miou": "0.5",
    "val_classes": "2/2",
}  # fmt: skip


def as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def version(**tags: str) -> Any:
    return SimpleNamespace(
        name="cells",
        version="1",
        run_id=RUN,
        tags={**TAGS, **tags},
        creation_timestamp=10**18,
        source=None,
        current_stage="None",
    )


class FakeRegistry:
    """A registry with one version, that writes nothing anywhere."""

    def __init__(self, found: Any) -> None:
        self.found, self.name, self.settings = found, "cells", Settings()
        self.client = SimpleNamespace(
            set_tag=lambda *_: None,
            update_model_version=lambda *_: None,
            set_logged_model_tags=lambda *_: None,
            get_run=lambda _: SimpleNamespace(outputs=SimpleNamespace(model_outputs=[SimpleNamespace(model_id="m-1")])),
            get_logged_model=lambda _: SimpleNamespace(tags={MODEL_VERSIONS: found.tags.get(MODEL_VERSIONS, "[]")}),
        )

    def __getattr__(self, name: str) -> Any:
        if name in ("describe", "_link_logged_model"):
            return getattr(Registry, name).__get__(self)
        return {"reload": lambda _: self.found, "versions": lambda: [self.found], "aliases": lambda *_: {"champion": "9"},
                "champion": version}.get(name, lambda *_: None)  # fmt: skip


def finish(text: str, _: Path) -> None:
    registry = cast(Registry, FakeRegistry(version(**{GATE: text})))
    Promotion(registry, cast(Any, None)).finish(registry.reload(version()))


def finish_linked(text: str, _: Path) -> None:
    registry = cast(Registry, FakeRegistry(version(**{GATE: json.dumps(GATE_TAG), MODEL_VERSIONS: text})))
    Promotion(registry, cast(Any, None)).finish(registry.reload(version()))


def release(text: str, folder: Path) -> None:
    (folder / "metrics.json").write_text(text, errors="surrogatepass")
    lineage = version_lineage(version())
    record = ModelRecord(
        "cells", "1", lineage, {}, SHA256, {}, release_metrics(folder, lineage.model_path), None, None, None
    )
    model_card(record, {}).encode()
    json.dumps(statement(record, {}))


def write(name: str, read: Callable[[Path], object]) -> Callable[[str, Path], None]:
    def reader(text: str, folder: Path) -> None:
        (folder / name).write_text(text, errors="surrogatepass")
        read(folder)

    return reader


def outputs(folder: Path) -> OutputDirectory:
    return OutputDirectory(folder, CLASSES, ORIGIN, ("polygons", "areas"))


def resume(folder: Path) -> None:
    _, records = outputs(folder).read_finished()
    complete = [record for record in records if is_complete(record)]
    outputs(folder)._areas(complete)
    assert isinstance(outputs(folder).listed, dict)
    earlier.count_results(folder)
    ownership.listed_files(folder)


def list_journal(text: str, folder: Path) -> None:
    (folder / JOURNAL).write_text(f"{json.dumps(ORIGIN)}\n{text}\n", errors="surrogatepass")
    resume(folder)


def trace(folder: Path) -> None:
    link = prediction_link(folder / LISTING)
    assert link is not None and all(isinstance(value, str) for value in link.facts.values())


class FakeLinks(LakeFSLinks):
    """Links of a model whose files all have the same content."""

    def __init__(self, content: bytes) -> None:
        commit = {"commit_metadata": lambda *_: {"best_val_miou": "0.5"}, "list_refs": lambda *_: []}
        super().__init__(cast(Any, SimpleNamespace(**commit)))
        self.content = content

    def read_file(self, kind: str, path: LakePath, kept: int = 0) -> tuple[Link, str | None, bytes]:
        return Link(kind, str(path)), SHA256, self.content


def trace_beside(text: str, _: Path) -> None:
    list(FakeLinks(as_bytes(text)).model(LakePath.parse_recorded(MODEL)))


def register_metrics(text: str, _: Path) -> None:
    """A metric, a coverage and other tags of a version are texts of any content."""
    for key in TAGS:
        found = version(**{key: text})
        for read in (version_lineage, lambda each: list_versions(cast(Registry, FakeRegistry(each)))):
            accepts(read, found)
        run = SimpleNamespace(info=SimpleNamespace(run_id=RUN, status="FINISHED"),
                              data=SimpleNamespace(tags=found.tags, params=found.tags, metrics={}))  # fmt: skip
        accepts(run_lineage, cast(Any, run))


def select(folder: Path) -> None:
    reject_corrections(folder)
    write_selection(folder, 1, CLASSES)


def server_answer(text: str, _: Path) -> None:
    for read in (parse_checksum, lambda body: parse_objects(body, links=True)):
        with contextlib.suppress(
            ValueError, KeyError, AttributeError, RecursionError
        ):  # the connection makes one error
            read(as_bytes(text))


READERS: dict[str, tuple[Any, Callable[[str, Path], object]]] = {
    "gate: finish": (GATE_TAG, finish),
    "gate: parse": (GATE_TAG, lambda text, _: describe_promotion(Verdict.parse(text, "gate")).encode()),
    "gate: report": (GATE_TAG, lambda text, _: report_verdict(Verdict.parse(text, "gate"), RUN)),
    "gate: listing": (GATE_TAG, lambda text, _: list_versions(cast(Registry, FakeRegistry(version(**{GATE: text}))))),
    "rolled_back": ({"at": "now", "by": "me", "to": "2"}, lambda text, _: rollback_of(version(**{ROLLED_BACK: text}))),
    "mlflow.modelVersions": ([{"name": "cells", "version": "1"}], finish_linked),
    "tags of a version": ("0.5", register_metrics),
    "metrics.json: release": (METRICS, release),
    "metrics.json: parse": (METRICS, lambda text, _: Measurements.parse(text, "metrics.json")),
    "metrics.json, MLmodel: trace": (METRICS, trace_beside),
    "MLmodel": ({"flavors": {"python_function": {"loader_module": "segmentation.pyfunc", "data": "model.pth"}}, "run_id": RUN},
                lambda text, _: parse_mlmodel("MLmodel", as_bytes(text))),
    "predictions.json: resume": (PREDICTIONS, write(LISTING, resume)),
    "predictions.json: read": (PREDICTIONS, write(LISTING, read_listing)),
    "predictions.json: trace": (with_checksum(PREDICTIONS), write(LISTING, trace)),
    "predictions.json: select": (PREDICTIONS, write(LISTING, select)),
    "journal": (RECORD, list_journal),
    "record of a video": (with_checksum({"overlay": "x.mp4", "overlay_sha256": SHA256}),
                          write("x_overlay.json", lambda folder: ownership.video_files(folder / "x_overlay.json"))),
    "outlines": ({"shapes": [{"label": "cell", "points": [[0, 0], [4, 0], [4, 4]]}]},
                 write("photo_shapes.json", lambda folder: coco_polygons_json(folder, [RECORD], CLASSES, {}))),
    "lakefs.lock": (LOCK, lambda text, _: parse_lock(text, "lakefs.lock")),
    "statement": (STATEMENT, lambda text, _: require_same_origin(as_bytes(text), version_lineage(version()))),
    "classes.json": ([{"id": 0, "name": "background", "color": [0, 0, 0]}, {"id": 1, "name": "cell"}],
                     write("classes.json", lambda folder: read_class_file(folder / "classes.json"))),
    "label_source.json": ({"format": "coco", "sha256": SHA256, "metadata": {"a": "b"}, "warnings": [{"kind": "a", "text": "b"}]},
                          write(RECORD_FILE, read_record)),
    "selection.json": (with_checksum({**ORIGIN, "images": [{"sha256": SHA256}]}),
                       write("selection.json", lambda folder: read_selection(folder / "selection.json"))),
    "settings.json": ({"settings": {"epochs": 1}, "smoke": False}, lambda text, _: parse_settings(RUN, as_bytes(text), Settings())),
    "environment.json": ({"threads": 2, "cpu": "x"}, lambda text, _: parse_environment(RUN, as_bytes(text))),
    "measurements": ({"figures": {"val_miou": [0.5]}, "environment": {"threads": 2}, "packages": ["torch==2.15.0"]},
                     lambda text, _: parse_measurements(RUN, as_bytes(text))),
    "notebook": ({"cells": [{"cell_type": "code", "source": ""}], "metadata": {}}, lambda text, _: strip_outputs(as_bytes(text))),
    "credentials.json": ({"access_key_id": "a", "secret_access_key": "b"},
                         write("credentials.json", lambda folder: _load_credentials(folder, read_only=False))),
    "answer of lakeFS": ({"checksum": "x", "pagination": {"has_more": True, "next_offset": "x"},
                          "results": [{"path": "a", "checksum": "b"}]}, server_answer),
}  # fmt: skip


def accepts(read: Callable[..., object], *arguments: Any) -> bool:
    """Return whether a reader accepts its input; the only other way out is the project's error, in one printable line."""
    try:
        read(*arguments)
    except (DataFaults, InvalidFileError) as error:  # all faults of a file at once
        assert str(error)
        return False
    except AppError as error:
        assert "\n" not in str(error) and str(error).encode(), "one line that can be printed"
        return False
    return True


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield (*place, key)
        yield from places(inner, (*place, key))


def changed(value: Any, place: tuple[Any, ...], *new: Any) -> Any:
    """Return a value with another one in a place, or without what is there."""
    root = [copy.deepcopy(value)]
    holder, last = root, 0
    for key in place:
        holder, last = holder[last], key
    if new:
        holder[last] = new[0]
    else:
        del holder[last]
    return root[0]


def read_text(name: str, text: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        return accepts(READERS[name][1], text, Path(folder))


UNREADABLE = {"predictions.json: select", "statement", "MLmodel", "metrics.json, MLmodel: trace"}


@pytest.mark.parametrize("name", READERS)
def test_a_valid_record_is_read_and_one_without_any_field_is_read_or_refused(name: str) -> None:
    valid = READERS[name][0]
    text = valid if isinstance(valid, str) else json.dumps(valid)
    assert read_text(name, text) or name in UNREADABLE, name
    for place in places(valid):
        read_text(name, json.dumps(changed(valid, place)))
    for damaged in ("", "{", "null", "[]", "{}", "3", '"x"', "[" * 100_000, "\ud800", "\x00", text[:-2]):
        read_text(name, damaged)


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_any_json_in_any_place_of_a_record_is_read_or_refused(name: str, data: st.DataObject) -> None:
    valid = READERS[name][0]
    place = data.draw(st.sampled_from([(), *places(valid)]))
    new = data.draw(VALUES)
    other = changed(valid, place, new)
    read_text(name, json.dumps(other))
    if isinstance(other, dict) and "content_sha256" in other:  # whoever changes it can make its checksum again
        rest = {key: value for key, value in other.items() if key != "content_sha256"}
        with contextlib.suppress(UnicodeEncodeError):  # of a lone surrogate there is no checksum
            read_text(name, json.dumps(with_checksum(rest)))
