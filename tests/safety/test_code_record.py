"""What is recorded of uncommitted code: that of this project, without secrets; and what Git says where it cannot be used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from core import git
from core.git import GitFacts, changed_code, read_facts, worktree
from core.provenance import patch as patches
from core.provenance.patch import CodePatch, read_patch
from tests.safety.planted import PASSWORD, PLANTED, WORDS
from tests.support.project import Project
from train.release.publish import require_ready
from train.tracking.environment import read_code_changes


def record(project: Project, secrets: tuple[str, ...] = ()) -> CodePatch:
    found = read_patch(project.folder, secrets)
    assert found is not None
    return found


# --- data ---------------------------------------------------------------------------------------------------------------


def test_new_files_of_the_data_directory_are_not_code(repo: Project) -> None:
    data = repo.folder / "photos"
    (data / "images").mkdir(parents=True)
    (data / "images/a.png").write_bytes(b"png")
    (data / "helper.py").write_text("# how the images were cut")
    assert read_facts(repo.folder, data).dirty == "false" and read_patch(repo.folder, (), data) == CodePatch(b"")
    require_ready(None, None, repo.folder, data)  # type: ignore[arg-type]  # no tag: nothing is asked of lakeFS
    (repo.folder / "helper.py").write_text("x = 2\n")
    assert [change.path for change in changed_code(repo.folder, data) or ()] == ["helper.py"]
    repo.git("add", "photos/helper.py")
    assert len(changed_code(repo.folder, data) or ()) == 2, "what Git tracks is code wherever it is"


# --- secrets --------------------------------------------------------------------------------------------------------------


NO_CODE = ("conf.yaml", "secrets.json", ".netrc", ".pgpass", ".npmrc", "terraform.tfvars", "a.ini", "a.toml", ".env")


def test_no_planted_secret_is_recorded(repo: Project) -> None:
    tracked = {f"tracked_{n}": secret for n, secret in enumerate(PLANTED.values())}
    for name in tracked:
        (repo.folder / f"{name}.py").write_text("x = 1\n")
    for name in NO_CODE:
        (repo.folder / name).write_text("x\n")
    repo.git("add", "--force", ".")
    repo.git("commit", "--quiet", "-m", "second")
    for name, (text, _) in tracked.items():
        (repo.folder / f"{name}.py").write_text(f"x = 1\n{text}\n")
    new = {f"new_{n}": secret for n, secret in enumerate(PLANTED.values())}
    for name, (text, _) in new.items():
        (repo.folder / f"{name}.sh").write_text(f"{text}\n")
    (repo.folder / "train.py").write_text("import helper\n" + "".join(f"# {name}\n" for name in new))
    for name in NO_CODE:
        (repo.folder / name).write_text(f"password = {PASSWORD}\n")
    found = record(repo)
    text = found.patch.decode()
    assert {file.name for file in found.left_out} == {f"{name}.py" for name in tracked} | {f"{name}.sh" for name in new}
    assert {file.reason for file in found.left_out} == {patches.SECRET}
    assert "train.py" in text and text.count("diff --git") == 1
    assert [secret for _, secret in PLANTED.values() if secret in text] == [] and PASSWORD not in text


@pytest.mark.parametrize("place", ["removed", "context", "hunk header"])
def test_secret_that_the_patch_would_only_show_is_not_recorded(place: str, repo: Project) -> None:
    lines = [f"x{n} = {n}" for n in range(40)]
    lines[20] = f"def connect(password='{WORDS}'):" if place == "hunk header" else f"password = '{WORDS}'"
    (repo.folder / "helper.py").write_text("\n".join(lines) + "\n")
    repo.git("commit", "--quiet", "-am", "second")
    changed = {"removed": 20, "context": 22, "hunk header": 30}[place]
    lines[changed] = "y = 1"
    (repo.folder / "helper.py").write_text("\n".join(lines) + "\n")
    found = record(repo)
    assert WORDS.encode() not in found.patch
    assert bool(found.left_out) == (place != "hunk header"), "a secret elsewhere in the file does not matter"


def test_part_of_a_long_secret_is_not_recorded(repo: Project) -> None:
    key = PLANTED["pem"][0].split("\n")
    body = [f"{'Qx7z' * 15}{n:04d}" for n in range(30)]
    (repo.folder / "helper.py").write_text("\n".join([key[0], *body, key[-1], "x = 1"]) + "\n")
    repo.git("commit", "--quiet", "-am", "second")
    body[15] = "changed"
    (repo.folder / "helper.py").write_text("\n".join([key[0], *body, key[-1], "x = 1"]) + "\n")
    found = record(repo)
    assert found.patch == b"" and [file.name for file in found.left_out] == ["helper.py"]


def test_secret_in_a_file_name_is_not_shown(repo: Project) -> None:
    token = PLANTED["github"][1]
    name = "ghp_" + "aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1vW3xY5.py"
    (repo.folder / name).write_text("x = 1\n")
    (repo.folder / "train.py").write_text(f"# {name}\n")
    found = record(repo)
    assert token.encode() not in found.patch and token not in str(found.left_out) + str(found.unused)


@pytest.mark.parametrize("form", ["plain", "base64", "quoted"])
def test_values_of_settings_and_environment_are_not_recorded(
    form: str, repo: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    import base64
    from urllib.parse import quote

    value = "ordinary text/of a key"
    shown = {"plain": value, "base64": base64.b64encode(f"a{value}".encode()).decode(), "quoted": quote(value)}[form]
    (repo.folder / "helper.py").write_text(f"x = '{shown}'\n")
    facts = GitFacts("c", dirty="true")
    if form != "base64":
        assert shown.encode() in read_code_changes(repo.folder, facts, []).patch, "nothing shows that it is one"
    assert shown.encode() not in read_code_changes(repo.folder, facts, [value]).patch
    monkeypatch.setenv("SOME_CREDENTIAL", value)
    changes = read_code_changes(repo.folder, facts, [])
    assert shown.encode() not in changes.patch
    assert changes.state == "incomplete: helper.py (contains a secret)", (
        "--reproduce accepts 'clean' and 'recorded' only"
    )


def test_outputs_of_notebooks_are_not_recorded(repo: Project) -> None:
    def notebook(source: str, printed: str | None) -> str:
        output = [{"output_type": "stream", "name": "stdout", "text": [printed]}] if printed else []
        cell = {"cell_type": "code", "metadata": {"x": printed}, "source": [source], "outputs": output}
        return json.dumps(
            {"cells": [{**cell, "execution_count": 1}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        )

    (repo.folder / "with.ipynb").write_text(notebook("x = 1", "old output"))
    (repo.folder / "ran.ipynb").write_text(notebook("x = 1", "old output"))
    repo.git("add", ".")
    repo.git("commit", "--quiet", "-m", "second")
    (repo.folder / "ran.ipynb").write_text(notebook("x = 1", "other output"))
    (repo.folder / "with.ipynb").write_text(notebook("x = 2", "new output"))
    (repo.folder / "new.ipynb").write_text(notebook("x = 3", "printed"))
    (repo.folder / "train.py").write_text("# new\n")
    found = record(repo)
    assert b"x = 3" in found.patch and b"output\n" not in found.patch and b"printed" not in found.patch
    assert b"old output" not in found.patch and [file.name for file in found.left_out] == ["with.ipynb"]
    assert "ran.ipynb" not in {change.path for change in changed_code(repo.folder) or ()}, "it was only run"


# --- which files ----------------------------------------------------------------------------------------------------------


def test_sibling_directories_of_a_monorepo_are_not_recorded(repo: Project) -> None:
    for team in ("ours", "theirs"):
        (repo.folder / team).mkdir()
        (repo.folder / team / "train.py").write_text("x = 1\n")
    repo.git("add", ".")
    repo.git("commit", "--quiet", "-m", "second")
    ours = repo.folder / "ours"
    (repo.folder / "theirs/train.py").write_text("API = 'topsecret'\n")
    (repo.folder / "theirs/wip.py").write_text("API = 'topsecret'\n")
    (repo.folder / "helper.py").write_text("API = 'topsecret'\n")
    repo.git("add", "theirs/wip.py")
    assert read_facts(ours).dirty == "false" and read_patch(ours, ()) == CodePatch(b"")
    (ours / "train.py").write_text("import own\n")
    (ours / "own.py").write_text("y = 2\n")
    before = repo.git("status", "--porcelain")
    found = read_patch(ours, ())
    assert found is not None and b"topsecret" not in found.patch and b"y = 2" in found.patch
    assert repo.git("status", "--porcelain") == before, "the user's index is unchanged"
    with worktree(ours, repo.git("rev-parse", "HEAD"), found.patch) as copy:
        assert (copy / "own.py").read_text() == "y = 2\n" and (copy / "train.py").read_text() == "import own\n"


def test_only_code_makes_the_tree_dirty(repo: Project) -> None:
    for name in (
        "nohup.out",
        "train.log",
        ".vscode/settings.json",
        ".vscode/x.py",
        "notes.txt",
        "lakefs.lock",
        "a.png",
    ):
        (repo.folder / name).parent.mkdir(exist_ok=True)
        (repo.folder / name).write_text("x\n")
    assert read_facts(repo.folder).dirty == "false" and record(repo) == CodePatch(b"")
    (repo.folder / "new.py").write_text("x\n")
    (repo.folder / "train.py").write_text("x\n")
    changes = changed_code(repo.folder)
    assert read_facts(repo.folder).dirty == "true" and git.describe_changes(changes) == "train.py, new.py"


def test_list_of_code_files_adds_and_excludes(repo: Project) -> None:
    (repo.folder / "configs").mkdir()
    (repo.folder / ".codefiles").write_text("configs/*.yaml\n!scratch.py\n")
    (repo.folder / "configs/a.yaml").write_text("depth: 3\n")
    (repo.folder / "scratch.py").write_text("x = 1\n")
    found = record(repo)
    assert b"depth: 3" in found.patch and b"scratch" not in found.patch and found.unused == ()


def test_new_file_that_no_code_mentions_is_named_and_not_recorded(repo: Project) -> None:
    (repo.folder / "scratch.py").write_text("x = 1\n")
    (repo.folder / "used.py").write_text("from pkg import deep\n")
    (repo.folder / "pkg").mkdir()
    (repo.folder / "pkg/__init__.py").write_text("")
    (repo.folder / "pkg/deep.py").write_text("z = 1\n")
    (repo.folder / "helper.py").write_text("import used\n")
    found = record(repo)
    assert found.unused == ("scratch.py",) and b"scratch" not in found.patch
    assert b"z = 1" in found.patch and b"b/pkg/__init__.py" in found.patch


@pytest.mark.parametrize(
    "option", ["diff.noprefix", "diff.mnemonicPrefix", "diff.suppressBlankEmpty", "color.diff", "diff.relative"]
)
def test_patch_applies_whatever_the_configuration_says(option: str, repo: Project) -> None:
    repo.git("config", option, "always" if option == "color.diff" else "true")
    lines = (repo.folder / "helper.py").read_text().split("\n")
    lines[5] = ""
    (repo.folder / "helper.py").write_text("\n".join(lines))
    repo.git("commit", "--quiet", "-am", "second")
    lines[6] = "y = '한글'"
    (repo.folder / "helper.py").write_text("\n".join(lines))
    (repo.folder / "새 파일.py").write_text("z = 1")
    (repo.folder / "train.py").unlink()
    (repo.folder / ".codefiles").write_text("*.py\n")
    found = record(repo)
    assert found.left_out == ()
    with worktree(repo.folder, repo.git("rev-parse", "HEAD"), found.patch) as copy:
        assert {file.name for file in copy.iterdir()} == {".git", "helper.py", "새 파일.py"}
        assert (copy / "helper.py").read_text() == "\n".join(lines)


def test_binary_large_and_linked_files_are_named_or_safe(repo: Project, tmp_path: Path) -> None:
    (tmp_path / "outside.py").write_text(f"password = '{WORDS}'\n")
    (repo.folder / "binary.py").write_bytes(b"\0\1")
    (repo.folder / "large.py").write_text("x = 1\n" * 200_000)
    (repo.folder / "linked.py").symlink_to(tmp_path / "outside.py")
    (repo.folder / "train.py").write_text("# binary large linked\n")
    found = record(repo)
    assert {(file.name, file.reason) for file in found.left_out} == {
        ("binary.py", patches.BINARY),
        ("large.py", patches.LARGE),
    }
    assert WORDS.encode() not in found.patch, "a link is recorded, not what it leads to"


@pytest.mark.parametrize("case", ["code", "log", "ignored", "no git"])
def test_git_tag_considers_code_only_and_names_the_files(case: str, repo: Project) -> None:
    from core.errors import UsageError
    from train.release.publish import require_ready

    repo.git("config", "user.name", "Test")
    repo.git("config", "user.email", "test@example.org")
    ready: Callable[[], None] = lambda: require_ready(None, "auto", repo.folder)  # type: ignore[arg-type] # noqa: E731
    if case == "log":
        (repo.folder / "train.log").write_text("x\n")
        (repo.folder / "nohup.out").write_text("x\n")
        ready()
        return
    if case == "code":
        (repo.folder / "helper.py").write_text("x\n")
    elif case == "ignored":
        repo.git("rm", "--cached", "--quiet", "train.py")
        repo.git("commit", "--quiet", "-m", "dotfiles")
    else:
        shutil.rmtree(repo.folder / ".git")
    with pytest.raises(
        UsageError, match={"code": "helper.py", "ignored": "does not track", "no git": "not a Git"}[case]
    ):
        ready()
