"""Buckets on an S3 server: made when missing, and a clear answer when that cannot be."""

from __future__ import annotations

import secrets

import pytest

import config
from tests.servers import Storage
from utils import minio_utils
from utils.console import AppError


def settings(storage: Storage, **changes: str) -> config.Settings:
    keys = {"minio_access_key": storage.access_key, "minio_secret_key": storage.secret_key}
    return config.load_settings(**{"minio_endpoint": storage.endpoint, **keys, **changes})


def test_a_bucket_is_made_once(s3: Storage) -> None:
    bucket = f"bucket-{secrets.token_hex(6)}"
    for _ in range(2):
        minio_utils.ensure_bucket(settings(s3), bucket)
    names = [found["Name"] for found in minio_utils.client(settings(s3)).list_buckets()["Buckets"]]
    assert names.count(bucket) == 1


def skip_on_moto(storage: Storage) -> None:
    if storage.access_key == storage.secret_key:
        pytest.skip("moto takes any key and any name")


def test_a_wrong_key_is_said(s3: Storage) -> None:
    skip_on_moto(s3)
    with pytest.raises(AppError, match=r"refused .*: check MINIO_ACCESS_KEY"):
        minio_utils.ensure_bucket(settings(s3, minio_secret_key="wrong-wrong"), "bucket")


def test_an_impossible_name_is_said(s3: Storage) -> None:
    skip_on_moto(s3)
    with pytest.raises(AppError, match="check MINIO_ACCESS_KEY, MINIO_SECRET_KEY and the bucket's name"):
        minio_utils.ensure_bucket(settings(s3), "NO_such_NAME")


def test_a_server_that_is_down_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minio_utils, "ATTEMPTS", 1)
    with pytest.raises(AppError, match=r"http://127.0.0.1:9, s3://bucket: does not answer"):
        minio_utils.ensure_bucket(settings(Storage("http://127.0.0.1:9", "a", "b")), "bucket")
