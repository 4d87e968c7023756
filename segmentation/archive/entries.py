"""The zip layer of an archive: which entries it has, and where their bytes lie in the file."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from core.i18n import tr

MAX_DIRECTORY = 4 << 20  # bytes of the zip directory: about 57,000 entries as torch.save names them
LOCAL_HEADER = 30  # bytes before the name of an entry
ENCRYPTED = 0x1  # bit of an entry's flags
PICKLE = "data.pkl"
UInt8 = npt.NDArray[np.uint8]


class _DirectoryStream:
    """The file as zipfile reads its directory: no read is larger than `MAX_DIRECTORY`, whatever the file declares."""

    def __init__(self, stream: BinaryIO) -> None:
        self.seek, self.tell, self._read = stream.seek, stream.tell, stream.read
        self.seekable = stream.seekable

    def read(self, count: int = -1) -> bytes:
        content = self._read(MAX_DIRECTORY + 1 if count is None or count < 0 else min(count, MAX_DIRECTORY + 1))
        if len(content) > MAX_DIRECTORY:
            raise ValueError(tr("the archive's directory is larger than {limit:,} bytes", limit=MAX_DIRECTORY))
        return content


@dataclass(frozen=True)
class Entries:
    """The entries of an archive whose layout was checked; names are those below its directory, such as `data/0`."""

    stream: BinaryIO
    _entries: dict[str, zipfile.ZipInfo]
    _starts: dict[str, int]  # name -> offset of its content

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def size(self, name: str) -> int:
        """Return the size in bytes, which lie in the file."""
        return self._entries[name].file_size

    def read_into(self, name: str, target: UInt8) -> None:
        """Read the content into an array (size,). Raises ValueError if its checksum (CRC-32) differs."""
        entry = self._entries[name]
        self.stream.seek(self._starts[name])
        view = target.data
        done = 0
        while done < len(view):
            count = self.stream.readinto(view[done:])  # type: ignore[attr-defined]  # BinaryIO lacks it
            if not count:
                raise ValueError(tr("the file is incomplete"))
            done += count
        if zlib.crc32(view) != entry.CRC:
            raise ValueError(tr("entry {name}: the CRC-32 differs: the file is damaged", name=shown(name)))

    def read(self, name: str) -> bytes:
        """Return the content, checked as in `read_into`."""
        target = np.empty(self.size(name), np.uint8)
        self.read_into(name, target)
        return target.tobytes()


def read_entries(stream: BinaryIO) -> Entries:
    """Check an archive's layout. Raises ValueError for one that torch.save does not write.

    That is another format, or entries that are compressed, encrypted, doubled, overlapping or outside of the file: a
    small file could declare terabytes.
    """
    stream.seek(0)
    if stream.read(4) != b"PK\x03\x04":
        raise ValueError(tr("not an archive of torch.save"))
    length = stream.seek(0, 2)
    with zipfile.ZipFile(_DirectoryStream(stream)) as archive:
        infos, comment = archive.infolist(), archive.comment
    if comment:
        raise ValueError(tr("not an archive of torch.save"))
    _require_plain(infos, length)
    starts = {info.filename: start for info, start in _content_places(stream, infos, length)}
    folder = _folder_of(starts)
    return Entries(
        stream,
        {info.filename.removeprefix(folder): info for info in infos},
        {name.removeprefix(folder): start for name, start in starts.items()},
    )


def _require_plain(infos: list[zipfile.ZipInfo], length: int) -> None:
    packed = [info.filename for info in infos if info.compress_type != zipfile.ZIP_STORED]
    declared = sum(info.file_size for info in infos)
    if packed or declared > length:
        raise ValueError(
            tr(
                "entries declare {declared:,} bytes in a file of {count:,}, compressed: {packed}",
                declared=declared,
                count=length,
                packed=[shown(name) for name in packed[:3]],
            )
        )
    strange = next(
        (i.filename for i in infos if i.flag_bits & ENCRYPTED or i.file_size != i.compress_size or i.is_dir()), None
    )
    if strange is not None:
        raise ValueError(tr("entry {name}: not one of torch.save", name=shown(strange)))
    if len({info.filename for info in infos}) != len(infos):
        raise ValueError(tr("an entry occurs twice"))


def _content_places(
    stream: BinaryIO, infos: list[zipfile.ZipInfo], length: int
) -> Iterator[tuple[zipfile.ZipInfo, int]]:
    """Yield where the content of each entry starts. Raises ValueError for one that overlaps another or the file's end."""
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        stream.seek(info.header_offset)
        header = stream.read(LOCAL_HEADER)
        if info.header_offset < end or len(header) < LOCAL_HEADER or header[:4] != b"PK\x03\x04":
            raise ValueError(tr("entry {name}: not where the directory says", name=shown(info.filename)))
        name_and_extra = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        start = info.header_offset + LOCAL_HEADER + name_and_extra
        end = start + info.file_size
        if end > length:
            raise ValueError(tr("entry {name}: not where the directory says", name=shown(info.filename)))
        yield info, start


def _folder_of(names: dict[str, int]) -> str:
    """Return the directory that all entries are in, with its '/'. Raises ValueError."""
    folders = {name.partition("/")[0] for name in names}
    folder = f"{folders.pop()}/" if len(folders) == 1 else ""
    if not folder or folder + PICKLE not in names:
        raise ValueError(tr("not an archive of torch.save"))
    return folder


def shown(value: object) -> str:
    """Return a stranger's text for a message: at most 60 characters, control characters escaped."""
    text = str(value)[:61] if isinstance(value, str | int | float | bool) else type(value).__name__
    text = text.encode("unicode_escape").decode() if not text.isprintable() else text
    return text if len(text) <= 60 else text[:57] + "..."
