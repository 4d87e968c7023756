"""Files of a commit that are read from lakeFS while training: verified, renewed, retried; the check is kept."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import config
from core.errors import AppError
from core.hashing import file_sha256
from core.threads.workers import WORKERS
from dataset.data import SegmentationData
from dataset.directory import data_files
from dataset.sources.synthetic import generate_sample
from dataset.validation import check_data
from tests.support.faults import Faults, fault_proxy
from tests.support.servers import Server
from train.loading.loader import SegmentationDataset, measure_normalisation, normalisation_of
from train.loading.prefetch import count_readers, decode_ahead
from train.loading.split import Split
from train.setup import prepare_training
from utils.identifiers import Sha256
from utils.lakefs_client.content import LocalFile
from utils.lakefs_client.http import HttpClient
from utils.lakefs_utils import LakeFS
from versioning.checkout import checked_data
from versioning.streaming.files import StreamedFiles

pytestmark = pytest.mark.usefixtures("quick_retries")


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sample")
    generate_sample(root, seed=0, count=12)
    return root


@pytest.fixture
def storage(
    faulty_lake: tuple[LakeFS, Faults], lakefs_server: Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Faults]:
    """Faults between the client and what the content comes from: the object storage, or the server itself."""
    if lakefs_server.storage is None:
        yield faulty_lake[1]
        return
    endpoint, request = lakefs_server.storage.endpoint, HttpClient.request
    with fault_proxy(endpoint) as faults:

        def request_via_faults(self: HttpClient, method: str, url: str, *arguments: Any, **options: Any) -> Any:
            return request(self, method, url.replace(endpoint, faults.endpoint), *arguments, **options)

        monkeypatch.setattr(HttpClient, "request", request_via_faults)
        yield faults


def settings_of(lake: LakeFS, folder: Path, limit: float = 0, **changes: Any) -> config.Settings:
    return config.load_settings(
        lakefs_repo=lake.repo, lakefs_local_dir=folder / "local", picture_cache_gb=limit / 1e9, **changes
    )


def publish(lake: LakeFS, root: Path) -> str:
    files = {name: LocalFile(path, file_sha256(path)) for name, path in data_files(root).items()}
    return lake.publish(files, "data/", "m", {}, mirror=True).commit_id


def streamed(lake: LakeFS, commit: str, folder: Path, limit: float = 0) -> tuple[SegmentationData, StreamedFiles]:
    data = checked_data(settings_of(lake, folder, limit), lake, commit)[1]
    assert isinstance(data.source, StreamedFiles)
    return data, data.source


def read_all(data: SegmentationData) -> None:
    for pair in data.pairs:
        for path, sha256 in ((pair.image, pair.image_sha256), (pair.mask, pair.mask_sha256)):
            assert data.source.read(path, sha256)


def test_check_gives_the_same_data_and_is_kept(
    faulty_lake: tuple[LakeFS, Faults], sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake, faults = faulty_lake
    commit = publish(lake, sample)
    downloaded = checked_data(settings_of(lake, tmp_path / "whole", 1e9), lake, commit)[1]
    assert "streaming" not in capsys.readouterr().out
    found, source = streamed(lake, commit, tmp_path)
    assert "through a cache of 0 bytes" in capsys.readouterr().out.replace("0 B ", "0 bytes ")
    assert found.classes == downloaded.classes and found.pixel_counts == downloaded.pixel_counts
    assert found.warnings == downloaded.warnings and found.groups == downloaded.groups
    same = [dataclasses.replace(pair, image=Path(), mask=Path()) for pair in found.pairs]
    assert same == [dataclasses.replace(pair, image=Path(), mask=Path()) for pair in downloaded.pairs]
    assert source.hashes() == {name: file_sha256(path) for name, path in data_files(sample).items()}
    assert not [path for path in (tmp_path / "local").rglob("*.png")]

    capsys.readouterr()
    faults.requests.clear()
    again, _ = streamed(lake, commit, tmp_path)
    assert again.pairs == found.pairs and again.pixel_counts == found.pixel_counts
    assert again.warnings == found.warnings and again.reading == found.reading
    assert not [line for line in faults.requests if "/objects?path" in line], "no file is read for the second check"


def test_object_of_another_content_is_an_error(
    faulty_lake: tuple[LakeFS, Faults], sample: Path, tmp_path: Path, storage: Faults
) -> None:
    lake, _ = faulty_lake
    commit = publish(lake, sample)
    data, source = streamed(lake, commit, tmp_path)
    pair = data.pairs[0]
    remote = source.files[pair.image]
    source.files[pair.image] = dataclasses.replace(remote, sha256=Sha256(file_sha256(Path(__file__))))
    storage.requests.clear()
    with pytest.raises(AppError, match=f"{remote.path}: checksum mismatch .expected .*, found {remote.sha256}"):
        source.read(pair.image)
    assert len(storage.requests) == 1, "a wrong hash is not retried"
    source.files[pair.image] = dataclasses.replace(remote, sha256=None)
    with pytest.raises(AppError, match=f"{remote.path}: SHA-256 {remote.sha256}, expected {pair.mask_sha256}"):
        source.read(pair.image, pair.mask_sha256)


def test_broken_connections_and_busy_servers_are_retried(
    faulty_lake: tuple[LakeFS, Faults], sample: Path, tmp_path: Path, storage: Faults
) -> None:
    lake, _ = faulty_lake
    commit = publish(lake, sample)
    data, _ = streamed(lake, commit, tmp_path)
    storage.match, storage.cut_downloads, storage.statuses = "GET ", [0, 100, 900, 0, 3000], [503, 429]
    read_all(data)
    assert storage.cut_downloads == [] and storage.statuses == []


def test_expired_link_is_renewed(
    faulty_lake: tuple[LakeFS, Faults], sample: Path, tmp_path: Path, storage: Faults
) -> None:
    lake, server = faulty_lake
    if not lake.connection.transfer.presign_support()[0]:
        pytest.skip("this server offers no presigned links")
    data, source = streamed(lake, publish(lake, sample), tmp_path)
    storage.match = "GET "
    server.requests.clear()
    for pair in data.pairs[:2]:
        storage.statuses = [403]
        source.read(pair.image, pair.image_sha256)
        assert storage.statuses == []
    assert len([line for line in server.requests if "/objects/stat?" in line]) == 2
    assert not [line for line in server.requests if "/objects?path" in line], "content comes from the storage"

    server.requests.clear()
    for path, remote in source.files.items():
        if remote.link is not None and remote.link_expiry is not None:
            source.files[path] = dataclasses.replace(remote, link_expiry=1)
    source.read(data.pairs[0].image)
    assert len([line for line in server.requests if "/objects/stat?" in line]) == 1, "before it is used"


def test_files_are_read_ahead_by_several_threads_in_order(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = check_data(sample, 0)
    split = Split(data.pairs, data.classes, (32, 32), False, data.reading)
    names, real = set[str](), Split.read

    def read(self: Split, index: int, next_use: int | None = None) -> tuple[bytes, bytes]:
        names.add(threading.current_thread().name)
        return real(self, index, next_use)

    monkeypatch.setattr(Split, "read", read)
    order = [3, 1, 2, 0, 7, 3]
    for index, arrays in zip(order, decode_ahead(split, order, threads=2), strict=True):
        assert all(map(lambda a, b: (a == b).all(), arrays, split.decode(index)))
    assert threading.main_thread().name in names and len(names) > 1


def test_normalisation_is_measured_once(
    faulty_lake: tuple[LakeFS, Faults], sample: Path, tmp_path: Path, storage: Faults
) -> None:
    lake, _ = faulty_lake
    data, source = streamed(lake, publish(lake, sample), tmp_path)
    local = check_data(sample, 0)
    of_files = SegmentationDataset(local.split("train"), data.classes, (32, 32), False, data.reading)
    images = SegmentationDataset(data.split("train"), data.classes, (32, 32), False, data.reading, source)
    assert normalisation_of(images, tmp_path) == measure_normalisation(of_files)
    storage.requests.clear()
    assert normalisation_of(images, tmp_path) == measure_normalisation(of_files) and storage.requests == []


def test_threads_that_read_large_files_are_few(sample: Path) -> None:
    data = check_data(sample, 0)
    split = Split(data.pairs, data.classes, (32, 32), False, data.reading)
    size = max(pair.image.stat().st_size + pair.mask.stat().st_size for pair in data.pairs)
    assert [count_readers(split, count * size) for count in (0, 5, 1000)] == [2, 5, WORKERS]


def test_decoded_images_share_the_limit_with_downloaded_files(
    lake: LakeFS, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commit fits and is downloaded; what it leaves is too little for the decoded images."""
    commit = publish(lake, sample)
    files = sum(path.stat().st_size for name, path in data_files(sample).items() if name.endswith(".png"))
    for more, fits in ((10_000, False), (70_000, True)):
        own = {"model_path": tmp_path / "m.pth", "device": "cpu", "image_size": (32, 32)}
        settings = settings_of(lake, tmp_path, files + more, **own)
        data = checked_data(settings, lake, commit)[1]
        assert not data.source.streamed
        setup = prepare_training(settings, data)
        assert (setup.train_images.decoded is not None) == fits
        assert ("each epoch reads the files (PICTURE_CACHE_GB: 9.8 KB)" in capsys.readouterr().out) != fits


def test_objects_of_other_clients_are_read(faulty_lake: tuple[LakeFS, Faults], tmp_path: Path) -> None:
    """Objects without a recorded SHA-256 are compared by their MD5; their hash is learned by the check."""
    lake, _ = faulty_lake
    root = tmp_path / "data"
    generate_sample(root, seed=0, count=12)
    lake.ensure_repository(settings_of(lake, tmp_path))
    for name, path in data_files(root).items():
        headers = {"Content-Type": "application/octet-stream"}
        assert lake.connection.transfer.post_raw(lake.repo, "main", f"data/{name}", path, headers).status == 201
    import lakefs_sdk

    commit = lake.connection.sdk.commits_api.commit(lake.repo, "main", lakefs_sdk.CommitCreation(message="m")).id
    data, source = streamed(lake, commit, tmp_path, limit=50_000)
    assert source.hashes() == {name: file_sha256(path) for name, path in data_files(root).items()}
    read_all(data)
