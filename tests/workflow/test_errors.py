"""Errors are one line with a fix and an exit code, and never contain a password."""

from __future__ import annotations

import logging
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

import config
from core.errors import AppError, UsageError
from tests.support.faults import fault_proxy
from tests.support.project import SOURCE, Project, make_project
from tests.support.servers import Server
from utils.lakefs_utils import LakeFS, connect
from utils.mlflow_utils import convert_errors
from versioning import server_setup

DEAD = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("errors") / "project", images=0, git=False)


def run_failing(project: Project, *command: str, code: int, **env: str) -> str:
    """Run a command that must fail; return its one line of error output."""
    done = project.run(*command, env=env)
    assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def endpoint_environment(endpoint: str) -> dict[str, str]:
    return {"LAKEFS_ENDPOINT": endpoint, "LAKEFS_ACCESS_KEY_ID": "key", "LAKEFS_SECRET_ACCESS_KEY": "secret"}


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("LAKEFS_REPO", "BAD_NAME", "3 to 63 lower-case letters"),
        ("LAKEFS_REPO", "-ab", "not starting with '-'"),
        ("LAKEFS_BRANCH", "a/b", "letters, digits"),
        ("LAKEFS_BRANCH", "가", "letters, digits"),
        ("MINIO_BUCKET", "a bucket", "3 to 63 lower-case letters"),
        ("REGISTERED_MODEL", "a/b", "without '/', '@', ':'"),
        ("REGISTERED_MODEL", "a@b", "without '/', '@', ':'"),
        ("REGISTERED_MODEL", "..", "without '/', '@', ':'"),
        ("LAKEFS_ENDPOINT", "http://127.0.0.1:99999", "http(s)://HOST[:PORT]"),
        ("LAKEFS_ENDPOINT", "http://127.0.0.1:x", "http(s)://HOST[:PORT]"),
        ("LAKEFS_ENDPOINT", "http://", "http(s)://HOST[:PORT]"),
        ("MINIO_ENDPOINT", "127.0.0.1:9000", "http(s)://HOST[:PORT]"),
    ],
)
def test_invalid_setting_error_states_the_rule(
    name: str, value: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as caught:
        config.load_settings()
    assert str(caught.value).startswith(f"{name}={value!r}: expected") and rule in str(caught.value)


@pytest.mark.parametrize("name", ["lakefs_endpoint", "minio_endpoint"])
@pytest.mark.parametrize("scheme", ["http://", "ftp://", ""])
def test_password_in_an_endpoint_is_refused_and_not_shown(name: str, scheme: str) -> None:
    with pytest.raises(UsageError, match=r"no user and password in the URL: put them into [A-Z]+_") as caught:
        config.load_settings(**{name: f"{scheme}user:hunter2@127.0.0.1:8000"})
    assert "hunter2" not in str(caught.value) and "user:" not in str(caught.value)


def test_password_in_the_mlflow_address_is_never_shown(project: Project) -> None:
    from mlflow.exceptions import MlflowException

    uri = "http://user:hunter2@127.0.0.1:9"
    settings = config.load_settings(mlflow_tracking_uri=uri)
    words = r"\(MLflow http://127.0.0.1:9\): no answer of http://127.0.0.1:9/api"
    with pytest.raises(AppError, match=words), convert_errors(settings, "asking"):
        raise MlflowException(f"no answer of {uri}/api")
    reported = run_failing(project, "infer.py", code=1, MLFLOW_TRACKING_URI=uri)
    assert "MLflow http://127.0.0.1:9: the server does not answer" in reported


def test_unavailable_server_is_a_one_line_error(project: Project, lakefs_server: Server) -> None:
    """Retries too are silent: the SDK turns urllib3's warnings on again."""
    before = logging.getLogger("urllib3").level
    LakeFS(DEAD, "key", "secret", "repo", "main")
    with pytest.raises(AppError, match="does not answer"):
        server_setup.create_first_admin(config.load_settings(lakefs_endpoint=DEAD, **credentials("key", "secret")))
    assert logging.getLogger("urllib3").level == before
    for command in ("status", "log", "verify", "trace"):
        arguments = ["main"] if command == "trace" else []
        assert f"lakeFS {DEAD}" in run_failing(
            project, "lake.py", command, *arguments, code=1, **endpoint_environment(DEAD)
        )
    with fault_proxy(lakefs_server.endpoint) as faults:
        faults.match, faults.statuses = "config", [503, 503]
        env = endpoint_environment(faults.endpoint) | {
            "LAKEFS_ACCESS_KEY_ID": lakefs_server.access_key_id,
            "LAKEFS_SECRET_ACCESS_KEY": lakefs_server.secret_access_key,
            "LAKEFS_REPO": f"no-{secrets.token_hex(6)}",  # other tests may have created the default repository
        }
        reported = run_failing(project, "lake.py", "log", code=2, **env)
        assert "has no repository" in reported and not faults.statuses, "both requests were retried without a message"


def test_cached_model_and_data_need_no_server(once_trained: Project) -> None:
    data = once_trained.runs()[0].data.params["lakefs_data_path"]
    image = str(min((once_trained.folder / "data/images").iterdir()))
    commands = ["infer.py", "--input", image], ["train.py", "--check-only", "--data-ref", data], ["infer.py"]
    for env in ({}, endpoint_environment(DEAD)):
        for command in commands:
            done = once_trained.run(*command, env=env)
            assert done.returncode == 0 and ("was not contacted" in done.stdout) == bool(env), done.stdout + done.stderr
    reported = once_trained.run("infer.py", env=endpoint_environment(DEAD) | {"LAKEFS_LOCAL_DIR": "elsewhere"})
    assert (
        reported.returncode == 1
        and f"lakeFS {DEAD}" in reported.stderr
        and "the server does not answer" in reported.stderr
    )


def credentials(access: str, secret: str) -> dict[str, str]:
    return {"lakefs_access_key_id": access, "lakefs_secret_access_key": secret}


def settings_of(server: Server, **changes: str) -> config.Settings:
    return config.load_settings(
        lakefs_endpoint=server.endpoint,
        lakefs_storage_namespace=server.storage_namespace,
        lakefs_repo=f"repo-{secrets.token_hex(6)}",
        **credentials(server.access_key_id, server.secret_access_key),
        **changes,
    )


def test_invalid_requests_are_usage_errors_and_invalid_responses_are_reported(lakefs_server: Server) -> None:
    import lakefs_sdk

    with connect(settings_of(lakefs_server), create=True) as lake:
        with pytest.raises(UsageError, match="id"), lake.convert_errors("a tag"):
            lake.connection.sdk.tags_api.create_tag(lake.repo, lakefs_sdk.TagCreation(id=None, ref="main"))
        with pytest.raises(UsageError, match="amount"), lake.convert_errors("a listing"):
            lake.connection.sdk.branches_api.list_branches(lake.repo, amount=100_000)
        lake.connection.sdk._api.rest_client.pool_manager.request = lambda *_, **__: Page()
        with pytest.raises(AppError, match="not a response of lakeFS: check LAKEFS_ENDPOINT") as caught:
            lake.head()
        assert not isinstance(caught.value, UsageError)


class Page:
    """What another program answers."""

    status, reason, headers, data = 200, "OK", {"content-type": "application/json"}, b'{"name": "somebody else"}'


def test_protected_branch_is_not_reported_as_a_wrong_key(lakefs_server: Server) -> None:
    from lakefs_sdk.exceptions import ForbiddenException

    with connect(settings_of(lakefs_server), create=True) as lake:
        error = ForbiddenException(status=403, reason="Forbidden")
        error.body = '{"message": "cannot write to protected branch"}'
        with (
            pytest.raises(AppError, match=r"403 Forbidden: cannot write to protected branch$"),
            lake.convert_errors("x"),
        ):
            raise error
        if lakefs_server.kind == "real":
            lake.protect()
            with pytest.raises(AppError, match="403 Forbidden: cannot write to protected branch"):
                for _ in range(200):  # the rule takes effect after some seconds
                    with lake.convert_errors("writing"):
                        lake.connection.sdk.objects_api.upload_object(lake.repo, "main", "x", content=b"x")


def test_embedded_server_command_line(tmp_path: Path) -> None:
    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "utils.local_lakefs", *arguments]
        return subprocess.run(command, cwd=SOURCE, env=os.environ | env, capture_output=True, text=True, timeout=300)

    store = tmp_path / "store"
    for arguments, env, code, words in (
        (["fsck", "--dir", str(store)], {}, 2, "error: no embedded lakeFS in"),
        (["fsck", "--dir", str(store)], {"APP_LANG": "ko"}, 2, "오류: "),
        (["--port", "99999", "--dir", str(store)], {}, 2, "--port 99999: expected 0 to 65535"),
        (["--port", "0", "--dir", str(store)], {"EPOCHS": "0"}, 2, "error: EPOCHS=0: expected at least 1"),
    ):
        done = run(*arguments, **env)
        assert done.returncode == code and words in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not store.exists()
    store.mkdir()
    (store / "lakefs.db").write_bytes(b"no database" * 1000)
    for arguments in (["fsck"], ["gc"], ["--port", "0"]):
        done = run(*arguments, "--dir", str(store))
        (line,) = done.stderr.splitlines()
        assert done.returncode == 1 and f"error: {store / 'lakefs.db'}: not a readable database" in line
    assert "도움말" not in run("--help").stdout and "기본" in run("--help", APP_LANG="ko").stdout
