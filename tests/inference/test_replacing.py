"""infer.py says what it replaces, and neither an error nor an interruption loses earlier results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

import pytest

from core.hashing import file_sha256
from inference import batch_job, inputs, outputs
from inference.earlier import ownership
from inference.earlier.results import ASIDE
from inference.formats import LISTING
from segmentation.predictor import Predictor
from tests.support.images import draw
from tests.support.models import CPU, lineage, make_model


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(make_model(), CPU)


@pytest.fixture
def out(predictor: Predictor, tmp_path: Path) -> Path:
    """An output directory with predictions of three images."""
    draw(tmp_path / "old", 3)
    return predict(predictor, tmp_path / "old", tmp_path / "out")


def predict(predictor: Predictor, source: Path, out: Path, resume: bool = False) -> Path:
    batch_job.predict(predictor, inputs.collect_items([source]), out, lineage(), None, resume)
    return out


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def inputs_of(out: Path) -> list[str]:
    return [Path(image["input"]).parent.name for image in json.loads((out / LISTING).read_text())["images"]]


def test_replaced_results_are_counted(
    predictor: Predictor, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / "new", 1)
    predict(predictor, tmp_path / "new", out)
    assert f"earlier predictions replaced in {out}: 3" in capsys.readouterr().out
    assert sorted(content(out)) == ["000.png", "000_overlay.jpg", "index.html", LISTING]
    assert inputs_of(out) == ["new"]


@pytest.mark.parametrize("resume", [False, True])
def test_nothing_predicted_leaves_earlier_results(
    predictor: Predictor, out: Path, tmp_path: Path, resume: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(out)
    (tmp_path / "README.md").write_text("no image")
    predict(predictor, tmp_path / "README.md", out, resume)
    assert content(out) == before
    assert f"earlier predictions kept in {out}: 3" in capsys.readouterr().out


@pytest.mark.parametrize("written", [0, 1])
def test_interruption_keeps_earlier_and_new_results(
    predictor: Predictor, out: Path, tmp_path: Path, written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C after the first result was written, before or after it was recorded; then a kill while results move."""
    before = content(out)
    draw(tmp_path / "new", 20)
    append, appended = outputs.append_record, list[str]()

    def interrupt(journal: IO[str], record: dict[str, Any]) -> None:
        if len(appended) == written:
            raise KeyboardInterrupt
        append(journal, record)
        appended.append(record["input"])

    with monkeypatch.context() as patched:
        patched.setattr(outputs, "append_record", interrupt)
        with pytest.raises(KeyboardInterrupt):
            predict(predictor, tmp_path / "new", out)
    assert content(out / ASIDE) == before, "the earlier results are complete"
    if written:
        predict(predictor, tmp_path / "new", out, resume=True)
        assert inputs_of(out) == ["new"] * 20 and not (out / ASIDE).exists()
    else:
        (tmp_path / "README.md").write_text("no image")
        predict(predictor, tmp_path / "README.md", out)
        assert before.items() <= content(out).items() and not (out / ASIDE).exists()


def test_kill_while_results_move_is_undone_by_the_next_call(predictor: Predictor, out: Path, tmp_path: Path) -> None:
    before = content(out)
    (out / ASIDE).mkdir()
    (out / "001.png").rename(out / ASIDE / "001.png")
    (tmp_path / "README.md").write_text("no image")
    predict(predictor, tmp_path / "README.md", out)
    assert content(out) == before
    (out / ASIDE).mkdir()  # a kill after the new results were complete, while the earlier ones were removed
    (out / ASIDE / LISTING).write_text("{}")
    predict(predictor, tmp_path / "README.md", out)
    assert content(out) == before


def test_outputs_of_earlier_calls_are_hashed_once(
    predictor: Predictor, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []

    def count(path: Path) -> str:
        hashed.append(path.name)
        return file_sha256(path)

    monkeypatch.setattr(ownership, "file_sha256", count)
    predict(predictor, tmp_path / "old", out)
    assert len(hashed) == len(set(hashed)) and "000.png" in hashed


def test_masks_of_a_data_set_are_not_predicted(flat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = inputs.collect_items([flat])
    assert len(items) == 10 and all("/images/" in item.image.as_posix() for item in items)
    assert "a data set: its images are predicted, its masks are not (10 files" in capsys.readouterr().out
