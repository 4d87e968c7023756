"""Object storage: buckets, health, listings, presigned links, and import into lakeFS without copies."""

from __future__ import annotations

import secrets
import shutil
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import config
from core.errors import AppError, UsageError
from core.files import safe_join
from tests.support import servers, stores
from tests.support.servers import Server, branches
from tests.support.stores import Storage
from utils import minio_utils
from utils.lakefs_client.bucket_import import ABANDONED_S
from utils.lakefs_client.publish import Publisher
from utils.lakefs_client.refs import Refs
from utils.lakefs_utils import LakePath, connect
from versioning import bucket_import, server_setup


def settings(storage: Storage, **changes: str) -> config.Settings:
    keys = {"minio_access_key": storage.access_key, "minio_secret_key": storage.secret_key}
    return config.load_settings(**{"minio_endpoint": storage.endpoint, **keys, **changes})


def test_bucket_is_created_once(s3: Storage) -> None:
    bucket = f"bucket-{secrets.token_hex(6)}"
    for _ in range(2):
        minio_utils.ensure_bucket(settings(s3), bucket)
    names = [found["Name"] for found in minio_utils.make_client(settings(s3)).list_buckets()["Buckets"]]
    assert names.count(bucket) == 1


def skip_on_moto(storage: Storage) -> None:
    if storage.store == "moto":
        pytest.skip("moto takes any key and any name")


def test_wrong_key_is_reported(s3: Storage) -> None:
    skip_on_moto(s3)
    with pytest.raises(AppError, match=r"refused .*: check MINIO_ACCESS_KEY"):
        minio_utils.ensure_bucket(settings(s3, minio_secret_key="wrong-wrong"), "bucket")


@pytest.mark.parametrize("bucket", ["NO_such_NAME", "a bucket", "ab", "-ab"])
def test_invalid_bucket_name_is_refused_without_a_request(bucket: str) -> None:
    nowhere = settings(Storage("http://127.0.0.1:9", "a", "b"))
    with pytest.raises(UsageError, match=f"bucket name '{bucket}': expected 3 to 63 lower-case letters"):
        minio_utils.ensure_bucket(nowhere, bucket)
    with pytest.raises(UsageError, match="s3://a bucket/: invalid name"):
        list(minio_utils.list_objects(nowhere, "a bucket", ""))


def test_unavailable_server_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minio_utils, "ATTEMPTS", 1)
    with pytest.raises(AppError, match=r"http://127.0.0.1:9, s3://bucket: the server does not answer"):
        minio_utils.ensure_bucket(settings(Storage("http://127.0.0.1:9", "a", "b")), "bucket")


@pytest.fixture(scope="module")
def filled_bucket(s3: Storage) -> str:
    """A bucket with 1,001 objects, one more than a listing page."""
    bucket = f"bucket-{secrets.token_hex(6)}"
    minio_utils.ensure_bucket(settings(s3), bucket)
    client = minio_utils.make_client(settings(s3))
    for number in range(1001):
        client.put_object(Bucket=bucket, Key=f"many/{number:04}", Body=b"x")
    client.put_object(Bucket=bucket, Key="other/한글 a+b.txt", Body=b"content")
    return bucket


def test_listing_and_presigned_links(s3: Storage, filled_bucket: str) -> None:
    assert filled_bucket in minio_utils.list_buckets(settings(s3))
    assert len(list(minio_utils.list_objects(settings(s3), filled_bucket, "many/"))) == 1001
    assert list(minio_utils.list_objects(settings(s3), filled_bucket, "other/")) == [("other/한글 a+b.txt", 7)]
    link = minio_utils.make_presigned_link(settings(s3), filled_bucket, "other/한글 a+b.txt", 60)
    assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in link and "X-Amz-Expires=60" in link
    with urllib.request.urlopen(link, timeout=30) as answer:
        assert answer.read() == b"content"
    with pytest.raises(AppError, match=r"other/none: does not exist"):
        minio_utils.make_presigned_link(settings(s3), filled_bucket, "other/none")


