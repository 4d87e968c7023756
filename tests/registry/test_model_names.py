"""Every name that is shown of a model - run, version, alias, tag, lakefs.lock, file - chooses it, or says what it could mean."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from config import Settings
from core.errors import UsageError
from lineage import finder
from registry import commands
from registry.choice import files as model_files
from registry.choice import selection
from registry.choice.selection import select_model
from tests.support.lab import Lab
from utils import run_names
from utils.identifiers import RunId, Sha256
from utils.lakefs_utils import LakePath
from utils.lineage import Lineage, Origin
from utils.mlflow_utils import run_lineage
from utils.servers import Servers
from versioning.lockfile import Lock, write_lock
from versioning.naming import results

Git = Callable[..., str]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Git repository with a commit that takes the place of the project's, and is the working directory."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for module in (results, selection, model_files, finder):
        monkeypatch.setattr(module, "ROOT", folder)
    monkeypatch.chdir(folder)
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "train.py").write_text("")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "code")
    return folder


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def train(lab: Lab, quality: float) -> Lineage:
    return run_lineage(lab.run(quality, lab.data(["t"], ["v"])))


def register(lab: Lab, model: Lineage, alias: str | None = None) -> None:
    version = lab.registry.create_version(model, lab.client.get_run(model.run_id), {})
    if alias:
        lab.registry.set_alias(version, alias)


def commit_lock(folder: Path, model: Lineage, tag: str | None = None, message: str = "a result") -> None:
    """Commit lakefs.lock with a model, as train.py does, and tag it."""
    lock = Lock(
        model.data_path, Sha256("0" * 64), model.model_path, Sha256(model.model_sha256), RunId(model.run_id), "embedded"
    )
    write_lock(folder, lock)
    git(folder, "add", "lakefs.lock")
    git(folder, "commit", "--quiet", "-m", "result")
    if tag:
        git(folder, "tag", "-a", tag, "-m", message)


def choose(lab: Lab, name: str | None = None) -> Origin:
    found = select_model(Servers(lab.settings, client=lab.client, lake=lab.lake), name)
    assert found is not None
    return found


def traced_run(lab: Lab, name: str) -> str:
    """Return the run from which lake.py trace follows a name."""
    _, runs = finder.Finder(lab.settings, lab.lake, lab.client).find(name)
    return runs[0]


class Unreachable:
    """A client of a server that must not be contacted."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"contacted: {name}")


def choose_offline(lab: Lab, name: str) -> Origin:
    """Choose with servers that must not be contacted."""
    servers = Servers(lab.settings, client=Unreachable(), lake=Unreachable())  # type: ignore[arg-type]
    found = select_model(servers, name)
    assert found is not None
    return found


def test_each_displayed_name_chooses_its_model(lab: Lab, checkout: Path) -> None:
    first, second = train(lab, 0.5), train(lab, 0.75)
    register(lab, first)
    register(lab, second, "champion")
    commit_lock(checkout, first, "v1.0-acc50")
    commit_lock(checkout, second, "v1.1-acc75")
    lab.lake.set_tag("paper", first.model_path.ref)
    run = first.run_id
    names = ["1", "v1", f"{lab.name}/1", f"{lab.name}/v1", run, run.upper(), run[:12], run[:8], "paper", "tag:paper"]
    for name in [*names, "v1.0-acc50", "tag:v1.0-acc50"]:
        assert choose(lab, name).model_sha256 == first.model_sha256, name
        assert traced_run(lab, name) == first.run_id, name
    for name in ("2", "champion", f"{lab.name}@champion", lab.name, "lock", "v1.1-acc75"):
        assert choose(lab, name).model_sha256 == second.model_sha256, name
        assert traced_run(lab, name) == second.run_id, name
    assert choose(lab, "v1.0-acc50").selected_by == "tag:v1.0-acc50 (v1.0-acc50)"
    assert choose(lab, "champion").selected_by == f"{lab.name}/2 (champion)"
    assert commands.named_model(lab.registry, lab.lake, run[:8]).run_id == run
    assert str(commands.named_version(lab.registry, lab.lake, run[:8]).version) == "1"
    with pytest.raises(UsageError) as error:
        choose(lab, "chmpion")
    for words in ("did you mean champion?", f"{lab.name}/2 (champion)", "v1.0-acc50", "paper", f"run {second.run_id}"):
        assert words in str(error.value), words


