"""First use: settings, empty data directory, faults in the data, unavailable servers, any state of Git."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.support.project import SOURCE, Project, make_project

SCRIPTS = ("train.py", "register_model.py", "infer.py")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("first"), images=20)


@pytest.mark.parametrize("script", [*SCRIPTS, "lake.py"])
@pytest.mark.parametrize("language", ["ko", "en"])
def test_help_is_fast_and_in_both_languages(project: Project, script: str, language: str) -> None:
    done = project.run(script, "--help", env={"APP_LANG": language})
    assert done.returncode == 0 and "--debug" in done.stdout
    assert ("오류의 자세한 위치" in done.stdout) == (language == "ko")


@pytest.mark.parametrize("script", [*SCRIPTS, "lake.py"])
def test_help_imports_no_heavy_package(script: str) -> None:
    code = (
        "import sys, runpy; sys.argv = [sys.argv[1], '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print('HEAVY', [m for m in ('torch', 'mlflow', 'lakefs_sdk', 'numpy', 'boto3', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, script], cwd=SOURCE, capture_output=True, text=True)
    assert done.stdout.endswith("HEAVY []\n"), done.stdout[-300:] + done.stderr


def test_training_imports_neither_torchvision_nor_the_compiler_of_torch(project: Project) -> None:
    done = project.run("train.py", "--smoke", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "torch.optim.adamw" in imported
    assert imported.isdisjoint({"torchvision", "torch._dynamo"}), "two seconds of the start of each training"


@pytest.mark.parametrize(
    ("arguments", "env", "text"),
    [
        (["--epochs", "0"], {}, "--epochs 0: expected at least 1"),
        (["--lr", "-1"], {}, "--lr -1: expected a number greater than 0"),
        (["--image-size", "4", "4"], {}, "--image-size 4 4: expected sides of 16 to 8192 pixels"),
        (["--device", "tpu"], {}, "--device tpu: expected one of auto, cpu, cuda, mps"),
        (["--loss", "dise"], {}, "--loss dise: expected one of ce, dice, lovasz, ce+dice, ce+lovasz, focal"),
        ([], {"BATCH_SIZE": "sixteen"}, "BATCH_SIZE='sixteen': expected a whole number"),
        ([], {"IMAGE_SIZE": "128"}, "IMAGE_SIZE='128': expected height and width"),
        ([], {"LAKEFS_ENDPOINT": "http://127.0.0.1:1"}, "LAKEFS_ACCESS_KEY_ID, LAKEFS_SECRET_ACCESS_KEY is not"),
        ([], {"LAKEFS_ENDPOINT": "localhost:8000"}, "LAKEFS_ENDPOINT='localhost:8000': expected http(s)://"),
        (["--model", "compact_unett"], {}, "unknown model 'compact_unett' (did you mean 'compact_unet'?)"),
        (["--device", "cuda"], {}, "--device cuda: not on this machine"),
    ],
)
def test_invalid_value_is_named(project: Project, arguments: list[str], env: dict[str, str], text: str) -> None:
    done = project.run("train.py", "--smoke", *arguments, env=env)
    assert done.returncode == 2, done.stdout + done.stderr
    assert text in done.stderr and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("EPOCH=3", "unknown key 'EPOCH': did you mean 'EPOCHS'?"),
        ("LAKEFS_ENDPONT=http://x", "unknown key 'LAKEFS_ENDPONT': did you mean 'LAKEFS_ENDPOINT'?"),
        (
            "MLFLOW_TRACKING_URL=http://x",
            "unknown key 'MLFLOW_TRACKING_URL': did you mean 'MLFLOW_TRACKING_URI'?",
        ),
        ("EPOCHS=many", ".env, line 3: EPOCHS=many: expected a whole number"),
    ],
)
def test_misspelled_setting_in_dotenv_is_reported(project: Project, line: str, text: str) -> None:
    (project.folder / ".env").write_text(f"AWS_REGION=eu\nMLFLOW_TRACKING_USERNAME=me\n{line}\n")
    try:
        done = project.run("train.py", "--check-only")
    finally:
        (project.folder / ".env").unlink()
    assert done.returncode == 2 and text in done.stderr


def test_command_line_overrides_dotenv(project: Project) -> None:
    from tests.support.project import REPORT

    (project.folder / ".env").write_text("APP_LANG=ko\nEPOCHS=1\nMODEL_PATH=models/other.pth\nBATCH_SIZE=\n")
    try:
        done = project.run("train.py", "--epochs", "2", env={"APP_LANG": None})
    finally:
        (project.folder / ".env").unlink()
    assert done.returncode == 0, done.stderr
    assert "에폭 2/2" in done.stdout and (project.folder / "models/other.pth").exists()
    assert REPORT.search(done.stdout) and "경고" not in done.stderr
    params = project.runs()[0].data.params
    assert (params["epochs"], params["batch_size"], params["app_lang"]) == ("2", "4", "ko")


def test_check_only_prints_the_data_and_writes_only_its_page(tmp_path: Path) -> None:
    project = make_project(tmp_path, images=20)
    before = sorted(p for p in project.folder.rglob("*") if ".git/" not in str(p))
    done = project.run("train.py", "--check-only")
    assert done.returncode == 0, done.stderr
    assert "pairs: train 16, val 2, test 2 (20 in all)" in done.stdout and "128x128" in done.stdout
    after = sorted(p for p in project.folder.rglob("*") if ".git/" not in str(p))
    assert [path for path in after if path not in before] == [project.folder / "data/check.html"]
    nothing = project.run("train.py", "--check-only", "--data-dir", str(tmp_path / "models"))
    assert nothing.returncode == 2


def test_all_data_faults_are_listed_and_nothing_is_uploaded(tmp_path: Path) -> None:
    project = make_project(tmp_path, images=20)
    images = sorted((project.folder / "data/images").glob("*.png"))
    images[0].write_bytes(images[0].read_bytes()[:300])
    Image.new("RGB", (64, 64)).save(images[1])
    (project.folder / "data/masks" / images[2].name).unlink()
    done = project.run("train.py")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    for image in images[:3]:
        assert image.name in done.stderr
    assert not (project.folder / ".lakefs/lakefs.db").exists() or not has_runs(project)


def has_runs(project: Project) -> bool:
    client = project.mlflow()
    return any(client.search_runs([e.experiment_id]) for e in client.search_experiments())


def test_empty_data_directory_gets_a_sample_then_the_committed_data(tmp_path: Path) -> None:
    import shutil

    project = make_project(tmp_path, images=0)
    first = project.run("train.py", "--smoke")
    assert first.returncode == 0, first.stderr
    assert "generating a sample set" in first.stdout
    made = {p.name: p.read_bytes() for p in (project.folder / "data/masks").glob("*.png")}
    shutil.rmtree(project.folder / "data")
    second = project.run("train.py", "--smoke")
    assert second.returncode == 0, second.stderr
    assert "is empty: downloading lakefs://" in second.stdout and "data unchanged" in second.stdout
    assert {p.name: p.read_bytes() for p in (project.folder / "data/masks").glob("*.png")} == made


@pytest.mark.parametrize("script", SCRIPTS)
def test_unavailable_mlflow_server_is_an_error(project: Project, script: str) -> None:
    done = project.run(script, env={"MLFLOW_TRACKING_URI": "http://me:hidden@127.0.0.1:9", "LAKEFS_ENDPOINT": ""})
    assert done.returncode == 1 and "MLflow http://127.0.0.1:9: the server does not answer" in done.stderr
    assert "hidden" not in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_unavailable_lakefs_server_is_an_error(project: Project) -> None:
    keys = {"LAKEFS_ACCESS_KEY_ID": "AKIAEXAMPLE", "LAKEFS_SECRET_ACCESS_KEY": "not-to-be-seen"}
    done = project.run("train.py", "--smoke", env={"LAKEFS_ENDPOINT": "http://127.0.0.1:9", **keys})
    assert done.returncode == 1 and "http://127.0.0.1:9" in done.stderr and "does not answer" in done.stderr
    assert "not-to-be-seen" not in done.stdout + done.stderr


def test_debug_prints_the_traceback(project: Project) -> None:
    done = project.run("train.py", "--debug", "--model", "nope")
    assert done.returncode == 2 and "Traceback" in done.stderr


def test_scripts_work_from_another_directory(project: Project, tmp_path: Path) -> None:
    done = project.run("train.py", "--smoke", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("state", ["none", "no commit", "detached", "dirty", "tag", "remote"])
def test_every_git_state_is_recorded(state: str, tmp_path: Path) -> None:
    from core.git import read_facts

    project = make_project(tmp_path, images=0, git=state not in ("none", "no commit"))
    if state == "no commit":
        project.git("init", "--quiet", "--initial-branch=main")
    elif state == "detached":
        project.git("checkout", "--quiet", "--detach")
    elif state == "dirty":
        (tmp_path / "config.py").write_text("# changed\n")
    elif state == "tag":
        project.git("tag", "-a", "v0.1-initial", "-m", "first")
    elif state == "remote":
        project.git("remote", "add", "origin", "https://me:token@example.org/repo.git")
    facts = read_facts(tmp_path)
    known = state not in ("none", "no commit")
    assert (facts.commit != "none") == known
    assert facts.branch == ("none" if state in ("none", "detached") else "main")
    assert facts.dirty == {"none": "none", "no commit": "true", "dirty": "true"}.get(state, "false")
    assert facts.tag == ("v0.1-initial" if state == "tag" else "none")
    assert facts.remote == ("https://example.org/repo.git" if state == "remote" else "none")


@pytest.mark.parametrize("state", ["none", "detached"])
def test_training_works_in_any_git_state(state: str, tmp_path: Path) -> None:
    project = make_project(tmp_path, images=12, git=state == "detached")
    if state == "detached":
        project.git("checkout", "--quiet", "--detach")
    done = project.run("train.py", "--smoke")
    assert done.returncode == 0, done.stderr
    tags = project.runs()[0].data.tags
    assert tags["git_branch"] == "none" and (tags["git_commit"] == "none") == (state == "none")
