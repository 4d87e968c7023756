"""The embedded store, caches and databases can be read by their owner only, whatever the umask is."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from config import load_settings
from core.files import write_atomically
from core.hashing import HashCache
from core.locks import file_lock, open_exclusive
from core.safety import private_files
from core.safety.private_files import is_private, keep_private, make_directory
from utils.local_lakefs.http_server.server import LocalServer

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has other rights")


@pytest.fixture(params=[0o000, 0o022, 0o077])
def _umask(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(private_files, "_private", set())
    before = os.umask(request.param)
    yield
    os.umask(before)


def open_to_others(folder: Path) -> list[str]:
    """Return what others may read or write at and below a directory."""
    paths = [folder, *folder.rglob("*")]
    return [
        f"{p} {stat.S_IMODE(p.lstat().st_mode):o}" for p in paths if not p.is_symlink() and p.lstat().st_mode & 0o077
    ]


@pytest.mark.usefixtures("_umask")
def test_everything_written_below_a_private_directory_is_private(tmp_path: Path) -> None:
    root = tmp_path / "parent/.lakefs"
    keep_private(root)
    write_atomically(root / "cache/a/b.json", b"{}")
    make_directory(root / "cache/pictures")
    with file_lock(root / "register.lock", ""), open_exclusive(root / "cache/sha256/.x.part") as stream:
        assert stream is not None
    cache = HashCache(root / "cache/hashes.db")
    cache.sha256(root / "cache/a/b.json")
    with LocalServer(root):
        assert (root / "lakefs.db").exists() and (root / "credentials.json").exists()
        assert open_to_others(root) == []
    cache.close()
    write_atomically(tmp_path / "data/image.txt", b"")
    assert (tmp_path / "data/image.txt").stat().st_mode & 0o777 == 0o666 & ~_current_umask(), (
        "other files follow the umask"
    )


def _current_umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value


@pytest.mark.usefixtures("_umask")
def test_store_of_an_earlier_version_becomes_private_at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, outside = tmp_path / ".lakefs", tmp_path / "outside.txt"
    for name in ("lakefs.db", "lakefs.db-wal", "content/" + "a" * 64, "cache/commits/r/c/x.png", "credentials.json"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
        (root / name).chmod(0o644)
    (root / "cache/commits/r/c/x.png").chmod(0o444)
    outside.write_text("mine")
    outside.chmod(0o644)
    (root / "cache/link").symlink_to(outside)
    for folder in (root, root / "cache", root / "cache/commits", root / "content"):
        folder.chmod(0o755)
    monkeypatch.setenv("LAKEFS_LOCAL_DIR", str(root))
    load_settings()
    assert open_to_others(root) == [] and stat.S_IMODE(root.stat().st_mode) == 0o700
    assert stat.S_IMODE((root / "cache/commits/r/c/x.png").stat().st_mode) == 0o400, "read-only files stay so"
    assert stat.S_IMODE(outside.stat().st_mode) == 0o644, "a link is not followed"


def test_other_files_in_the_directory_keep_their_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_files, "_private", set())
    (tmp_path / "thesis").mkdir(mode=0o755)
    (tmp_path / "thesis/text.txt").write_text("x")
    (tmp_path / "cache").mkdir(mode=0o755)
    before = tmp_path.stat().st_mode
    keep_private(tmp_path)
    assert tmp_path.stat().st_mode == before and (tmp_path / "thesis").stat().st_mode & 0o055
    assert open_to_others(tmp_path / "cache") == []
    assert is_private(tmp_path / "cache/x") and not is_private(tmp_path / "thesis/text.txt")
