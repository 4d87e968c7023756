"""train.py on a branch that a colleague has changed, with the real scripts."""

from __future__ import annotations

from pathlib import Path

from tests.support.lake_cli_helpers import paint_mask, read_data, run_lake
from tests.support.project import make_project


def test_train_refuses_before_training_and_replaces_on_request(tmp_path: Path) -> None:
    mine = make_project(tmp_path / "mine", images=12)
    theirs = make_project(tmp_path / "theirs", images=0)
    theirs.env = {"LAKEFS_LOCAL_DIR": str(mine.folder / ".lakefs")}
    run_lake(mine, "push")
    run_lake(theirs, "pull", "main")
    mask = paint_mask(theirs, 2, 30)
    (theirs.folder / "data/README.txt").write_text("new")
    run_lake(theirs, "push")

    paint_mask(mine, 1, 20)
    for options in ((), ("--experiment-branch", "trial")):
        refused = mine.run("train.py", "--smoke", *options)
        assert refused.returncode == 2 and "branch main has moved on since" in refused.stderr, refused.stderr
        assert f"  reverted  {mask}\n" in refused.stderr and "  deleted   README.txt\n" in refused.stderr
        assert "lake.py pull --merge" in refused.stderr and "--replace" in refused.stderr
    assert "trial" not in run_lake(mine, "branches")
    assert "both changed 1 file" in run_lake(mine, "pull", "--merge", code=2)
    useless = mine.run("train.py", "--replace", "--data-ref", "main")
    assert useless.returncode == 2 and "--replace cannot be used with --data-ref" in useless.stderr

    run_lake(mine, "pull", "--merge", "--prefer", "local")
    assert "README.txt" in read_data(mine)
    run_lake(mine, "push")
    run_lake(theirs, "pull", "main")
    assert read_data(theirs) == read_data(mine)
    paint_mask(theirs, 3, 40)
    run_lake(theirs, "push")
    replaced = mine.run("train.py", "--smoke", "--replace")
    assert replaced.returncode == 0 and len(mine.runs()) == 1, replaced.stderr
    run_lake(theirs, "pull", "main")
    assert read_data(theirs) == read_data(mine)
