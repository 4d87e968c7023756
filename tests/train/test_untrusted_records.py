"""`--reproduce` of a record that a stranger wrote: settings, code changes and environment, and who vouches for them."""

from __future__ import annotations

import hashlib
import json
import stat
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from config import Settings
from core.errors import UsageError
from tests.support.project import Project
from train.reproduction import patch as patches
from train.reproduction import recipe as recipes
from train.tracking.known_patches import FILE, is_known_patch, remember_patch
from utils import mlflow_utils
from utils.lakefs_utils import LakePath

RUN, DATA, MODEL = "a" * 32, f"lakefs://repo/{'1' * 64}/data/", f"lakefs://repo/{'2' * 64}/models/model.pth"
ENVIRONMENT = {"threads": 2, "cpu": "AMD EPYC", "gpus": [], "memory_gb": 23.5, "torch": "2.15.0"}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A Git repository with the project in a sub-directory, beside another one."""
    project = Project(tmp_path_factory.mktemp("repository"))
    for name in ("project/train.py", "project/README.md", "project/data.bin", "other/code.py"):
        (project.folder / name).parent.mkdir(exist_ok=True)
        (project.folder / name).write_text(f"{name}\n")
    (project.folder / "project/link.py").symlink_to("train.py")
    project.git("init", "--quiet")
    project.git("config", "core.hooksPath", "project/tools/hooks")
    project.git("add", ".")
    project.git("commit", "--quiet", "-m", "first")
    return project


def make_recipe(repository: Project, patch: bytes, **changes: Any) -> recipes.Recipe:
    commit = repository.git("rev-parse", "HEAD")
    values: dict[str, Any] = {
        "settings": {},
        "smoke": False,
        "environment": ENVIRONMENT,
        "packages": [],
        "figures": {},
    } | changes
    return recipes.Recipe(run_id=RUN, commit=commit, patch=patch, data_path=LakePath.parse(DATA), **values)


def new_file(path: str, content: str = "x", mode: str = "100644") -> bytes:
    header = f"diff --git a/{path} b/{path}\nnew file mode {mode}\n--- /dev/null\n+++ b/{path}\n"
    return f"{header}@@ -0,0 +1 @@\n+{content}\n\\ No newline at end of file\n".encode()


CHANGED = (
    b"diff --git a/project/train.py b/project/train.py\n--- a/project/train.py\n+++ b/project/train.py\n"
    b"@@ -1 +1,2 @@\n-project/train.py\n+import os\n+os.system('touch executed')\n"
)
HOSTILE = {
    "link": new_file("project/a.py", "/etc/passwd", "120000"),
    "link to a directory": new_file("project/a", "/", "120000"),
    "file behind a new link": new_file("project/a", "/tmp", "120000") + new_file("project/a/b.py"),
    "file behind a link": new_file("project/link.py/b.py"),
    "submodule": b"diff --git a/project/sub b/project/sub\nnew file mode 160000\n--- /dev/null\n+++ b/project/sub\n"
    b"@@ -0,0 +1 @@\n+Subproject commit " + b"1" * 40 + b"\n",
    "modules": new_file(".gitmodules"),
    "attributes": new_file("project/.gitattributes", "*.py filter=x"),
    "ignored": new_file("project/.gitignore"),
    "workflow": new_file(".github/workflows/run.py"),
    "hook": new_file(".git/hooks/post-checkout", "exec x", "100755"),
    "hook of a directory": new_file("project/.git/hooks/post-checkout.py"),
    "hook in capitals": new_file("project/.GIT/hooks/post-checkout.py"),
    "hook in Windows": new_file("project/git~1/hooks/post-checkout.py"),
    "hook with a dot": new_file("project/.git./config.py"),
    "hook of the configuration": new_file("project/tools/hooks/pre-commit.py", "x", "100755"),
    "husky": new_file("project/.husky/pre-commit.sh"),
    "absolute": new_file("/tmp/a.py"),
    "above": new_file("../a.py"),
    "above in the middle": new_file("project/../../a.py"),
    "drive": new_file("C:/a.py"),
    "backslash": b'diff --git "a/project/a\\\\b.py" "b/project/a\\\\b.py"\nnew file mode 100644\n--- /dev/null\n'
    b'+++ "b/project/a\\\\b.py"\n@@ -0,0 +1 @@\n+x\n',
    "escape": b'diff --git "a/project/\\033[2Ja.py" "b/project/\\033[2Ja.py"\nnew file mode 100644\n--- /dev/null\n'
    b'+++ "b/project/\\033[2Ja.py"\n@@ -0,0 +1 @@\n+x\n',
    "binary": b"diff --git a/project/a.py b/project/a.py\nnew file mode 100644\nGIT binary patch\nliteral 5000000000\nzc\n\n",
    "renamed link": b"diff --git a/project/link.py b/project/b.py\nsimilarity index 100%\nrename from project/link.py\n"
    b"rename to project/b.py\n",
    "file instead of a link": b"diff --git a/project/link.py b/project/link.py\ndeleted file mode 120000\n--- a/project/link.py\n"
    b"+++ /dev/null\n@@ -1 +0,0 @@\n-train.py\n\\ No newline at end of file\n",
    "other mode": b"diff --git a/project/train.py b/project/train.py\nold mode 100644\nnew mode 120000\n",
    "text": b"hello\n",
    "cut": CHANGED[:-20],
    "other commit": CHANGED.replace(b"-project/train.py", b"-something else"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_patch_that_no_training_records_is_refused(repository: Project, name: str, tmp_path: Path) -> None:
    before = repository.git("status", "--porcelain"), repository.git("rev-list", "--all", "--objects")
    with pytest.raises(UsageError, match=f"run {RUN} cannot be reproduced: its code changes") as caught:
        patches.review_patch(make_recipe(repository, HOSTILE[name]), repository.folder / "project")
    assert str(caught.value).isprintable()
    assert before == (repository.git("status", "--porcelain"), repository.git("rev-list", "--all", "--objects"))


def test_patch_is_reduced_to_the_code_of_the_project(repository: Project) -> None:
    patch = CHANGED + new_file("project/new.py") + new_file("project/notes.txt") + new_file("other/new.py")
    review = patches.review_patch(make_recipe(repository, patch), repository.folder / "project")
    assert review.code == (patches.Change("project/new.py", "1", "0"), patches.Change("project/train.py", "2", "1"))
    assert [change.path for change in review.left_out] == ["other/new.py", "project/notes.txt"]
    assert b"notes.txt" not in review.patch and b"other" not in review.patch and b"+import os" in review.patch


def consent(settings: Settings, recipe: recipes.Recipe, repository: Project, trusted: bool = False) -> bytes:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(patches, "ROOT", repository.folder / "project")
        patched.setattr(
            patches, "review_patch", lambda found, real=patches.review_patch: real(found, repository.folder / "project")
        )
        return patches.consented_patch(settings, recipe, trusted)


def test_patch_is_shown_and_needs_consent(
    repository: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, recipe = Settings(lakefs_local_dir=tmp_path / "store"), make_recipe(repository, CHANGED)
    assert consent(settings, replace(recipe, patch=b""), repository) == b""
    capsys.readouterr()
    with pytest.raises(
        UsageError, match=f"not recorded on this machine.*python train.py --reproduce {RUN} --trust-patch"
    ):
        consent(settings, recipe, repository)
    shown = capsys.readouterr().out
    assert recipe.patch_sha256[:12] in shown and "project/train.py" in shown and "+2" in shown and "-1" in shown
    assert b"os.system" in consent(settings, recipe, repository, trusted=True)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    for answers, accepted in ((["maybe", "n"], False), (["y"], True), ([], False)):
        given = iter(answers)

        def answer(_: str, given: Any = given) -> str:
            try:
                return str(next(given))
            except StopIteration:
                raise EOFError from None

        monkeypatch.setattr("builtins.input", answer)
        if accepted:
            assert consent(settings, recipe, repository)
        else:
            with pytest.raises(UsageError, match="were not accepted"):
                consent(settings, recipe, repository)


def test_patch_that_was_recorded_here_needs_no_consent(repository: Project, tmp_path: Path) -> None:
    settings, recipe = Settings(lakefs_local_dir=tmp_path / "store"), make_recipe(repository, CHANGED)
    remember_patch(tmp_path / "store", recipe.patch_sha256)
    remember_patch(tmp_path / "store", recipe.patch_sha256)
    listing = tmp_path / "store" / FILE
    assert stat.S_IMODE(listing.stat().st_mode) == 0o600 and len(listing.read_text().split()) == 1
    assert consent(settings, recipe, repository)
    with pytest.raises(UsageError, match="not recorded on this machine"):
        consent(settings, replace(recipe, patch=CHANGED + new_file("project/more.py")), repository)
    listing.chmod(0o666)
    assert not is_known_patch(tmp_path / "store", recipe.patch_sha256), "others may have written it"
    listing.unlink()
    listing.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_text(recipe.patch_sha256)
    assert not is_known_patch(tmp_path / "store", recipe.patch_sha256)


# --- who vouches ------------------------------------------------------------------------------------------------------


def settings_file(**values: Any) -> bytes:
    return json.dumps({"settings": values, "smoke": False}).encode()


class Servers:
    """An MLflow client and lakeFS that hold one run, as train.py records it."""

    def __init__(self, repository: Project, patch: bytes = CHANGED) -> None:
        self.files = {
            "settings.json": settings_file(epochs=1),
            "environment.json": json.dumps(ENVIRONMENT).encode(),
            "packages.txt": b"torch==2.15.0\n",
            "changes.patch": patch,
        }
        keys = ("settings_sha256", "environment_sha256", "packages_sha256", "git_patch_sha256")
        hashes = {key: hashlib.sha256(c).hexdigest() for key, c in zip(keys, self.files.values(), strict=True) if c}
        self.tags = {"git_commit": repository.git("rev-parse", "HEAD"), "git_patch": "recorded", **hashes}
        self.params = {"lakefs_data_path": DATA, "lakefs_model_path": MODEL}
        self.metadata = {
            "git_commit": self.tags["git_commit"], "mlflow_run_id": RUN, "lakefs_data_path": DATA, **hashes,
        }  # fmt: skip

    def get_run(self, _: str) -> Any:
        data = SimpleNamespace(tags=self.tags, params=self.params)
        return SimpleNamespace(data=data, info=SimpleNamespace(run_id=RUN))

    def download_artifacts(self, _: str, path: str, folder: str) -> str:
        target = Path(folder, path)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(self.files[target.name])
        return str(target)

    def get_metric_history(self, *_: str) -> list[Any]:
        return [SimpleNamespace(step=0, value=0.5)]

    def commit_metadata(self, commit: str, repo: str) -> dict[str, str]:
        return self.metadata if (commit, repo) == ("2" * 64, "repo") else {"mlflow_run_id": "other"}

    def read(self, monkeypatch: pytest.MonkeyPatch, repository: Project) -> recipes.Recipe:
        monkeypatch.setattr(recipes, "ROOT", repository.folder / "project")
        monkeypatch.setattr(mlflow_utils, "download_artifacts", lambda *call: Path(self.download_artifacts(*call[2:])))
        settings = Settings(lakefs_repo="repo")
        return recipes.read_recipe(cast(Any, self), cast(Any, self), settings, RUN)


def test_record_that_both_servers_vouch_for_is_read(repository: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Servers(repository).read(monkeypatch, repository)
    assert (recipe.patch, recipe.settings, recipe.unvouched) == (CHANGED, {"epochs": 1}, ())


@pytest.mark.parametrize("name", ["settings.json", "environment.json", "packages.txt", "changes.patch"])
@pytest.mark.parametrize("tag_too", [False, True], ids=["file", "file and tag"])
def test_file_that_was_changed_since_is_refused(
    repository: Project, monkeypatch: pytest.MonkeyPatch, name: str, tag_too: bool
) -> None:
    servers = Servers(repository)
    servers.files[name] += b" "
    key = {"changes.patch": "git_patch_sha256"}.get(name, f"{name.split('.', maxsplit=1)[0]}_sha256")
    if tag_too:  # whoever can write to MLflow changes both
        servers.tags[key] = hashlib.sha256(servers.files[name]).hexdigest()
    with pytest.raises(
        UsageError, match=f"code/{name} was changed since.*{'lakeFS' if tag_too else 'MLflow'} recorded"
    ):
        servers.read(monkeypatch, repository)


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        *(
            ("tags", key, None)
            for key in ("settings_sha256", "environment_sha256", "packages_sha256", "git_patch_sha256")
        ),
        ("tags", "git_patch", "clean"),
        *(("metadata", key, None) for key in ("settings_sha256", "git_patch_sha256", "git_commit", "lakefs_data_path")),
        ("metadata", "mlflow_run_id", "b" * 32),
        ("params", "lakefs_data_path", f"lakefs://repo/{'3' * 64}/data/"),
        ("params", "lakefs_model_path", f"lakefs://repo/{'3' * 64}/models/model.pth"),
        ("params", "lakefs_model_path", None),
    ],
)
def test_record_that_the_servers_disagree_about_is_refused(
    repository: Project, monkeypatch: pytest.MonkeyPatch, where: str, key: str, value: str | None
) -> None:
    servers = Servers(repository)
    record = getattr(servers, where)
    if value is None:
        del record[key]
    else:
        record[key] = value
    with pytest.raises(UsageError, match=f"run {RUN} cannot be reproduced"):
        servers.read(monkeypatch, repository)


def test_other_git_commit_of_this_clone_is_refused(repository: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody's branch that was fetched is code too."""
    servers = Servers(repository)
    repository.git("commit", "--quiet", "--allow-empty", "-m", "of a stranger")
    servers.tags["git_commit"] = repository.git("rev-parse", "HEAD")
    repository.git("reset", "--quiet", "--hard", "HEAD~1")
    with pytest.raises(
        UsageError, match=r"git_commit: MLflow says .* but the metadata of its model's lakeFS commit say"
    ):
        servers.read(monkeypatch, repository)


