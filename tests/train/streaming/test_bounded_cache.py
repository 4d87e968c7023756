"""The cache of streamed files: its limit, which files stay, kills at any moment, several processes."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from train.loading import decoded_cache
from versioning.streaming import disk
from versioning.streaming.disk import BoundedCache, bounded_cache, decoded_bytes, make_room

SIZE = 1000  # bytes of a file


def content(number: int) -> bytes:
    return number.to_bytes(4, "big") * (SIZE // 4)


def key(number: int) -> str:
    return hashlib.sha256(content(number)).hexdigest()


def offer(cache: BoundedCache, number: int, next_use: int | None) -> None:
    cache.offer(key(number), content(number), next_use)


def kept(cache: BoundedCache, numbers: range) -> list[int]:
    return [number for number in numbers if cache.read(key(number)) is not None]


def bytes_on_disk(folder: Path) -> int:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("files.db")]
    return sum(path.stat().st_size for path in files)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[BoundedCache]:
    cache = BoundedCache(tmp_path, 4 * SIZE, "a")
    yield cache
    cache.close()


def test_file_that_is_used_last_gives_way(cache: BoundedCache) -> None:
    for number, next_use in enumerate([50, 10, 40, 20]):
        offer(cache, number, next_use)
    offer(cache, 4, 30)
    assert kept(cache, range(5)) == [1, 2, 3, 4]
    offer(cache, 5, 60)
    offer(cache, 6, None)
    assert kept(cache, range(7)) == [1, 2, 3, 4], "none is used later than these"
    cache.plan([(key(1), 99)])
    offer(cache, 5, 60)
    assert kept(cache, range(7)) == [2, 3, 4, 5]


def test_hits_are_those_of_the_best_possible_cache(tmp_path: Path) -> None:
    """Of epochs in random order through a quarter of the files; Belady's rule, computed independently."""
    count, room, epochs = 40, 10, 6
    orders = [np.random.default_rng((0, epoch)).permutation(count).tolist() for epoch in range(epochs + 1)]
    sequence = [number for order in orders for number in order]

    def following(position: int) -> int:
        return sequence.index(sequence[position], position + 1)

    cache, hits, held, best = BoundedCache(tmp_path, room * SIZE, "a"), 0, dict[int, int](), 0
    for position in range(epochs * count):
        number, next_use = sequence[position], following(position)
        if cache.read(key(number)) is not None:
            hits += 1
            cache.plan([(key(number), next_use)])
        else:
            offer(cache, number, next_use)
        best += number in held
        held[number] = next_use
        if len(held) > room:
            del held[max(held, key=held.__getitem__)]
    cache.close()
    assert hits == best >= (epochs - 1) * room


def test_decoded_images_count(cache: BoundedCache, tmp_path: Path) -> None:
    for number in range(4):
        offer(cache, number, number)
    with cache.reserving(3 * SIZE) as free:
        assert free
        (tmp_path / ".x.pictures.part").write_bytes(bytes(3 * SIZE))
    assert kept(cache, range(4)) == [0] and decoded_bytes(tmp_path) == 3 * SIZE
    with cache.reserving(2 * SIZE) as free:
        assert not free
    offer(cache, 4, 5)
    assert bytes_on_disk(tmp_path) <= 4 * SIZE
    offer(cache, 5, None)
    assert bytes_on_disk(tmp_path) <= 4 * SIZE


@pytest.mark.parametrize("failure", ["no room", "full disk"])
def test_files_that_made_room_in_vain_can_be_kept_again(
    cache: BoundedCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    """Their entries are removed with them: they would keep the room and keep out the files themselves."""
    for number in range(4):
        offer(cache, number, number)
    part = tmp_path / ".x.pictures.0.part"
    if failure == "no room":
        with pytest.raises(decoded_cache._NoRoom):
            decoded_cache._reserve(part, 5 * SIZE, cache)
    else:
        with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
            patch.setattr(Path, "open", raise_full)
            decoded_cache._reserve(part, 4 * SIZE, cache)
    assert kept(cache, range(4)) == [] and bytes_on_disk(tmp_path) == 0
    for number in range(4):
        offer(cache, number, number)
    assert kept(cache, range(4)) == [0, 1, 2, 3]


def raise_full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "full")