def test_ambiguous_names_are_refused_with_what_they_can_mean(
    lab: Lab, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = train(lab, 0.5), train(lab, 0.75)
    register(lab, first)
    commit_lock(checkout, second, "v1")
    for use in (choose, traced_run):
        with pytest.raises(UsageError, match=rf"'v1' is ambiguous: name one of: {lab.name}/1, tag:v1$"):
            use(lab, "v1")
    assert choose(lab, "tag:v1").model_sha256 == second.model_sha256 and traced_run(lab, "tag:v1") == second.run_id
    (checkout / "v1").write_bytes(b"")
    for use in (choose, traced_run):
        with pytest.raises(UsageError, match=r"tag:v1, \./v1"):
            use(lab, "v1")
    found = [first.run_id, second.run_id]
    monkeypatch.setattr(run_names, "runs_starting_with", lambda *_: found)
    for use in (choose, traced_run):
        with pytest.raises(UsageError, match=f"'abcd' is ambiguous: name one of: {first.run_id}, {second.run_id}"):
            use(lab, "abcd")


def test_unknown_run_is_answered_with_what_names_one(lab: Lab, checkout: Path) -> None:
    model = train(lab, 0.5)
    register(lab, model, "champion")
    commit_lock(checkout, model, "v1.0-acc50")
    with pytest.raises(UsageError, match="'nope' does not name a run") as error:
        results.resolve_run(Servers(lab.settings, client=lab.client, lake=lab.lake), "nope")
    for words in ("at least 4 characters of a run ID", f"{lab.name}/1 (champion)", "v1.0-acc50", f"run {model.run_id}"):
        assert words in str(error.value), words
    assert "file" not in str(error.value), "a file is not a run"


def test_aliases_of_a_model_are_asked_for_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    register(lab, train(lab, 0.5), "champion")
    asked: list[str] = []
    find = run_names.find_aliases

    def count(client: MlflowClient, settings: Settings, name: str) -> dict[str, str] | None:
        asked.append(name)
        return find(client, settings, name)

    monkeypatch.setattr(run_names, "find_aliases", count)
    for name, expected in (("champion", [lab.name]), (lab.name, [lab.name]), ("1", []), ("x", [lab.name, "x"])):
        asked.clear()
        found = run_names.find_version(lab.client, lab.settings, name)
        assert asked == expected and (found is None) == (name == "x")


def test_tag_made_before_its_lock_is_refused(lab: Lab, checkout: Path) -> None:
    first, second = train(lab, 0.5), train(lab, 0.75)
    commit_lock(checkout, first, "v1.0-acc75", f"val accuracy 75%, LakeFS {'a' * 64}, MLflow {second.run_id}")
    with pytest.raises(UsageError, match=f"its message names run {second.run_id}, but its lakefs.lock"):
        choose(lab, "v1.0-acc75")
    git(checkout, "tag", "v0.1-initial", "HEAD~1")
    with pytest.raises(UsageError, match=r"v0\.1-initial names no model"):
        choose(lab, "v0.1-initial")


def test_lock_and_file_need_no_server(lab: Lab, checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = train(lab, 0.5)
    commit_lock(checkout, model)
    copy = lab.lake.verified_file(model.model_path, model.model_sha256, lab.settings.cache_dir)
    lab.settings.model_path.parent.mkdir(parents=True, exist_ok=True)
    lab.settings.model_path.write_bytes(copy.read_bytes())
    chosen = choose_offline(lab, "lock")
    assert (chosen.run_id, chosen.model_path, chosen.data_path) == (model.run_id, model.model_path, model.data_path)
    (checkout / "some.pth").write_bytes(copy.read_bytes())
    assert (
        choose_offline(lab, "some.pth").model_path == model.model_path
        and "model of lakefs.lock" in capsys.readouterr().out
    )
    (checkout / "lakefs.lock").unlink()
    unrecorded = choose_offline(lab, "./some.pth")
    assert not isinstance(unrecorded, Lineage) and unrecorded.model_sha256 == model.model_sha256
    assert "is recorded nowhere (there is no lakefs.lock)" in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"sone\.pth: no such file: did you mean some\.pth\?"):
        choose_offline(lab, "sone.pth")
    lab.settings.model_path.unlink()
    commit_lock(checkout, train(lab, 0.25))
    assert choose(lab, "lock").file != lab.settings.model_path, "downloaded from lakeFS"


def test_without_a_name_git_decides_and_a_difference_is_reported(
    lab: Lab, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = train(lab, 0.5), train(lab, 0.75)
    commit_lock(checkout, old, "v1.0-acc50")
    register(lab, new, "champion")
    assert choose(lab).model_sha256 == new.model_sha256
    assert (
        f"using {lab.name} v1; lakefs.lock names another model, that of run {old.run_id}: python infer.py --model lock uses it"
        in capsys.readouterr().out
    )
    git(checkout, "checkout", "--quiet", "v1.0-acc50")
    assert choose(lab).model_sha256 == old.model_sha256
    assert "Git has v1.0-acc50 checked out: using the model of lakefs.lock" in capsys.readouterr().out
    git(checkout, "checkout", "--quiet", "main")
    commit_lock(checkout, new)
    assert choose(lab).model_sha256 == new.model_sha256
    assert "names another model" not in capsys.readouterr().out
    assert isinstance(choose(lab).data_path, LakePath)
