"""train.py --check-only --json: what is known of the data as JSON, alone on standard output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from config import Settings
from core import reporting
from core.console_reporter import ConsoleReporter
from dataset.checks.report import report
from dataset.sources.synthetic import generate_sample
from dataset.validation import inspect_data
from tests.support.data_directories import make_flat, make_split, put_image, put_mask, write_classes
from tests.support.project import SOURCE, Project
from train import data_check

KEYS = ["layout", "splits", "size", "bands", "range", "classes", "groups", "left_out", "faults", "warnings"]

# Nothing listens on this port: the address is one that only a privileged process could take.
NO_SERVER = {"LAKEFS_ENDPOINT": "http://127.0.0.1:9", "LAKEFS_ACCESS_KEY_ID": "a", "LAKEFS_SECRET_ACCESS_KEY": "b"}


def test_report_has_everything_that_the_check_knows(tmp_path: Path) -> None:
    make_split(tmp_path)
    write_classes(
        tmp_path, [{"id": 0, "name": "sky", "color": [1, 2, 3]}, {"id": 1, "name": "road"}, {"id": 2, "name": "car"}]
    )
    put_image(tmp_path / "train/images/big.png", size=(4, 5))
    put_mask(tmp_path / "train/masks/big.png", (0, 0, 0, 0, 2), size=(4, 5))
    (tmp_path / "notes.txt").write_text("x")
    found = report(inspect_data(tmp_path, 0))
    assert list(found) == KEYS
    assert found["layout"] == "{train,val[,test]}/{images,masks}"
    assert found["splits"] == {"train": 4, "val": 2}
    assert (found["size"], found["bands"], found["range"]) == ([[8, 6], [5, 4]], 3, [0, 255])
    assert found["classes"][0] == {
        "id": 0, "name": "sky", "color": [1, 2, 3], "share": {"train": pytest.approx(88 / 164), "val": 0.5},
    }  # fmt: skip
    assert [entry["share"]["val"] for entry in found["classes"]] == [0.5, 0.5, 0]
    assert found["groups"]["count"] >= 1 and isinstance(found["groups"]["rule"], str)
    assert found["left_out"] == [{"file": "notes.txt", "reason": "not an image file"}]
    assert found["faults"] == []
    assert [warning["kind"] for warning in found["warnings"]] == ["small-split", "few-groups", "absent-class"]
    json.dumps(found)


def test_report_with_faults_has_what_could_be_read(flat: Path) -> None:
    (flat / "masks/a0.png").unlink()
    (flat / "images/a1.png").write_bytes(b"broken")
    found = report(inspect_data(flat, 0))
    assert [fault["file"] for fault in found["faults"]] == ["images/a0.png", "images/a1.png"]
    assert set(found["faults"][0]) == {"file", "expected", "found"}
    assert sum(found["splits"].values()) == 9 and found["size"] == [[8, 6]]
    assert [entry["name"] for entry in found["classes"]] == ["background", "foreground"]


def test_report_without_any_data_has_the_fault(tmp_path: Path) -> None:
    found = report(inspect_data(tmp_path, 0))
    assert list(found) == KEYS and len(found["faults"]) == 1
    assert (found["layout"], found["splits"], found["classes"]) == ("", {}, [])


def test_standard_output_has_only_the_json_and_the_exit_code_is_the_same(tmp_path: Path) -> None:
    project = Project(SOURCE)
    root = make_flat(tmp_path / "data")
    options = ("train.py", "--check-only", "--json", "--data-dir", str(root))
    good = project.run(*options)
    assert good.returncode == 0, good.stderr
    assert list(json.loads(good.stdout)) == KEYS
    (root / "masks/a0.png").unlink()
    bad = project.run(*options)
    assert bad.returncode == 2
    assert [fault["file"] for fault in json.loads(bad.stdout)["faults"]] == ["images/a0.png"]
    assert "images/a0.png" in bad.stderr and "Traceback" not in bad.stderr
    assert not (root / "splits").exists()
    missing = project.run("train.py", "--check-only", "--json", "--data-dir", str(tmp_path / "mistyped"))
    (fault,) = json.loads(missing.stdout)["faults"]
    assert missing.returncode == 2 and fault["file"] == str(tmp_path / "mistyped")


@pytest.mark.parametrize(
    ("options", "code", "file", "found"),
    [
        (["--split-group", "("], 2, "", "--split-group"),
        (["--data-ref", "main"], 1, "main", "the server does not answer"),
        (["--data-dir", "{linked}"], 2, "images/lost.png", "a broken link"),
    ],
)
def test_json_has_an_error_before_the_check_as_a_fault(
    tmp_path: Path, options: list[str], code: int, file: str, found: str
) -> None:
    make_flat(tmp_path / "linked")
    (tmp_path / "linked/images/lost.png").symlink_to("nowhere.png")
    arguments = [option.format(linked=tmp_path / "linked") for option in options]
    done = Project(SOURCE).run("train.py", "--check-only", "--json", *arguments, env=NO_SERVER)
    assert done.returncode == code and "Traceback" not in done.stderr
    content = json.loads(done.stdout)
    (fault,) = content["faults"]
    assert list(content) == KEYS and fault["file"] == file and found in fault["found"]
    assert found in done.stderr


@pytest.mark.parametrize(("images", "warned"), [(20, True), (40, False)])
def test_json_warns_that_the_gate_cannot_decide_as_the_text_does(
    tmp_path: Path,
    images: int,
    warned: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reporting, "_reporter", reporting._reporter)  # restored at the end
    generate_sample(tmp_path, 0, images)  # a tenth of them is val
    settings = Settings(data_dir=tmp_path)
    capsys.readouterr()
    with data_check.json_output(str(tmp_path), "data"):
        data_check.check(settings, None, as_json=True)
    found = json.loads(capsys.readouterr().out)
    texts = [warning["text"] for warning in found["warnings"] if warning["kind"] == "few-groups"]
    assert len(texts) == warned
    reporting.use_reporter(ConsoleReporter())
    data_check.check(settings, None, as_json=False)
    printed = capsys.readouterr().out
    assert printed.count("to tell a better model from chance") == warned and all(text in printed for text in texts)
