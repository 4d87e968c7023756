"""Certificates and proxies: one policy for lakeFS, object storage and MLflow."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import config
from core.errors import AppError, UsageError
from core.hashing import file_sha256
from tests.support import servers, stores
from tests.support.network import (
    HOSTS,
    NetworkLab,
    forward_proxy,
    listen,
    make_authority,
    tls_front,
    tracking_server,
)
from utils import minio_utils, mlflow_utils
from utils.lakefs_client.content import LocalFile
from utils.lakefs_client.http import HttpClient, RetriesExhausted
from utils.lakefs_client.transfer import make_pool
from utils.lakefs_utils import LakePath, connect
from utils.network import policy
from utils.network.certificates import VARIABLES, Certificates
from utils.network.policy import NetworkPolicy
from versioning.server_setup import create_first_admin

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
CLIENTS = ("lakefs", "s3", "mlflow")
OF_AUTHORITIES = (
    *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "AWS_CA_BUNDLE"),
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NetworkLab]:
    folder = tmp_path_factory.mktemp("network")
    right, wrong = make_authority(folder, "right.pem"), make_authority(folder, "wrong.pem")
    with contextlib.ExitStack() as stack:
        lakefs = stack.enter_context(servers.embedded(folder / "lakefs"))
        store = stack.enter_context(stores.s3("moto", folder / "s3"))
        mlflow = stack.enter_context(tracking_server())
        plain = {"lakefs": lakefs.endpoint, "s3": store.endpoint, "mlflow": mlflow}
        ports = {name: stack.enter_context(tls_front(url, right)) for name, url in plain.items()}
        keys = {"lakefs_access_key_id": lakefs.access_key_id, "lakefs_secret_access_key": lakefs.secret_access_key}
        keys |= {"minio_access_key": store.access_key, "minio_secret_key": store.secret_key}
        yield NetworkLab(keys, plain, ports, right, wrong)


@pytest.fixture(autouse=True)
def clean_environment() -> Iterator[None]:
    """Start without network settings, and undo what the code exports to MLflow."""
    before = dict(os.environ)
    for name in (*VARIABLES, *PROXIES, *(name.upper() for name in PROXIES)):
        os.environ.pop(name, None)
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    yield
    os.environ.clear()
    os.environ.update(before)
    policy._exported.clear()


def dead_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def failure(call: Callable[[], object]) -> str:
    """Return the one line of an expected error."""
    with pytest.raises(AppError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- certificates ---


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("variable", OF_AUTHORITIES)
def test_right_authority_in_any_variable_is_trusted_by_every_client(
    lab: NetworkLab, client: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(lab.right.file))
    lab.call(client, lab.url(client, "localhost"))


@pytest.mark.parametrize("variable", ["SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"])
@pytest.mark.parametrize("client", CLIENTS)
def test_directory_of_certificates_is_trusted(lab: NetworkLab, client: str, variable: str, tmp_path: Path) -> None:
    (tmp_path / "company.crt").write_bytes(lab.right.file.read_bytes())
    os.environ[variable] = str(tmp_path)
    lab.call(client, lab.url(client, "localhost"))


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("variable", OF_AUTHORITIES)
def test_wrong_authority_is_one_line_with_variable_and_file(lab: NetworkLab, client: str, variable: str) -> None:
    os.environ[variable] = str(lab.wrong.file)
    text = failure(lambda: lab.call(client, lab.url(client, "localhost")))
    assert "the certificate of localhost is not trusted" in text
    assert f"{variable}={lab.wrong.file}" in text and f"set {variable} to a PEM file" in text


@pytest.mark.parametrize("client", CLIENTS)
def test_unknown_authority_without_any_variable_names_the_one_to_set(lab: NetworkLab, client: str) -> None:
    text = failure(lambda: lab.call(client, lab.url(client, "localhost")))
    assert "not trusted" in text and "the certificates of the system" in text
    assert "set REQUESTS_CA_BUNDLE to a PEM file" in text


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("variable", OF_AUTHORITIES)
@pytest.mark.parametrize(("content", "rule"), [(None, "no such file"), ("no certificate", "expected a PEM file")])
def test_missing_or_damaged_file_is_one_line(
    lab: NetworkLab, client: str, variable: str, content: str | None, rule: str, tmp_path: Path
) -> None:
    file = tmp_path / "company.pem"
    if content is not None:
        file.write_text(content)
    os.environ[variable] = str(file)
    with pytest.raises(UsageError) as caught:
        lab.call(client, lab.url(client, "localhost"))
    assert f"{variable}={file}: {rule}" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("client", CLIENTS)
def test_unusable_file_does_not_matter_without_tls(lab: NetworkLab, client: str, tmp_path: Path) -> None:
    os.environ["REQUESTS_CA_BUNDLE"] = str(tmp_path / "missing.pem")
    lab.call(client, lab.plain[client])


@pytest.mark.parametrize("client", CLIENTS)
def test_certificate_of_another_host_is_refused(lab: NetworkLab, client: str, tmp_path: Path) -> None:
    other = make_authority(tmp_path, "other.pem", ("elsewhere.internal",))
    os.environ["REQUESTS_CA_BUNDLE"] = str(other.file)
    with tls_front(lab.plain[client], other) as port:
        text = failure(lambda: lab.call(client, f"https://localhost:{port}"))
    assert "the certificate of localhost is not valid" in text and "match" in text


@pytest.mark.parametrize("client", CLIENTS)
def test_https_to_a_server_without_tls_is_one_line(lab: NetworkLab, client: str) -> None:
    text = failure(lambda: lab.call(client, lab.plain[client].replace("http://", "https://")))
    assert "no TLS connection to 127.0.0.1" in text and "https://" in text


def test_insecure_tls_is_for_mlflow_only(lab: NetworkLab) -> None:
    os.environ["MLFLOW_TRACKING_INSECURE_TLS"] = "true"
    lab.call("mlflow", lab.url("mlflow", "localhost"))
    for client in ("lakefs", "s3"):
        assert "not trusted" in failure(functools.partial(lab.call, client, lab.url(client, "localhost")))
    os.environ["MLFLOW_TRACKING_SERVER_CERT_PATH"] = str(lab.right.file)
    text = failure(lambda: lab.call("mlflow", lab.url("mlflow", "localhost")))
    assert "both set: unset one" in text


def test_own_variable_replaces_the_system_and_that_of_another_client_adds_to_it(lab: NetworkLab) -> None:
    os.environ["AWS_CA_BUNDLE"] = str(lab.right.file)
    policy_now = NetworkPolicy.from_environment()
    assert not policy_now.certificates("object storage").system
    assert policy_now.certificates("lakeFS").system and policy_now.certificates("MLflow").system


def test_bundle_is_written_once_and_the_policy_stays_that_of_the_user(lab: NetworkLab) -> None:
    os.environ["SSL_CERT_FILE"] = str(lab.right.file)
    before = NetworkPolicy.from_environment()
    lab.call("mlflow", lab.url("mlflow", "localhost"))
    first = os.environ["MLFLOW_TRACKING_SERVER_CERT_PATH"]
    lab.call("mlflow", lab.url("mlflow", "localhost"))
    assert os.environ["MLFLOW_TRACKING_SERVER_CERT_PATH"] == os.environ["REQUESTS_CA_BUNDLE"] == first
    assert first != str(lab.right.file) and os.stat(first).st_mode & 0o777 == 0o600
    assert NetworkPolicy.from_environment() == before
    assert Certificates.of(before.variables, "MLflow").bundle() == first


# --- proxies ---


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_tls_server_behind_a_proxy_is_reached(lab: NetworkLab, client: str, variable: str) -> None:
    os.environ["REQUESTS_CA_BUNDLE"] = str(lab.right.file)
    with forward_proxy() as proxy:
        os.environ[variable] = proxy.url
        lab.call(client, lab.url(client))
    assert set(proxy.targets) == {f"CONNECT {HOSTS[client]}:{lab.ports[client]}"}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "all_proxy"])
def test_server_without_tls_behind_a_proxy_is_reached(lab: NetworkLab, client: str, variable: str) -> None:
    with forward_proxy() as proxy:
        os.environ[variable] = proxy.url
        lab.call(client, lab.plain_url(client))
    assert proxy.targets and all(lab.plain_url(client) in target for target in proxy.targets)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_files_are_uploaded_and_downloaded_through_a_proxy(lab: NetworkLab, scheme: str, tmp_path: Path) -> None:
    url = lab.url("lakefs") if scheme == "https" else lab.plain_url("lakefs")
    os.environ["SSL_CERT_FILE"] = str(lab.right.file)
    keys = {name: value for name, value in lab.keys.items() if "lakefs" in name}
    file = tmp_path / "a.bin"
    file.write_bytes(os.urandom(3 << 20))
    with forward_proxy() as proxy:
        os.environ["ALL_PROXY"] = proxy.url
        name = f"proxied-{scheme}"
        settings = config.load_settings(lakefs_endpoint=url, lakefs_repo=name, lakefs_local_dir=tmp_path / "l", **keys)
        with connect(settings, create=True) as lake:
            done = lake.publish({"a.bin": LocalFile(file, file_sha256(file))}, "data/", "first", {}, mirror=False)
            path = LakePath(lake.repo, done.commit_id, "data/a.bin")
            found = lake.verified_file(path, file_sha256(file), tmp_path / "cache")
            assert found.read_bytes() == file.read_bytes()
    assert len(proxy.heads) > 1


@pytest.mark.parametrize("through_tls", [False, True])
def test_presigned_links_follow_the_policy_of_the_object_storage(lab: NetworkLab, through_tls: bool) -> None:
    os.environ["AWS_CA_BUNDLE"] = str(lab.right.file)
    with forward_proxy(authority=lab.right if through_tls else None) as proxy:
        os.environ["HTTPS_PROXY"] = proxy.url
        settings = config.load_settings(
            minio_endpoint=lab.url("s3"), **{k: v for k, v in lab.keys.items() if "minio" in k}
        )
        minio_utils.ensure_bucket(settings, "presigned")
        s3 = minio_utils.make_client(settings)
        client = HttpClient(make_pool().connection_pool_kw["retries"], 5, 5, "https://lakefs.internal")
        where = {"Bucket": "presigned", "Key": f"tls-{through_tls}"}
        with client.request("PUT", s3.generate_presigned_url("put_object", where), {}, b"x" * 100_000) as response:
            assert response.status == 200
        with client.request("GET", s3.generate_presigned_url("get_object", where), {}) as response:
            assert response.read() == b"x" * 100_000
    assert f"CONNECT store:{lab.ports['s3']}" in proxy.targets


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_dead_proxy_is_one_line_with_the_variable(lab: NetworkLab, client: str, scheme: str) -> None:
    os.environ["REQUESTS_CA_BUNDLE"] = str(lab.right.file)
    dead = f"127.0.0.1:{dead_port()}"
    os.environ[f"{scheme.upper()}_PROXY"] = f"http://me:PASSWORD@{dead}"
    text = failure(lambda: lab.call(client, lab.url(client) if scheme == "https" else lab.plain_url(client)))
    assert f"no answer from the proxy http://{dead} ({scheme.upper()}_PROXY" in text
    assert f"add {HOSTS[client]} to NO_PROXY" in text and "PASSWORD" not in text


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(("status", "advice"), [(403, "allow the host there"), (407, "requires a user and password")])
def test_refusing_proxy_is_one_line_with_the_variable(
    lab: NetworkLab, client: str, scheme: str, status: int, advice: str
) -> None:
    os.environ["REQUESTS_CA_BUNDLE"] = str(lab.right.file)
    with forward_proxy(refuse=status) as proxy:
        os.environ[f"{scheme}_proxy"] = proxy.url
        text = failure(lambda: lab.call(client, lab.url(client) if scheme == "https" else lab.plain_url(client)))
    assert f"the proxy {proxy.url} ({scheme}_proxy)" in text and advice in text and str(status) in text


@pytest.mark.parametrize("client", CLIENTS)
def test_loopback_never_goes_through_a_proxy(lab: NetworkLab, client: str) -> None:
    os.environ["HTTP_PROXY"] = os.environ["HTTPS_PROXY"] = f"http://127.0.0.1:{dead_port()}"
    os.environ["REQUESTS_CA_BUNDLE"] = str(lab.right.file)
    lab.call(client, lab.plain[client])
    lab.call(client, lab.plain[client].replace("127.0.0.1", "localhost"))
    lab.call(client, lab.url(client, "localhost"))


@pytest.mark.parametrize("client", CLIENTS)
def test_credentials_are_sent_to_the_proxy_and_never_shown(lab: NetworkLab, client: str) -> None:
    with forward_proxy() as proxy:
        os.environ["HTTP_PROXY"] = proxy.url.replace("http://", "http://me:p%40ss%2Fword@")
        lab.call(client, lab.plain_url(client))
        sent = [
            head
            for head in proxy.heads
            if "Proxy-Authorization: Basic bWU6cEBzcy93b3Jk" in head.replace("proxy-a", "Proxy-A")
        ]
        assert len(sent) == len(proxy.heads) > 0
        proxy.refuse = 403
        text = failure(lambda: lab.call(client, lab.plain_url(client)))
    assert "word" not in text and "p%40" not in text
    assert "word" not in repr(NetworkPolicy.from_environment())


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "http://127.0.0.1:port", "ftp://u:SECRET@x"])
def test_proxy_that_cannot_be_used_is_one_line(lab: NetworkLab, client: str, proxy: str) -> None:
    os.environ["ALL_PROXY"] = proxy
    with pytest.raises(UsageError, match=r"(?i)^[^\n]*all_proxy[^\n]*NO_PROXY$") as caught:
        lab.call(client, lab.plain_url(client))
    assert "SECRET" not in str(caught.value)
    os.environ["no_proxy"] = "internal,store"
    assert "all_proxy" not in failure(lambda: lab.call(client, f"http://{HOSTS[client]}:{dead_port()}")).lower()


def test_certificate_errors_are_not_retried(lab: NetworkLab) -> None:
    client = HttpClient(make_pool().connection_pool_kw["retries"], 5, 5)
    with pytest.raises(RetriesExhausted), client.request("GET", lab.url("s3", "localhost"), {}):
        pass


def test_server_setup_names_the_proxy(lab: NetworkLab) -> None:
    os.environ["HTTP_PROXY"] = f"http://127.0.0.1:{dead_port()}"
    keys = {name: value for name, value in lab.keys.items() if "lakefs" in name}
    settings = config.load_settings(lakefs_endpoint=lab.plain_url("lakefs"), **keys)
    assert "no answer from the proxy" in failure(lambda: create_first_admin(settings))


def test_silent_proxy_is_given_up_after_the_time_limits(lab: NetworkLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_utils, "HEALTH_S", 0.1)

    def stay_silent(client: socket.socket) -> None:
        while client.recv(1 << 16):
            pass

    with listen(stay_silent) as port:
        os.environ["HTTP_PROXY"] = f"http://127.0.0.1:{port}"
        text = failure(lambda: lab.call("mlflow", lab.plain_url("mlflow")))
    assert "no answer from the proxy" in text
