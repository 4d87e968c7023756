"""File transfers: identical objects by every route, interrupted downloads, full disks, bounded memory."""

from __future__ import annotations

import mimetypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import lakefs_sdk as sdk
import pytest

import config
from core.errors import AppError, UsageError
from core.hashing import file_sha256
from tests.support.faults import Faults
from tests.support.project import OWN_NAMES, SOURCE
from tests.support.publish_helpers import publish_file, random_file
from tests.support.servers import Server
from utils.lakefs_client import content, multipart, transfer
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import LakeFS, LakePath
from versioning import push, sync

resource = pytest.importorskip("resource", reason="limits of processes: not on Windows")

pytestmark = pytest.mark.usefixtures("quick_retries")


@pytest.fixture
def lake(faulty_lake: tuple[LakeFS, Faults]) -> LakeFS:
    return faulty_lake[0]


def test_content_types_do_not_depend_on_the_python_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.13 knows .webp, 3.11 does not: the same file would become a different object."""
    monkeypatch.setitem(mimetypes._types_map_default, ".webp", "image/webp")  # type: ignore[attr-defined]
    names = ("a/b.PNG", "x.jpg", "x.jpeg", "x.json", "x.txt", "x.csv", "x.tif", "x.webp", "model.pth", "none")
    assert [content.content_type(name) for name in names] == [
        "image/png",
        "image/jpeg",
        "image/jpeg",
        "application/json",
        "text/plain",
        "text/csv",
        "image/tiff",
        *["application/octet-stream"] * 3,
    ]


@pytest.mark.parametrize(
    "size", [0, 1, transfer.SMALL, transfer.SMALL + 1, multipart.MULTIPART, multipart.MULTIPART + 5]
)
def test_every_upload_method_stores_the_same_object(lake: LakeFS, tmp_path: Path, size: int) -> None:
    file, moved = random_file(tmp_path, size), lake.connection.transfer.http.moved
    commit = publish_file(lake, file)
    sent = moved.value
    assert size <= sent <= size + 10_000, "the progress of a large file counts its bytes, whatever the method"
    remote = next(lake.objects(commit, "data/x"))
    assert (remote.size_bytes, remote.sha256) == (size, file.sha256)
    path = lake.verified_file(LakePath(lake.repo, commit, "data/x"), file.sha256, tmp_path / "cache")
    assert file_sha256(path) == file.sha256 and moved.value - sent >= size
    assert lake.publish({"x": file}, "data/", "m", {}, mirror=True).uploaded == 0


def test_cached_commit_needs_no_server_until_a_file_is_truncated(lake: LakeFS, tmp_path: Path) -> None:
    file = random_file(tmp_path, 1000)
    source = LakePath(lake.repo, publish_file(lake, file), "data/")
    tree = lake.download(source, tmp_path / "cache")
    away = LakeFS("http://127.0.0.1:9", "a", "b", lake.repo, "main")
    assert away.download(source, tmp_path / "cache") == tree
    path = tree / "data/x"
    path.unlink()
    path.write_bytes(b"cut")  # not through the hard link: the content-addressed copy stays intact
    assert lake.download(source, tmp_path / "cache") == tree and file_sha256(path) == file.sha256


@pytest.mark.parametrize("size", [200_000, transfer.SMALL + 200_000])
def test_full_disk_leaves_no_partial_download(lake: LakeFS, tmp_path: Path, size: int) -> None:
    file = random_file(tmp_path, size)
    source, cache = LakePath(lake.repo, publish_file(lake, file), "data/x"), tmp_path / "cache"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # limits the file size, as on a full disk
    try:
        with pytest.raises(
            AppError, match=r"1 file could not be downloaded; run again to continue:\n  data/x: .*too large"
        ):
            lake.download(source, cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    assert file_sha256(lake.verified_file(source, file.sha256, cache)) == file.sha256


def download_slowly(
    lake: LakeFS, server: Server, source: LakePath, cache: Path, most: int = 1000
) -> subprocess.Popen[bytes]:
    """Start a process that downloads one megabyte per 0.1 s, and stops for good after `most` megabytes."""
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom utils.lakefs_client import transfer\n"
        "from utils.lakefs_utils import LakeFS, LakePath\n"
        "read = transfer.Transfer.read\n"
        "def slow(*arguments):\n    for number, chunk in enumerate(read(*arguments), 1):\n        yield chunk\n"
        f"        time.sleep(0.1 if number < {most} else 3600)\n"
        "transfer.Transfer.read = slow\nendpoint, key, secret, repo, ref, cache = sys.argv[1:]\n"
        "LakeFS(endpoint, key, secret, repo, 'main').download(LakePath(repo, ref, 'data/'), Path(cache))\n"
    )
    words = [server.endpoint, server.access_key_id, server.secret_access_key, lake.repo, source.ref, str(cache)]
    return subprocess.Popen([sys.executable, "-c", program, *words], cwd=SOURCE)


def wait_for_megabytes(cache: Path, file: LocalFile, count: int) -> Path:
    part, end = cache / "sha256" / f".{file.sha256}.part", time.monotonic() + 300
    while not part.exists() or part.stat().st_size < count << 20:
        assert time.monotonic() < end
        time.sleep(0.02)
    return part


@pytest.mark.parametrize("damage", ["", "a changed byte", "too long", "all there"])
def test_download_resumes_after_a_kill(lake: LakeFS, lakefs_server: Server, tmp_path: Path, damage: str) -> None:
    file, cache = random_file(tmp_path, transfer.SMALL + 3_000_000), tmp_path / "cache"
    source = LakePath(lake.repo, publish_file(lake, file), "data/")
    process = download_slowly(lake, lakefs_server, source, cache, most=4)
    part = wait_for_megabytes(cache, file, 3)
    process.kill()
    process.wait()
    with part.open("r+b") as stream:
        if damage == "a changed byte":
            stream.write(bytes([file.path.read_bytes()[0] ^ 1]))
        elif damage:
            stream.write(file.path.read_bytes() + (b"more" if damage == "too long" else b""))
    had, begun, real = part.stat().st_size, list[int](), lake.connection.transfer._read_from

    def recorded(repo: str, ref: str, path: str, link: str | None, offset: int, stop: int | None) -> Iterator[bytes]:
        begun.append(offset)
        return real(repo, ref, path, link, offset, stop)

    lake.connection.transfer._read_from = recorded  # type: ignore[method-assign]
    tree = lake.download(source, cache)
    assert begun == {"": [had], "a changed byte": [had, 0], "too long": [0], "all there": []}[damage]
    assert had > 2 << 20 and file_sha256(tree / "data/x") == file.sha256 and not list(cache.rglob("*.part"))
    assert tree.joinpath("data/x").stat().st_mode & 0o777 == 0o444


def test_concurrent_downloads_of_one_file_do_not_interfere(lake: LakeFS, lakefs_server: Server, tmp_path: Path) -> None:
    file, cache = random_file(tmp_path, transfer.SMALL + 3_000_000), tmp_path / "cache"
    source = LakePath(lake.repo, publish_file(lake, file), "data/")
    process = download_slowly(lake, lakefs_server, source, cache)
    wait_for_megabytes(cache, file, 1)
    process.send_signal(signal.SIGSTOP)  # so that it does not complete first
    tree = lake.download(source, cache)
    assert file_sha256(tree / "data/x") == file.sha256 and process.poll() is None
    process.send_signal(signal.SIGCONT)
    assert process.wait(300) == 0 and file_sha256(tree / "data/x") == file.sha256
    assert not list(cache.rglob("*.part"))


def test_old_partial_files_are_removed(lake: LakeFS, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / "sha256").mkdir(parents=True)
    old, new = cache / f"sha256/.{'0' * 64}.{'1' * 32}.part", cache / f"sha256/.{'2' * 64}.part"
    for path in (old, new):
        path.write_bytes(b"beginning")
    os.utime(old, (1_000_000, 1_000_000))
    lake.download(LakePath(lake.repo, publish_file(lake, random_file(tmp_path, 10)), "data/"), cache)
    assert not old.exists() and new.exists()


def test_pull_continues_after_a_full_disk(lake: LakeFS, tmp_path: Path) -> None:
    settings = config.load_settings(data_dir=tmp_path / "data", lakefs_local_dir=tmp_path / "local")
    files = {"large": random_file(tmp_path, 200_000), "small": random_file(tmp_path, 100)}
    lake.publish(files, "data/", "m", {}, mirror=True)
    sync.pull(settings, lake, "main", force=False)
    before = (settings.data_dir / "large").read_bytes()
    files = {"large": random_file(tmp_path, 200_000), "small": random_file(tmp_path, 100)}
    source = LakePath(lake.repo, lake.publish(files, "data/", "m", {}, mirror=True).commit_id, "data/")
    lake.download(source, tmp_path / "local/cache")  # before the limit is set
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        with pytest.raises(
            AppError, match=r"1 file could not be written; run again to continue:\n  .*/large: .*too large"
        ):
            sync.pull(settings, lake, "main", force=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert (settings.data_dir / "large").read_bytes() == before and not list(settings.data_dir.rglob("*.part"))
    with pytest.raises(UsageError, match="was interrupted: run"):
        push.push(settings, lake, None, "default")
    sync.pull(settings, lake, "main", force=False)
    assert {name: file_sha256(settings.data_dir / name) for name in files} == {n: f.sha256 for n, f in files.items()}


def test_object_path_outside_the_directory_is_refused(lake: LakeFS, tmp_path: Path) -> None:
    lake.connection.sdk.objects_api.upload_object(lake.repo, "main", "data/../../../../../evil", content=b"evil")
    lake.connection.sdk.commits_api.commit(lake.repo, "main", sdk.CommitCreation(message="theirs"))
    with pytest.raises(AppError, match=r"refused the server's response: object path: .*evil"):
        lake.download(LakePath(lake.repo, lake.head(), "data/"), tmp_path / "a/b/cache")
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.parametrize("named", [False, True])
def test_large_file_transfer_uses_bounded_memory(lakefs_server: Server, tmp_path: Path, named: bool) -> None:
    """The embedded server inside the process, or a separate one; the file is sparse and needs no disk space at first.

    TEST_LARGE_MB=1024 transfers a gigabyte in about 30 seconds; the memory limit is below both sizes.
    """
    if not named and lakefs_server.kind == "real":
        pytest.skip("the embedded server was tested already")
    megabytes = os.environ.get("TEST_LARGE_MB", "256")
    program = (
        "import re, sys\nfrom pathlib import Path\nimport config\nfrom core.hashing import file_sha256\n"
        "from utils.lakefs_utils import LakePath, connect\nfrom utils.lakefs_client.content import LocalFile\n"
        "root = Path(sys.argv[1])\nfile = root / 'file'\n"
        "with file.open('wb') as stream:\n    stream.truncate(int(sys.argv[2]) << 20)\n"
        "names = 'endpoint', 'access_key_id', 'secret_access_key', 'storage_namespace'\n"
        "server = {f'lakefs_{name}': value for name, value in zip(names, sys.argv[3:])} or {'lakefs_endpoint': None}\n"
        "settings = config.load_settings(lakefs_local_dir=root / 'store', **server)\n"
        "with connect(settings, create=True) as lake:\n"
        "    local = LocalFile(file, file_sha256(file))\n"
        "    commit = lake.publish({'x': local}, 'data/', 'm', {}, mirror=True).commit_id\n"
        "    tree = lake.download(LakePath(lake.repo, commit, 'data/x'), root / 'cache')\n"
        "assert (tree / 'data/x').stat().st_size == int(sys.argv[2]) << 20\n"
        # Peak of this process only: ru_maxrss starts at the value of the parent process.
        "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith(OWN_NAMES)}
    command = [sys.executable, "-c", program, str(tmp_path / "run"), megabytes]
    if named:
        keys = lakefs_server.access_key_id, lakefs_server.secret_access_key
        command += [lakefs_server.endpoint, *keys, lakefs_server.storage_namespace]
    (tmp_path / "run").mkdir()
    done = subprocess.run(command, cwd=SOURCE, env=clean, capture_output=True, text=True, timeout=600)
    shutil.rmtree(tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 250_000, "kilobytes"
