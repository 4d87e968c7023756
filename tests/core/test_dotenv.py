"""`.env`: encodings of Windows tools, lines that are not KEY=value, variables in values, and variables of libraries."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import config
from core.dotenv_file import load_dotenv, read_dotenv
from core.errors import UsageError
from tests.support.project import COPIED, SOURCE

SETTINGS = ("lakefs_repo", "lakefs_secret_access_key", "data_dir", "minio_secret_key")
TEXT = "# 주석\nLAKEFS_REPO=한글\n"


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    return tmp_path / ".env"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_text_with_a_byte_order_mark_is_read(env_file: Path, encoding: str, newline: str) -> None:
    env_file.write_bytes(TEXT.replace("\n", newline).encode(encoding))
    assert read_dotenv(env_file) == {"LAKEFS_REPO": "한글"}


def test_big_endian_text_is_read(env_file: Path) -> None:
    env_file.write_bytes(b"\xfe\xff" + TEXT.encode("utf-16-be"))
    assert read_dotenv(env_file) == {"LAKEFS_REPO": "한글"}


@pytest.mark.parametrize("encoding", ["cp949", "utf-16-le", "utf-16-be", "shift-jis", "euc-kr"])
def test_other_encodings_are_reported_in_one_line(env_file: Path, encoding: str) -> None:
    env_file.write_bytes("EPOCHS=3\n# 漢字\nLAKEFS_REPO=x\n".encode(encoding))
    with pytest.raises(UsageError, match=r"\.env, line [12]: expected UTF-8") as caught:
        read_dotenv(env_file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        *("LAKEFS_REPO: x", "LAKEFS_REPO", "export LAKEFS_REPO", "LAKEFS_REPO x", "LAKEFS_REPO: = x", "=x", "set A=b"),
        *("[settings]", "9A=b", "A='unfinished", 'A="unfinished', "AKIAIOSFODNN7EXAMPLE", "A＝b"),
    ],
)
def test_line_that_is_not_an_assignment_is_an_error_with_its_number(env_file: Path, line: str) -> None:
    env_file.write_text(f"# comment\n\nEPOCHS=1\n\n{line}\nBATCH_SIZE=2\n")
    with pytest.raises(UsageError, match=r"\.env, line 5: expected KEY=value") as caught:
        read_dotenv(env_file)
    assert "AKIA" not in str(caught.value), "it may be a secret"


def test_quotes_comments_export_and_blanks_are_read(env_file: Path) -> None:
    env_file.write_text("export A = 'x y' # comment\n  B=\"1\"\nC=\n\n#D=4\nE=a#b\n\n  \n")
    assert read_dotenv(env_file) == {"A": "x y", "B": "1", "C": "", "E": "a#b"}


@pytest.mark.parametrize("key", ["LAKEFS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_variable_in_a_secret_is_not_expanded_but_reported(env_file: Path, key: str, quote: str) -> None:
    env_file.write_text(f"{key}={quote}pa${{HOME}}ss{quote}\n")
    with pytest.raises(
        UsageError, match=rf"line 1: {key} contains \$\{{HOME\}}: put the value into single quotes"
    ) as caught:
        read_dotenv(env_file, SETTINGS)
    assert "ss" not in str(caught.value).replace("ACCESS", "").replace("PASSWORD", "").split("contains")[0]


def test_secret_in_single_quotes_and_a_plain_dollar_are_literal(env_file: Path) -> None:
    env_file.write_text("LAKEFS_SECRET_ACCESS_KEY='pa${HOME}ss'\nMINIO_SECRET_KEY=pa$HOMEss\n")
    found = read_dotenv(env_file, SETTINGS)
    assert found == {"LAKEFS_SECRET_ACCESS_KEY": "pa${HOME}ss", "MINIO_SECRET_KEY": "pa$HOMEss"}


def test_variables_of_other_values_are_replaced_and_unknown_ones_are_errors(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BASE_DIR", "/base")
    monkeypatch.delenv("NOT_SET", raising=False)
    env_file.write_text("SUB=photos\nDATA_DIR=${BASE_DIR}/${SUB}/${NOT_SET:-x}\nPOSTGRES_PASSWORD=${OTHER}\n")
    assert read_dotenv(env_file, SETTINGS)["DATA_DIR"] == "/base/photos/x"
    assert read_dotenv(env_file, SETTINGS)["POSTGRES_PASSWORD"] == "${OTHER}", "of another program"
    env_file.write_text("DATA_DIR=${NOT_SET}/photos\n")
    with pytest.raises(UsageError, match=r"line 1: DATA_DIR contains \$\{NOT_SET\}, which is not set"):
        read_dotenv(env_file, SETTINGS)


VARIABLES = {
    "MLFLOW_TRACKING_USERNAME": "me",
    "MLFLOW_TRACKING_PASSWORD": "pw",
    "MLFLOW_TRACKING_TOKEN": "tok",
    "MLFLOW_TRACKING_SERVER_CERT_PATH": "/etc/ca.pem",
    "REQUESTS_CA_BUNDLE": "/etc/ca.pem",
    "SSL_CERT_FILE": "/etc/ca2.pem",
    "NO_PROXY": "localhost",
    "https_proxy": "http://proxy:3128",
}


def test_variables_of_libraries_are_set_for_the_process(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "no_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    env_file.write_text(
        "".join(f"{key}={value}\n" for key, value in VARIABLES.items()) + "PYTHONPATH=/x\nMINIO_IMAGE=m\n"
    )
    before = dict(os.environ)
    try:
        load_dotenv(env_file, SETTINGS, ())
        assert {name: os.environ.get(name) for name in VARIABLES} == VARIABLES
        assert os.environ.keys() - before.keys() == VARIABLES.keys(), "other variables are not set"
    finally:
        for name in VARIABLES:
            os.environ.pop(name, None)


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_environment_wins_over_dotenv(env_file: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv(name, "mine")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "")  # an empty one cancels that of .env
    env_file.write_text("NO_PROXY=theirs\nMLFLOW_TRACKING_USERNAME=them\n")
    load_dotenv(env_file, SETTINGS, ())
    assert os.environ[name] == "mine" and os.environ["MLFLOW_TRACKING_USERNAME"] == ""
    assert name == "NO_PROXY" or "NO_PROXY" not in os.environ


def test_settings_honour_the_variables_of_dotenv(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "ROOT", env_file.parent)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "x")  # so that its end restores the environment
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    env_file.write_text("MLFLOW_TRACKING_USERNAME=me\nLAKEFS_REPO=other-repo\n")
    assert config.load_settings().lakefs_repo == "other-repo"
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "me"


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a function that runs a script of a copy of the project with these bytes as its `.env`."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("config.py", "train.py", "register_model.py", "infer.py", "lake.py"):
        shutil.copy(SOURCE / name, folder / name)
    for name in COPIED:
        (folder / name).symlink_to(SOURCE / name)

    def run_script(content: bytes, *command: str) -> subprocess.CompletedProcess[str]:
        (folder / ".env").write_bytes(content)
        environment = {key: value for key, value in os.environ.items() if key not in ("LAKEFS_REPO", "APP_LANG")}
        return subprocess.run(
            [sys.executable, *command],
            cwd=folder,
            env=environment | {"APP_LANG": "en", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run_script


BROKEN = {
    "UTF-16 without a mark": "EPOCHS=1\n".encode("utf-16-le"),
    "CP949": "# 한글\n".encode("cp949"),
    "colon": b"LAKEFS_REPO: x\n",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("script", ["train.py", "lake.py"])
def test_help_works_and_commands_state_the_fault_in_one_line(run: Run, content: bytes, script: str) -> None:
    assert run(content, script, "--help").returncode == 0
    done = run(content, script, *(["--check-only"] if script == "train.py" else ["status"]))
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert ".env, line 1: expected" in done.stderr


@pytest.mark.parametrize("script", ["register_model.py", "infer.py"])
def test_help_works_with_an_unreadable_dotenv(run: Run, script: str) -> None:
    done = run(b"\xff\xfe\0", script, "--help")
    assert done.returncode == 0 and done.stdout.startswith("usage"), done.stderr