def test_damaged_file_is_dropped(cache: BoundedCache, capsys: pytest.CaptureFixture[str]) -> None:
    offer(cache, 1, 1)
    path = cache._path(key(1))
    path.write_bytes(b"x" + path.read_bytes()[1:])
    assert cache.read(key(1)) is None and not path.exists()
    assert "damaged in the cache" in capsys.readouterr().err
    offer(cache, 1, 1)
    assert kept(cache, range(2)) == [1]


def test_trainings_share_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "LIVE_S", 0.0)
    first, second = (BoundedCache(tmp_path, 4 * SIZE, name) for name in ("a", "b"))
    for number in range(6):
        offer(first, number, number)
    assert len(kept(first, range(6))) == 4
    for number in range(10, 16):
        offer(second, number, number)
        assert bytes_on_disk(tmp_path) <= 4 * SIZE
    assert kept(first, range(6)) == [0, 1] and kept(second, range(10, 16)) == [10, 11], "half of the room each"
    first.close()
    for number in range(12, 16):
        offer(second, number, number)
    assert kept(second, range(20)) == [10, 11, 12, 13], "the room of a training that has ended"
    second.close()


def test_files_of_an_earlier_run_are_used_and_give_way(tmp_path: Path) -> None:
    for name, numbers in (("a", range(4)), ("b", range(4, 6))):
        cache = BoundedCache(tmp_path, 4 * SIZE, name)
        cache.plan([(key(0), 7)])
        for number in numbers:
            offer(cache, number, number)
        cache.close()
    with bounded_cache(tmp_path, 4 * SIZE) as cache_after:
        assert cache_after is not None
        assert len(kept(cache_after, range(6))) == 4 and set(kept(cache_after, range(6))) >= {0, 4, 5}


@pytest.mark.parametrize("moment", ["entry without file", "partial file", "file without entry", "damaged database"])
def test_leftovers_of_a_kill_never_exceed_the_limit(tmp_path: Path, moment: str) -> None:
    cache = BoundedCache(tmp_path, 4 * SIZE, "a")
    for number in range(4):
        offer(cache, number, number)
    path = cache._path(key(0))
    match moment:
        case "entry without file":
            path.unlink()
        case "partial file":
            writer = f"a.{secrets.token_hex(8)}"
            path.rename(cache._part(key(0), writer))
            cache._db.execute("UPDATE files SET writer = ? WHERE sha256 = ?", (writer, key(0)))
        case "file without entry":
            cache._db.execute("DELETE FROM files WHERE sha256 = ?", (key(0),))
    cache.close()
    if moment == "damaged database":
        (tmp_path / "files/files.db").write_bytes(b"x" * 5000)
    again = BoundedCache(tmp_path, 4 * SIZE, "b")
    assert bytes_on_disk(tmp_path) <= 3 * SIZE and len(kept(again, range(4))) in (0, 3)
    for number in range(10, 15):
        offer(again, number, number)
    assert bytes_on_disk(tmp_path) == 4 * SIZE and len(kept(again, range(20))) == 4
    again.close()


def test_file_that_is_being_written_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise its writer would add it to the disk after its room has been given away."""
    cache, write = BoundedCache(tmp_path, 2 * SIZE, "a"), BoundedCache._write

    def offer_others(self: BoundedCache, sha256: str, content: bytes) -> None:
        monkeypatch.setattr(BoundedCache, "_write", write)
        for number in range(1, 4):
            offer(cache, number, number)
        write(self, sha256, content)

    monkeypatch.setattr(BoundedCache, "_write", offer_others)
    offer(cache, 0, 99)
    assert bytes_on_disk(tmp_path) == 2 * SIZE and kept(cache, range(4)) == [0, 1]
    cache.close()


def test_smaller_limit_holds_at_once(tmp_path: Path) -> None:
    """Of an earlier run with a larger limit, streamed files and decoded images are left."""
    cache = BoundedCache(tmp_path, 9 * SIZE, "a")
    for number in range(4):
        offer(cache, number, number)
    cache.close()
    for name, age in (("old", 100), ("new", 10)):
        path = tmp_path / f"{name}.pictures"
        path.write_bytes(bytes(2 * SIZE))
        os.utime(path, (time.time() - age, time.time() - age))
    make_room(tmp_path, 4 * SIZE)
    assert [path.name for path in tmp_path.glob("*.pictures")] == ["new.pictures"]
    again = BoundedCache(tmp_path, 4 * SIZE, "b")
    assert bytes_on_disk(tmp_path) == 4 * SIZE and len(kept(again, range(4))) == 2
    again.close()
