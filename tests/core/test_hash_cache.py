"""The cache of file hashes: every change is detected, and a damaged database is replaced."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from core.hashing import HashCache, file_sha256


def test_hash_cache_detects_every_change(tmp_path: Path) -> None:
    cache = HashCache(tmp_path / "cache/hashes.db")
    path = tmp_path / "file"
    path.write_bytes(b"one")
    first = cache.sha256(path)
    path.write_bytes(b"two")
    assert cache.sha256(path) == file_sha256(path) != first, "same size and recent time: not trusted"
    old = time.time() - 3600
    os.utime(path, (old, old))
    second = cache.sha256(path)
    assert cache.sha256(path) == second
    path.write_bytes(b"six")
    os.utime(path, (old + 10, old + 10))
    assert cache.sha256(path) == file_sha256(path) != second


def test_hash_cache_is_used_while_the_file_status_is_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = HashCache(tmp_path / "hashes.db")
    path = tmp_path / "file"
    path.write_bytes(b"content")
    os.utime(path, (1_000_000, 1_000_000))
    known = cache.sha256(path)
    cache.close()
    again = HashCache(tmp_path / "hashes.db")

    def unread(path: Path) -> str:
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr("core.hashing.file_sha256", unread)
    assert again.sha256(path) == known


@pytest.mark.parametrize("keep", [0, 50, 5000])
def test_damaged_hash_cache_is_recreated(tmp_path: Path, keep: int) -> None:
    database = tmp_path / "hashes.db"
    cache = HashCache(database)
    for number in range(200):
        path = tmp_path / f"{number}"
        path.write_bytes(b"content")
        os.utime(path, (1_000_000, 1_000_000))
        cache.sha256(path)
    cache.close()
    content = database.read_bytes()
    database.write_bytes(content[:keep] + b"garbage" * 1000 + content[keep + 7000 :])
    cache = HashCache(database)
    assert cache.sha256(tmp_path / "1") == file_sha256(tmp_path / "1")
    cache.close()