def test_health_reports_the_problem(s3: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    minio_utils.check_health(settings(s3), None)
    with pytest.raises(AppError, match=r"s3://no-such-bucket: does not exist \(NoSuchBucket\)"):
        minio_utils.check_health(settings(s3), "no-such-bucket")
    monkeypatch.setattr(minio_utils, "ATTEMPTS", 1)
    with pytest.raises(AppError, match="does not answer"):
        minio_utils.check_health(settings(Storage("http://127.0.0.1:9", "a", "b")), "bucket")
    skip_on_moto(s3)
    for keys in ({"minio_secret_key": "wrong-wrong"}, {"minio_access_key": "nobody"}):
        with pytest.raises(AppError, match="wrong key or region"):
            minio_utils.check_health(settings(s3, **keys), "bucket")


def test_region_and_address_style_are_configurable(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage("http://storage.example", "key", "secret")
    monkeypatch.setenv("MINIO_REGION", "ap-northeast-2")
    parameters = {"Bucket": "lake", "Key": "a"}
    link = minio_utils.make_client(settings(storage)).generate_presigned_url("get_object", parameters)
    assert link.startswith("http://storage.example/lake/a?") and "ap-northeast-2%2Fs3" in link
    monkeypatch.setenv("MINIO_PATH_STYLE", "False")
    link = minio_utils.make_client(settings(storage)).generate_presigned_url("get_object", parameters)
    assert link.startswith("http://lake.storage.example/a?")
    monkeypatch.setenv("MINIO_PATH_STYLE", "maybe")
    with pytest.raises(UsageError, match="MINIO_PATH_STYLE='maybe': expected true or false"):
        config.load_settings()


@pytest.mark.parametrize("uri", ["lake/a", "s3://", "s3:///a", "http://lake/a"])
def test_invalid_s3_path_is_refused(uri: str) -> None:
    with pytest.raises(UsageError, match="not an S3 path"):
        minio_utils.split_uri(uri)
    with pytest.raises(UsageError, match="not an S3 path"):
        minio_utils.split_uri("s3://lake/", key_needed=True)


def test_command_line(s3: Storage, filled_bucket: str, capfd: pytest.CaptureFixture[str]) -> None:
    environment = {"MINIO_ENDPOINT": s3.endpoint, "MINIO_ACCESS_KEY": s3.access_key, "MINIO_SECRET_KEY": s3.secret_key}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("LAKEFS_STORAGE_NAMESPACE", raising=False)
        for name, value in (environment | {"MINIO_BUCKET": filled_bucket}).items():
            patch.setenv(name, value)
        assert minio_utils.main(["health"]) == 0
        assert minio_utils.main(["list", f"s3://{filled_bucket}/other/"]) == 0
        assert minio_utils.main(["link", f"s3://{filled_bucket}/many/0000", "--expires", "5"]) == 0
        patch.delenv("LAKEFS_ENDPOINT", raising=False)
        assert minio_utils.main(["import", f"s3://{filled_bucket}/many"]) == 2, "an alias of lake.py import"
        with pytest.raises(UsageError, match="--expires 0"):
            minio_utils.main(["link", f"s3://{filled_bucket}/many/0000", "--expires", "0"])
    shown, errors = capfd.readouterr()
    assert "import needs a real lakeFS" in errors
    assert f"healthy: {s3.endpoint}, s3://{filled_bucket}" in shown
    assert "1 object, 7 B" in shown and "X-Amz-Expires=5" in shown


@pytest.fixture(scope="module", params=stores.installed() if shutil.which("lakefs") else [])
def over_store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Real lakeFS over each installed store; without lakeFS or a store, its tests are skipped."""
    with servers.real(tmp_path_factory.mktemp("import"), store=request.param) as server:
        yield server


def import_settings(server: Server) -> config.Settings:
    assert server.storage
    return settings(server.storage, **server.settings())


def test_import_commits_a_bucket_without_copies(over_store: Server, tmp_path: Path) -> None:
    chosen, bucket = import_settings(over_store), f"photos-{secrets.token_hex(6)}"
    minio_utils.ensure_bucket(chosen, bucket)
    s3 = minio_utils.make_client(chosen)
    for key in ("set/images/a.png", "set/masks/a.png", "settle/b.png"):
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    for again in (False, True):  # the second call changes nothing
        bucket_import.import_prefix(chosen, f"s3://{bucket}/set", "data", replace=again)
    with connect(chosen) as lake:
        server_setup.install_gate(lake, require_passed=False)
        assert [file.path for file in lake.objects("main", "data/")] == ["data/images/a.png", "data/masks/a.png"]
        physical = lake.connection.sdk.objects_api.stat_object(
            chosen.lakefs_repo, "main", "data/images/a.png"
        ).physical_address
        assert physical == f"s3://{bucket}/set/images/a.png"
        source = LakePath(lake.repo, lake.head(), "data/images/a.png")
        assert safe_join(lake.download(source, tmp_path), source.path).read_bytes() == b"set/images/a.png"
        with pytest.raises(UsageError, match=r"already has files: use --replace"):
            bucket_import.import_prefix(chosen, f"s3://{bucket}/set", "data/", replace=False)
        s3.delete_object(Bucket=bucket, Key="set/masks/a.png")
        with pytest.raises(AppError, match="without exactly one partner"):  # the gate applies to imports too
            bucket_import.import_prefix(chosen, f"s3://{bucket}/set", "data/", replace=True)
        s3.put_object(Bucket=bucket, Key="set/masks/a.png", Body=b"new mask")
        bucket_import.import_prefix(chosen, f"s3://{bucket}/set", "data/", replace=True)
        metadata = lake.commit_metadata(lake.head())
        assert metadata["import_source"] == f"s3://{bucket}/set/" and "git_commit" in metadata
        assert "data_layout" not in metadata
        for key in ("other/imgs/a.jpg", "other/masks/a_mask.png"):  # names that the gate cannot match by itself
            s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
        bucket_import.import_prefix(chosen, f"s3://{bucket}/other", "data/", replace=True)
        assert "NAME_mask" in lake.commit_metadata(lake.head())["data_layout"]
        assert branches(lake) == ["main"]


def test_concurrent_imports_do_not_interfere(over_store: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second took the private branch of the first away, which then failed; what a kill left goes after a day."""
    chosen, bucket = import_settings(over_store), f"photos-{secrets.token_hex(6)}"
    minio_utils.ensure_bucket(chosen, bucket)
    for number in range(20):
        minio_utils.make_client(chosen).put_object(Bucket=bucket, Key=f"set/{number}.png", Body=b"%d" % number)
    with connect(chosen, create=True) as lake:
        both, merge = threading.Barrier(2, timeout=30), Publisher.merge_into_target

        def together(self: Publisher, work: str, *arguments: Any) -> str | None:
            both.wait()
            return merge(self, work, *arguments)

        with monkeypatch.context() as patch, ThreadPoolExecutor(2) as pool:
            patch.setattr(Publisher, "merge_into_target", together)
            calls = [
                pool.submit(bucket_import.import_prefix, chosen, f"s3://{bucket}/set", "data", replace=True)
                for _ in range(2)
            ]
            for call in calls:
                call.result()
        assert len(list(lake.objects("main", "data/"))) == 20
        assert branches(lake) == ["main"]

        def killed(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Publisher, "merge_into_target", killed)
            patch.setattr(Refs, "delete_branch", killed)
            with pytest.raises(KeyboardInterrupt):
                bucket_import.import_prefix(chosen, f"s3://{bucket}/set", "more", replace=False)
        bucket_import.import_prefix(chosen, f"s3://{bucket}/set", "more", replace=False)
        assert len(branches(lake)) == 2, "the branch may belong to a call in progress"
        now = time.time()
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: now + ABANDONED_S + 60)
            bucket_import.import_prefix(chosen, f"s3://{bucket}/set", "more", replace=True)
        assert branches(lake) == ["main"]


def test_empty_prefix_is_reported(over_store: Server) -> None:
    with pytest.raises(AppError, match="s3://lake/none/: no objects"):
        bucket_import.import_prefix(import_settings(over_store), "s3://lake/none", "data/", replace=False)
