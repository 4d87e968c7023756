"""The models that a model was trained from: read from the metadata of their commits, and shown with the released model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from core.errors import AppError
from tests.registry.test_release import record
from utils.identifiers import InvalidValue
from utils.lakefs_utils import LakeFS, LakePath
from versioning.provenance.ancestors import ancestors, parent_of
from versioning.provenance.card import model_card
from versioning.provenance.openlineage import run_event
from versioning.provenance.statement import statement

RUN = "d" * 32


def model(digit: str) -> LakePath:
    return LakePath("repo", digit * 64, "models/model.pth")


def started_from(reference: object, sha256: str = "e" * 64) -> dict[str, str]:
    data = f"lakefs://repo/{'9' * 64}/data/"
    return {"init": str(reference), "init_sha256": sha256, "init_run_id": RUN, "init_data_path": data}


def lake_of(metadata: dict[str, dict[str, str]]) -> LakeFS:
    """Return a lake whose commits, by the digit of their ID, have this metadata."""
    return cast(LakeFS, SimpleNamespace(commit_metadata=lambda ref, _repo: metadata[ref[0]]))


def test_ancestors_are_followed_from_commit_to_commit() -> None:
    lake = lake_of({"1": started_from(model("2")), "2": started_from("/models/old.pth"), "3": {}})
    found = list(ancestors(lake, model("1")))
    assert [ancestor.reference for ancestor in found] == [str(model("2")), "/models/old.pth"]
    assert [ancestor.path for ancestor in found] == [model("2"), None]
    assert {(ancestor.run_id, str(ancestor.data_path)) for ancestor in found} == {
        (RUN, f"lakefs://repo/{'9' * 64}/data/")
    }
    assert list(ancestors(lake, model("3"))) == [], "trained from random weights"


def test_records_that_name_each_other_are_an_error() -> None:
    lake = lake_of({"1": started_from(model("2")), "2": started_from(model("1"))})
    with pytest.raises(AppError, match="name more than 1000 ancestors: they were changed"):
        list(ancestors(lake, model("1")))


@pytest.mark.parametrize(
    "change", [{"init_sha256": "short"}, {"init_run_id": "../x"}, {"init_data_path": "lakefs://repo/main/data/"}]
)
def test_record_of_another_form_is_an_error(change: dict[str, str]) -> None:
    with pytest.raises(InvalidValue):
        parent_of({**started_from(model("2")), **change})


def test_released_model_names_what_it_was_trained_from() -> None:
    lake = lake_of({"1": started_from(model("2")), "2": started_from("/models/a|b.pth"), "3": {}})
    made = record(ancestors=tuple(ancestors(lake, model("1"))))
    card = model_card(made, {})
    assert str(model("2")) in card and r"/models/a\|b.pth" in card and "e" * 64 in card
    dependencies: list[dict[str, Any]] = statement(made, {})["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert {"name": "initial model", "uri": str(model("2")), "digest": {"sha256": "e" * 64}} in dependencies
    inputs = run_event(made)["inputs"]
    assert [entry["name"] for entry in inputs] == ["data", "models/model.pth"]