def test_commit_of_another_repository_vouches_for_nothing(repository: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may make a repository on the server decides the metadata of its commits."""
    servers = Servers(repository)
    servers.params["lakefs_model_path"] = MODEL.replace("//repo/", "//mallory/")
    monkeypatch.setattr(servers, "commit_metadata", lambda *_: servers.metadata)
    with pytest.raises(UsageError, match="belongs to repository mallory"):
        servers.read(monkeypatch, repository)


def test_patch_for_a_clean_run_is_refused(repository: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    servers = Servers(repository, b"")
    servers.files["changes.patch"] = CHANGED
    servers.tags |= {"git_patch": "recorded", "git_patch_sha256": hashlib.sha256(CHANGED).hexdigest()}
    with pytest.raises(UsageError, match=r"code/changes.patch was changed since"):
        servers.read(monkeypatch, repository)


def test_what_older_runs_lack_is_named(repository: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    servers = Servers(repository)
    for key in ("settings_sha256", "environment_sha256", "packages_sha256"):
        del servers.tags[key], servers.metadata[key]
    del servers.metadata["git_patch_sha256"]
    recipe = servers.read(monkeypatch, repository)
    assert recipe.unvouched == ("settings.json", "environment.json", "packages.txt", "changes.patch")
    servers.files["changes.patch"] += b" "
    with pytest.raises(UsageError, match=r"code/changes.patch was changed since.*MLflow recorded"):
        servers.read(monkeypatch, repository)
